"""Point 8: opening a store of ten thousand shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import actstore
from actstore.storage.manifest import Run, now
from actstore.storage.rows import RowBatch
from actstore.storage.writer import StoreWriter
from benchmarks.corpus import MODEL, Corpus
from benchmarks.measure import Outcome, interleaved

_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


def run(corpus: Corpus) -> list[Outcome]:
    """Open the store, and open it and read one vector."""
    path = _store(corpus)

    def open_only() -> object:
        with actstore.open(path) as store:
            return store.rows

    def open_and_read() -> object:
        with actstore.open(path) as store:
            return store.select(layer=3, site="mlp_out").numpy()

    times = interleaved({"open": open_only, "open and read": open_and_read}, rounds=5)
    with actstore.open(path) as store:
        shards = len({*store.layers}) * len(store.sites)
    return [
        Outcome(
            point=8,
            what=f"{name} a store of {shards:,} shards",
            value=times.median(name),
            unit=" s",
            at_most=1,
            note=times.note(name),
        )
        for name in ("open", "open and read")
    ]


def _store(corpus: Corpus) -> Path:
    path = corpus.folder / "many"
    if path.exists():
        return path
    layers = 20 if corpus.quick else 2_000
    vectors = np.ones((len(_SITES), 16), np.float16)
    with StoreWriter(path, run=Run(run_id="s", kind="benchmark", started_at=now())) as writer:
        for layer in range(layers):
            constants = {"model": MODEL, "example_id": "1", "layer": layer, "pooling": "last"}
            batch = RowBatch(vectors=vectors, constants=constants, columns={"site": _SITES})
            writer.add(batch)
        writer.commit(operation="ingest", message="benchmark")
    return path
