"""The data of all benchmarks: the same bytes as a store and in each peer's own format."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from actstore.storage.manifest import Run, now
from actstore.storage.rows import RowBatch
from actstore.storage.writer import StoreWriter

MODEL = "llava-hf/llava-1.5-7b-hf"
LABELS = ("correct", "incorrect", None)
FloatType = Literal["float16", "float32"]


@dataclass(frozen=True)
class Corpus:
    """Random vectors ``[layers, examples, width]`` with metadata, made once per folder.

    Peers get files of their own making, with the settings that suit this use best. Where a
    benchmark reads one layer, a peer's file holds that layer alone.
    """

    folder: Path
    quick: bool = False
    examples: int = 1004
    layers: int = 31
    width: int = 4096

    @property
    def large(self) -> Corpus:
        """One layer that no processor cache holds."""
        folder = self.folder / "large"
        folder.mkdir(exist_ok=True)
        return replace(self, folder=folder, examples=512 if self.quick else 16_384, layers=1)

    @property
    def layer(self) -> int:
        """The layer that benchmarks ask for."""
        return self.layers // 2

    @property
    def rows(self) -> int:
        """Vectors in all."""
        return self.layers * self.examples

    @property
    def rounds(self) -> int:
        """How often short candidates are timed."""
        return 5 if self.quick else 31

    def values(self, layer: int, dtype: FloatType = "float16") -> np.ndarray:
        """Return one layer, ``[examples, width]``."""
        generator = np.random.default_rng(layer)
        values = generator.standard_normal((self.examples, self.width), np.float32)
        return values.astype(np.float16) if dtype == "float16" else values

    def metadata(self) -> dict[str, list[Any]]:
        """Return what differs between the rows of one layer."""
        numbers = range(self.examples)
        return {
            "example_id": [str(number + 1) for number in numbers],
            "example_index": list(numbers),
            "question": [f"Describe image {number}: what is left of it?" for number in numbers],
            "prediction": [f"A picture of {number * 7919 % 1009} things." for number in numbers],
            "label": [LABELS[number % 3] for number in numbers],
            "source": [f"sample_{number:04d}.pt" for number in numbers],
        }

    def batch(self, layer: int, dtype: FloatType = "float16") -> RowBatch:
        """Return one layer as rows for a store."""
        return RowBatch(
            vectors=self.values(layer, dtype),
            constants=self.constants(layer),
            columns=self.metadata(),
        )

    def constants(self, layer: int) -> dict[str, Any]:
        """Return what all rows of one layer share."""
        return {
            "model": MODEL,
            "dataset": "AMBER",
            "layer": layer,
            "site": "features",
            "pooling": "unknown",
        }

    def table(self, layer: int, dtype: FloatType = "float16") -> pa.Table:
        """Return one layer as Arrow, for the peers."""
        values = pa.array(self.values(layer, dtype).reshape(-1))
        element = pa.field("element", values.type, nullable=False)
        vectors = pa.FixedSizeListArray.from_arrays(values, type=pa.list_(element, self.width))
        shared = {
            name: pa.repeat(pa.scalar(value), self.examples)
            for name, value in self.constants(layer).items()
        }
        table = pa.table({**shared, **self.metadata()})
        return table.append_column(pa.field("activation", vectors.type, nullable=False), vectors)

    def tables(self, dtype: FloatType = "float16") -> pa.Table:
        """Return all rows as Arrow, in the store's order."""
        return pa.concat_tables([self.table(layer, dtype) for layer in range(self.layers)])

    def store(self, dtype: FloatType = "float16") -> Path:
        """Return the store of all rows."""
        path = self.folder / f"store-{dtype}"
        if not path.exists():
            with StoreWriter(path, run=Run(run_id="b", kind="benchmark", started_at=now())) as w:
                for layer in range(self.layers):
                    w.add(self.batch(layer, dtype))
                w.commit(operation="ingest", message="benchmark data")
        return path

    @cached_property
    def npy(self) -> Path:
        """One layer for ``np.load``."""
        path = self.folder / "layer.npy"
        if not path.exists():
            np.save(path, self.values(self.layer))
        return path

    @cached_property
    def all_npy(self) -> Path:
        """All rows for ``np.load(mmap_mode="r")``."""
        path = self.folder / "all.npy"
        if not path.exists():
            layers = [self.values(layer) for layer in range(self.layers)]
            np.save(path, np.concatenate(layers))
        return path

    @cached_property
    def pt(self) -> Path:
        """One layer for ``torch.load``."""
        import torch

        path = self.folder / "layer.pt"
        if not path.exists():
            torch.save(torch.from_numpy(self.values(self.layer)), path)
        return path

    @cached_property
    def safetensors(self) -> Path:
        """One layer for safetensors."""
        from safetensors.numpy import save_file

        path = self.folder / "layer.safetensors"
        if not path.exists():
            save_file({"activation": self.values(self.layer)}, path)
        return path

    @cached_property
    def parquet(self) -> Path:
        """One layer as pyarrow writes it, vectors plain and uncompressed."""
        import pyarrow.parquet as pq

        path = self.folder / "layer.parquet"
        if not path.exists():
            texts = [name for name in self.table(self.layer).column_names if name != "activation"]
            pq.write_table(self.table(self.layer), path, compression="none", use_dictionary=texts)
        return path

    def lance(self, *, one_layer: bool) -> Path:
        """A Lance data set of one layer, or of all rows."""
        import lance

        path = self.folder / ("layer.lance" if one_layer else "all.lance")
        if not path.exists():
            lance.write_dataset(self.table(self.layer) if one_layer else self.tables(), path)
        return path

    def hugging_face(self, *, one_layer: bool) -> Path:
        """A ``datasets`` data set on disk, of one layer or of all rows."""
        import datasets

        path = self.folder / ("layer.datasets" if one_layer else "all.datasets")
        if not path.exists():
            table = self.table(self.layer) if one_layer else self.tables()
            datasets.Dataset(datasets.table.InMemoryTable(table)).save_to_disk(path)
        return path

    def fresh(self, name: str) -> Path:
        """Return a path in the folder where nothing is."""
        path = self.folder / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        return path


def matrix_of(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """Return a vector column as a matrix, without a copy where it is one chunk."""
    chunks = [
        chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for chunk in column.chunks
    ]
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
