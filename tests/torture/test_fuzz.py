"""Damaged and made-up bytes for everything that parses: a result or one of our errors, no more."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import pickle
import random
import shutil
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actstore import resources
from actstore.capturing.prompts import capture_recipes
from actstore.errors import ActstoreError
from actstore.ingestion import containers, recipes, sidecar_table
from actstore.ingestion.containers.parquet import TableSource
from actstore.ingestion.containers.sniffing import sniff
from actstore.ingestion.tensor import Tensor
from actstore.storage import manifest as manifests
from actstore.storage import thrift
from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from actstore.storage.verification import verify
from tests.children import children
from tests.storage.stores import batch, content, write
from tests.torture.effort import TORTURE, attack

SECONDS = float(os.environ.get("ACTSTORE_FUZZ", "20" if TORTURE else "0.3"))
START = int(os.environ.get("ACTSTORE_SEED", "0"))
LONGEST = 30
"""Seconds for one input: whoever needs more stands still."""
NUMBERS = (b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x80" * 9)
WORDS = (b"[" * 4000, b"{" * 4000, b'"', b"1e999", b"-1", b"null", b"..", b"\0", b"9" * 30)


def torch_file(path: Path) -> None:
    import torch

    torch.save({"acts": torch.arange(24.0).reshape(4, 6), "layer": 3, "ids": ["a", "b"]}, path)


def old_torch_file(path: Path) -> None:
    import torch

    torch.save([torch.arange(6)], path, _use_new_zipfile_serialization=False)


def pickle_file(path: Path) -> None:
    rows = {"e1": {"acts": np.arange(12.0).reshape(3, 4), "label": "x"}, "e2": None}
    path.write_bytes(pickle.dumps(rows))


def safetensors_file(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"layer_3": np.ones((2, 4), np.float32)}, path, metadata={"ids": "[1]"})


def npz_file(path: Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, layer_3=np.ones((4, 6)), ids=np.array(["a", "b"]))


def npy_file(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones((4, 6), np.float16))


def table_file(path: Path) -> None:
    pq.write_table(pa.table({"id": ["a", "b"], "vector": [[1.0, 2.0], [3.0, 4.0]]}), path)


def arrow_file(path: Path) -> None:
    table = pa.table({"id": ["a", "b"], "vector": [[1.0, 2.0], [3.0, 4.0]]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def read_as(kind: str) -> Callable[[Path], None]:
    """Return what reads a container to its last byte."""

    def read(path: Path) -> None:
        sniff(path)
        containers.describe(path)
        consume(containers.read(kind, path, memory_limit=64 << 20))

    return read


def consume(node: Any) -> None:
    """Touch every value."""
    if isinstance(node, Tensor):
        node.numpy().sum() if node.dtype[0] in "fiub" else node.numpy()
    elif isinstance(node, TableSource):
        for each in node.batches():
            each.to_pylist()
    elif isinstance(node, dict):
        for item in node.values():
            consume(item)
    elif isinstance(node, list | tuple):
        for item in node:
            consume(item)


def recipe_file(path: Path) -> None:
    path.write_bytes((resources.folder("ingest") / "faithfulness.toml").read_bytes())


def read_recipe(path: Path) -> None:
    recipes.load(path)


def capture_recipe_file(path: Path) -> None:
    path.write_bytes((resources.folder("ingest") / "capture/faithfulness.toml").read_bytes())


def read_capture_recipe(path: Path) -> None:
    capture_recipes.load(path)


def manifest_file(path: Path) -> None:
    shutil.copyfile(store(path.parent / "s") / "manifests" / "0000000003.json", path)


def read_manifest(path: Path) -> None:
    manifests.decode(path.read_bytes(), str(path)).next(operation="", message="", shards=())


def footer(path: Path) -> None:
    shard = next((store(path.parent / "s") / "activations").rglob("*.parquet")).read_bytes()
    length = int.from_bytes(shard[-8:-4], "little")
    path.write_bytes(shard[-8 - length : -8])


def read_footer(path: Path) -> None:
    with contextlib.suppress(ValueError):  # what it promises to its callers, who explain it
        thrift.encode(thrift.decode(path.read_bytes()))


def table_of_labels(path: Path) -> None:
    path.write_text("example_id,label\ne1,x\n" + '"e,2","a ""quoted"" one"\n')


def documents(path: Path) -> None:
    path.write_text(json.dumps({"items": [{"id": "e1", "q": "?"}, {"id": "e2", "n": [1, 2.5]}]}))


def lines(path: Path) -> None:
    path.write_text('{"id": "e1", "q": "?"}\n{"id": "e2", "q": null}\n')


def read_records(path: Path) -> None:
    sidecar_table.read_records(path)


def store(root: Path) -> Path:
    """Make a small store with labels in three commits."""
    if not root.exists():
        write(root, batch(0, 3), batch(0, 2, layer=4, dtype="float32"))
        write(root, batch(3, 2))
        snapshot = open_snapshot(root)
        set_labels(snapshot, np.array([0, 2]), ["x", "y"], message="")
        snapshot.close()
    return root


def part_of_a_store(pattern: str) -> tuple[Callable[[Path], None], Callable[[Path], None]]:
    """Return what takes a file out of a store, and what reads the store with it in its place."""

    def seed(path: Path) -> None:
        root = store(path.parent / "s")
        shutil.copyfile(sorted(root.glob(pattern))[-1], path)

    def read(path: Path) -> None:
        root = path.parent / "s"
        target = sorted(root.glob(pattern))[-1]
        target.write_bytes(path.read_bytes())
        for each in (root / ".cache").glob("*"):
            each.unlink()
        with_errors(lambda: content(root))
        snapshot = open_snapshot(root)
        verify(snapshot)
        snapshot.close()

    return seed, read


def with_errors(work: Callable[[], object]) -> None:
    with contextlib.suppress(ActstoreError):
        work()


TARGETS: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], None]]] = {
    "torch": (".pt", torch_file, read_as("torch")),
    "old torch": (".pt", old_torch_file, read_as("torch")),
    "pickle": (".pkl", pickle_file, read_as("pickle")),
    "safetensors": (".safetensors", safetensors_file, read_as("safetensors")),
    "npz": (".npz", npz_file, read_as("numpy")),
    "npy": (".npy", npy_file, read_as("numpy")),
    "parquet": (".parquet", table_file, read_as("parquet")),
    "arrow": (".arrow", arrow_file, read_as("huggingface")),
    "recipe": (".toml", recipe_file, read_recipe),
    "capture recipe": (".toml", capture_recipe_file, read_capture_recipe),
    "manifest": (".json", manifest_file, read_manifest),
    "thrift": (".bin", footer, read_footer),
    "csv": (".csv", table_of_labels, read_records),
    "json": (".json", documents, read_records),
    "jsonl": (".jsonl", lines, read_records),
    "shard": (".parquet", *part_of_a_store("activations/*/*/layer_003/*.parquet")),
    "overlay": (".parquet", *part_of_a_store("labels/*.parquet")),
    "commit": (".json", *part_of_a_store("manifests/*.json")),
}


def mutants(seed: bytes, draw: random.Random) -> Iterator[bytes]:
    """Yield damaged versions of a file without end: bits, cuts, repeats, numbers and words."""
    while True:
        data = bytearray(seed)
        for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
            at = draw.randrange(len(data) + 1)
            end = min(len(data), at + draw.choice((1, 2, 4, 8, 64, 1024)))
            what = draw.randrange(7)
            if what == 0 and at < len(data):
                data[at] ^= 1 << draw.randrange(8)
            elif what == 1:
                del data[at:]
            elif what == 2:
                del data[at:end]
            elif what == 3:
                data[at:at] = data[at:end] * draw.randrange(1, 4)
            elif what == 4:
                word = draw.choice(NUMBERS)
                data[at : at + len(word)] = word
            elif what == 5:
                data[at:at] = draw.choice(WORDS)
            else:
                other = draw.randrange(len(data) + 1)
                data[at:end] = data[other : other + end - at]
            if not data:
                data = bytearray(b"\0")
        yield bytes(data)


def read_mutants(name: str, folder: Path, seconds: float, start: int) -> None:
    """Read mutants until the time is over; the one that is being read lies in the folder."""
    suffix, make, read = TARGETS[name]
    seed = folder / f"seed{suffix}"
    make(seed)
    read(seed)  # so that what it imports is imported
    path = folder / f"mutant{suffix}"
    end = time.monotonic() + seconds
    endless = mutants(seed.read_bytes(), random.Random(f"{name} {start}"))
    for count, data in enumerate(endless, start=1):
        path.write_bytes(data)
        faulthandler.dump_traceback_later(LONGEST, exit=True)
        with_errors(lambda: read(path))
        faulthandler.cancel_dump_traceback_later()
        (folder / "count").write_text(str(count))
        if time.monotonic() > end:
            return


@pytest.mark.parametrize("name", TARGETS)
def test_a_result_or_one_of_our_errors(name: str, tmp_path: Path) -> None:
    with attack("files of others", f"damaged: {name}") as tally:
        child = children.Process(target=read_mutants, args=(name, tmp_path, SECONDS, START))
        child.start()
        child.join()
        counted = (tmp_path / "count").read_text() if (tmp_path / "count").exists() else "0"
        tally.tries = int(counted)
        assert child.exitcode == 0, f"number {counted} of {tmp_path} ended the process"
        assert tally.tries > 0


def test_what_is_sound_is_read(tmp_path: Path) -> None:
    """The seeds themselves are read, or nothing above would be tested."""
    for name, (suffix, make, read) in TARGETS.items():
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        make(folder / f"seed{suffix}")
        read(folder / f"seed{suffix}")
    assert tomllib.loads((tmp_path / "recipe" / "seed.toml").read_text())["name"]
