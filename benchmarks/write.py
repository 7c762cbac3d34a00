"""Point 5, second half: writing vectors alone, against a raw write and the peers' writers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

import actstore
from actstore.storage.manifest import Run, now
from actstore.storage.writer import StoreWriter
from benchmarks.corpus import Corpus
from benchmarks.measure import Moved, Outcome, check_same, interleaved


def run(corpus: Corpus) -> list[Outcome]:
    """Write all rows from memory, each way to a durable end where it has one."""
    batches = [corpus.batch(layer) for layer in range(corpus.layers)]
    table = corpus.tables()
    names = ("written-store", "written-raw", "written.parquet", "written.lance", "flushed.lance")
    store, raw, parquet, lance, flushed = (corpus.folder / name for name in names)

    def ours() -> None:
        run_ = Run(run_id="b", kind="benchmark", started_at=now())
        with StoreWriter(store, run=run_) as writer:
            for batch in batches:
                writer.add(batch)
            writer.commit(operation="ingest", message="benchmark")

    candidates: dict[str, Callable[[], object]] = {
        "actstore": ours,
        "raw write, fsync": lambda: write_raw(raw, [batch.vectors for batch in batches]),
        "pyarrow": lambda: _pyarrow(table, parquet),
        "Lance": lambda: _lance(table, lance),
        "Lance, flushed": lambda: _lance_flushed(table, flushed),
    }

    def clear() -> None:
        """Remove what was written last, which takes as long as a good part of writing it."""
        for path in (store, raw, parquet, lance, flushed):
            corpus.fresh(path.name)
        os.sync()

    clear()
    for write in candidates.values():  # what is imported, and what the first call of each prepares
        write()
    with actstore.open(store) as written:
        for layer in (0, corpus.layers - 1):
            check_same(
                {"source": batches[layer].vectors, "store": written.select(layer=layer).numpy()}
            )
    times = interleaved(candidates, rounds=3 if corpus.quick else 7, before=clear)
    clear()
    size = sum(batch.vectors.nbytes for batch in batches)
    return [
        Outcome(
            point=5,
            what=f"writing vectors from memory: actstore / {peer}",
            value=times.ratio(peer, "actstore"),
            at_least=at_least,
            note=times.note("actstore", peer),
            moved=Moved(size, times.median("actstore"), "disk") if peer == "Lance" else None,
        )
        for peer, at_least in (
            ("raw write, fsync", 0.6),
            ("pyarrow", 7.0),
            ("Lance", 1.0),
            ("Lance, flushed", None),
        )
    ]


def write_raw(path: Path, blocks: list[np.ndarray]) -> None:
    """Write the bytes of some arrays to one file and flush it to disk."""
    with path.open("wb", buffering=0) as file:
        for block in blocks:
            file.write(block.data)
        os.fsync(file.fileno())


def _pyarrow(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    texts = [name for name in table.column_names if name != "activation"]
    pq.write_table(table, path, compression="none", use_dictionary=texts, write_page_checksum=True)


def _lance(table: pa.Table, path: Path) -> None:
    import lance

    lance.write_dataset(table, path)


def _lance_flushed(table: pa.Table, path: Path) -> None:
    """Write by Lance and flush its files and folders: as durable as what we write is."""
    _lance(table, path)
    for place in (path, *path.rglob("*")):
        descriptor = os.open(place, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
