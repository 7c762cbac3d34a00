"""Each format that a container may have: how a small file of it comes about, and what it holds."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from actstore.ingestion.containers.parquet import TableSource
from actstore.ingestion.tensor import Tensor

Write = Callable[[Path, Any], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One way to write a file, and what every test of all formats needs to know of it."""

    name: str
    kind: str
    """The container that reads it."""
    write: Write
    """Puts a value into a file."""
    content: Any
    """A value with a bit of everything that the format can hold."""
    holds: Any
    """What is read of it, tensors and tables as lists."""
    bulky: Any
    """A value of 1 MB."""
    limited: str = ""
    """What is said where ``bulky`` passes the memory limit; empty where it is not held there."""
    mapped: bool = False
    """Read as a large file is: mapped."""
    prefixes: bool = False
    """A file that is cut off may be read as far as it goes, as a stream is."""
    stride: int = 1
    """One byte in so many is damaged, a different one with each mask; 1 where files are short."""

    def __str__(self) -> str:
        return self.name


def values(found: Any) -> Any:
    """Read all of a container's content: every tensor and every batch."""
    if isinstance(found, Tensor):
        return found.tolist()
    if isinstance(found, TableSource):
        return [row for batch in found.batches() for row in batch.to_pylist()]
    if isinstance(found, dict):
        return {key: values(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [values(value) for value in found]
    return found


def _pickled(protocol: int) -> Write:
    return lambda path, value: path.write_bytes(pickle.dumps(value, protocol))


def _gzipped(path: Path, value: Any) -> None:
    path.write_bytes(gzip.compress(pickle.dumps(value)))


def _saved_legacy(path: Path, value: Any) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def _opened(save: Callable[..., object]) -> Write:
    """Write into an open file, since NumPy adds suffixes to names."""

    def write(path: Path, value: Any) -> None:
        with path.open("wb") as file:
            if isinstance(value, dict):
                save(file, **value)
            else:
                save(file, value)

    return write


def _safetensors(path: Path, value: Any) -> None:
    save_file(value, path, {"a": "b"})


def _arrow(new: Callable[..., Any]) -> Write:
    def write(path: Path, table: pa.Table) -> None:
        with path.open("wb") as file, new(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)

    return write


def _formats() -> Iterator[Format]:
    plain = {"id": "a", "x": torch.ones(3).half(), "n": np.arange(2.0), 5: [1.5, None]}
    holds = {"id": "a", "x": [1, 1, 1], "n": [0, 1], 5: [1.5, None]}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield Format(
            name=f"pickle of protocol {protocol}",
            kind="pickle",
            write=_pickled(protocol),
            content=plain,
            holds=holds,
            bulky=bytes(10**6),
            limited="takes more than the memory limit of 1,000",
        )
    yield Format(
        name="gzipped pickle",
        kind="pickle",
        write=_gzipped,
        content=plain,
        holds=holds,
        bulky=bytes(10**6),
        limited="takes more than the memory limit of 1,000",
    )
    zipped = Format(
        name="torch zip",
        kind="torch",
        write=lambda path, value: torch.save(value, path),
        content={"id": "a", "x": torch.ones(2, 3).half(), 5: [torch.ones(2).bfloat16(), 1.5]},
        holds={"id": "a", "x": [[1, 1, 1], [1, 1, 1]], 5: [[1, 1], 1.5]},
        bulky=torch.zeros(250_000),
        stride=3,  # a zip has many headers that are alike
    )
    yield zipped
    yield replace(zipped, name="mapped torch zip", mapped=True)
    legacy = replace(zipped, name="legacy torch", write=_saved_legacy, stride=1)
    yield legacy
    yield replace(
        legacy,
        name="large legacy torch",
        mapped=True,
        limited="exceed the memory limit of 1,000",
        stride=3,
    )
    for mapped in (False, True):
        before = "mapped " if mapped else ""
        npy = Format(
            name=f"{before}npy",
            kind="numpy",
            write=_opened(np.save),
            content=np.ones((2, 3), np.float16),
            holds=[[1, 1, 1], [1, 1, 1]],
            bulky=np.zeros(10**6, np.uint8),
            mapped=mapped,
            stride=3 if mapped else 1,
        )
        yield npy
        npz = replace(
            npy,
            name=f"{before}npz",
            write=_opened(np.savez),
            content={"x": np.ones((2, 3), np.float16), "y": np.arange(3)},
            holds={"x": [[1, 1, 1], [1, 1, 1]], "y": [0, 1, 2]},
            bulky={"x": np.zeros(10**6, np.uint8)},
        )
        yield npz
        yield replace(
            npz,
            name=f"{before}compressed npz",
            write=_opened(np.savez_compressed),
            limited="memory limit is 1,000",
        )
    yield Format(
        name="safetensors",
        kind="safetensors",
        write=_safetensors,
        content={"x": torch.ones(2, 3).half(), "y": torch.ones(2).bfloat16()},
        holds={"__metadata__": {"a": "b"}, "y": [1, 1], "x": [[1, 1, 1], [1, 1, 1]]},
        bulky={"x": torch.zeros(250_000)},
    )
    table = pa.table(
        {
            "id": ["a", "b", "c"],
            "lists": pa.array([[1.0, 2.0], [3.0], []], pa.list_(pa.float32())),
            "fixed": pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float16(), 2)),
            "large": pa.array([[1.0], [2.0], None], pa.large_list(pa.float32())),
        }
    )
    yield Format(
        name="Parquet",
        kind="parquet",
        write=lambda path, table: pq.write_table(table, path, row_group_size=len(table) - 1),
        content=table,
        holds=table.to_pylist(),
        bulky=pa.table({"a": pa.repeat(pa.scalar(1), 1 << 20)}),
        limited=r"its row group \d+ unfolds to",
        stride=15,
    )
    for name, new in (("Arrow stream", pa.ipc.new_stream), ("Arrow file", pa.ipc.new_file)):
        yield Format(
            name=name,
            kind="huggingface",
            write=_arrow(new),
            content=table,
            holds=table.to_pylist(),
            bulky=pa.table({"a": pa.repeat(pa.scalar(1), 1 << 17)}),
            prefixes=name == "Arrow stream",
            stride=9,
        )


FORMATS: Final = tuple(_formats())
