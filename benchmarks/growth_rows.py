"""What work costs as a store's rows grow: small ones of a hundred layers, in few shards."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np

import actstore
from actstore.storage.manifest import Run, now
from actstore.storage.rows import RowBatch
from actstore.storage.snapshot import open_snapshot
from actstore.storage.verification import verify
from actstore.storage.writer import StoreWriter
from benchmarks.corpus import MODEL, Corpus
from benchmarks.growth import APPENDS, Costs, alone, draw, memory, timed
from benchmarks.measure import Outcome

SIZES = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
LAYERS = 100
WIDTH = 16
_AT_ONCE = 100_000
_POINT = 9
_GROUPED = "SELECT label, count(*) FROM activations GROUP BY label"


def run(corpus: Corpus, rows: int | None = None) -> list[Outcome]:
    """Build stores of more and more rows, and do with each what people do.

    Args:
        corpus: where they lie.
        rows: of the largest; 1,000,000 when missing.
    """
    most = 10_000 if corpus.quick else rows or 1_000_000
    curves: dict[int, Costs] = {}
    outcomes: list[Outcome] = []
    for size in (size for size in SIZES if size <= most):
        path = corpus.folder / f"rows-{size}"
        shutil.rmtree(path, ignore_errors=True)
        curves[size] = {}
        steps: tuple[Callable[[Path, int], Costs], ...] = (_build, _first, _ask, _change, _verify)
        for step in steps:
            curves[size] |= alone(step, path, size)
        shutil.rmtree(path)
        outcomes += [
            _outcome(f"{what}, {size:,} rows", cost) for what, cost in curves[size].items()
        ]
    draw(corpus.folder / "growth_rows.svg", {"rows": curves})
    return outcomes


def _outcome(what: str, value: float) -> Outcome:
    unit = " MB" if what.startswith(("memory", "bytes")) else "" if "shards" in what else " s"
    return Outcome(point=_POINT, what=what, value=value, unit=unit)


def _texts(size: int) -> int:
    return size // LAYERS


def _build(path: Path, size: int) -> Costs:
    found: Costs = {}
    texts = _texts(size)
    vectors = np.random.default_rng(0).standard_normal((_AT_ONCE, WIDTH)).astype(np.float16)
    with timed(found, "build"), StoreWriter(path, run=_RUN) as writer:
        for start in range(0, texts, _AT_ONCE):
            some = range(start, min(start + _AT_ONCE, texts))
            columns = {
                "example_id": [f"text {number}" for number in some],
                "label": [("no", "yes")[number % 2] for number in some],
            }
            for layer in range(LAYERS):
                constants = {
                    "model": MODEL,
                    "site": "resid_post",
                    "layer": layer,
                    "pooling": "last",
                }
                batch = RowBatch(vectors=vectors[: len(some)], constants=constants, columns=columns)
                writer.add(batch)
        writer.commit(operation="ingest", message="benchmark")
    found["memory of building"] = memory()
    found["bytes on disk"] = sum(each.stat().st_size for each in path.rglob("*.parquet")) / 1e6
    with actstore.open(path) as store:
        found["shards"] = len(store.select().shards)
    return found


_RUN = Run(run_id="growth", kind="benchmark", started_at=now())


def _first(path: Path, size: int) -> Costs:
    """Ask the first question in SQL, in a process that has done nothing else."""
    found: Costs = {}
    with timed(found, "open"):
        store = actstore.open(path)
    duckdb.execute("SELECT 1").fetchall()  # DuckDB itself; through the store it would read metadata
    before = memory()
    with timed(found, "first SQL"):
        counted = store.sql(_GROUPED).fetchall()
    found["memory of the first SQL"] = memory() - before
    assert sum(count for _, count in counted) == size
    store.close()
    return found


def _ask(path: Path, size: int) -> Costs:
    found: Costs = {}
    before = memory()
    with actstore.open(path) as store:
        with timed(found, "one layer"):
            matrix = store.select(layer=3).numpy()
        assert matrix.shape == (_texts(size), WIDTH)
        for name in ("SQL in a new process", "SQL again"):
            with timed(found, name):
                store.sql(_GROUPED).fetchall()
        with timed(found, "SQL, one text of all layers"):
            rows = store.sql("SELECT layer FROM activations WHERE example_id = 'text 7'").fetchall()
        assert len(rows) == LAYERS
        with timed(found, "SQL, norms of one layer"):
            store.sql("SELECT avg(norm(activation)) FROM activations WHERE layer = 5").fetchall()
        with timed(found, "select, one label of one layer"):
            chosen = store.select("label = 'yes'", layer=7).numpy()
        assert len(chosen) == _texts(size) // 2
    found["memory of questions"] = memory() - before
    return found


def _change(path: Path, size: int) -> Costs:
    found: Costs = {}
    before = memory()
    with actstore.open(path) as store:
        vector = np.ones((1, WIDTH), np.float16)
        seconds = []
        for number in range(APPENDS):
            start = time.perf_counter()
            store.write(
                {"blocks.0.hook_resid_post": vector},
                {"example_id": [f"more {number}"]},
                model=MODEL,
            )
            seconds.append(time.perf_counter() - start)
        found["append of one row, the first of a process"] = seconds[0]
        found["append of one row"] = float(np.median(seconds))
        with timed(found, "label of one layer"):
            store.label("'maybe'", where="layer = 9")
        with timed(found, "SQL after both"):
            counted = dict(store.sql(_GROUPED).fetchall())
        assert counted["maybe"] == _texts(size)
    found["memory of changes"] = memory() - before
    return found


def _verify(path: Path, size: int) -> Costs:
    found: Costs = {}
    snapshot = open_snapshot(path)
    with timed(found, "verify"):
        assert not verify(snapshot)
    snapshot.close()
    found["memory of verify"] = memory()
    return found
