"""Point 8: SQL over the metadata of a million rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import actstore
from actstore.storage.manifest import Run, now
from actstore.storage.rows import RowBatch
from actstore.storage.writer import StoreWriter
from benchmarks.corpus import LABELS, MODEL, Corpus
from benchmarks.measure import Outcome, interleaved

_LAYERS = 25
_WIDTH = 8
_QUERIES = {
    "count per label and layer": "SELECT label, layer, count(*) FROM activations GROUP BY ALL",
    "mean norm per task where labelled": (
        "SELECT task, avg(norm) FROM activations WHERE label = 'correct' GROUP BY task"
    ),
    "rows of one layer and label": (
        "SELECT row_id FROM activations WHERE layer = 7 AND label = 'incorrect' AND norm > 3"
    ),
}


def run(corpus: Corpus) -> list[Outcome]:
    """Time queries on an open store, fetched to the end."""
    store = actstore.open(_store(corpus))
    outcomes = []
    for what, query in _QUERIES.items():

        def ask(query: str = query) -> object:
            return store.sql(query).to_arrow_table()

        times = interleaved({"actstore": ask}, rounds=corpus.rounds)
        outcomes.append(
            Outcome(
                point=8,
                what=f"SQL over {store.rows:,} rows: {what}",
                value=times.median("actstore") * 1e3,
                unit=" ms",
                at_most=50,
                note=times.note("actstore"),
            )
        )
    store.close()
    return outcomes


def _store(corpus: Corpus) -> Path:
    path = corpus.folder / "million"
    if path.exists():
        return path
    rows = (20_000 if corpus.quick else 1_000_000) // _LAYERS
    generator = np.random.default_rng(0)
    with StoreWriter(path, run=Run(run_id="m", kind="benchmark", started_at=now())) as writer:
        for layer in range(_LAYERS):
            numbers = range(rows)
            columns: dict[str, list[Any]] = {
                "example_id": [f"mazenav.tqa.{number}" for number in numbers],
                "task": [("mazenav", "spatialmap", "spatialgrid")[n % 3] for n in numbers],
                "label": [LABELS[number * 7 % 3] for number in numbers],
                "prediction": [f"the answer is {number * 31 % 97}" for number in numbers],
            }
            constants = {"model": MODEL, "layer": layer, "site": "resid_post", "pooling": "last"}
            vectors = generator.standard_normal((rows, _WIDTH), np.float32).astype(np.float16)
            writer.add(RowBatch(vectors=vectors, constants=constants, columns=columns))
        writer.commit(operation="ingest", message="benchmark")
    return path
