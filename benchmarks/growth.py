"""What work costs as a store grows: its shards, and its rows by many small writes."""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np

import actstore
from actstore.storage import layout
from actstore.storage.compaction import compact
from actstore.storage.manifest import Run, newest, now
from actstore.storage.rows import RowBatch
from actstore.storage.snapshot import open_snapshot
from actstore.storage.verification import verify
from actstore.storage.writer import StoreWriter
from benchmarks.corpus import MODEL, Corpus
from benchmarks.measure import Outcome

SIZES = (10, 100, 1_000, 10_000, 100_000)
_WRITES = (10, 100, 1_000)
WIDTH = 64
APPENDS = 7
_POINT = 9
_GROUPED = "SELECT label, count(*) FROM activations GROUP BY label"

Costs = dict[str, float]
"""Seconds, or megabytes, by what was done."""


def run(corpus: Corpus, shards: int | None = None) -> list[Outcome]:
    """Build stores of more and more shards, and do with each what people do.

    Args:
        corpus: where they lie.
        shards: of the largest; 10,000 when missing.
    """
    most = 100 if corpus.quick else shards or 10_000
    outcomes: list[Outcome] = []
    curves: dict[int, Costs] = {}
    for size in (size for size in SIZES if size <= most):
        curves[size] = _costs_of_shards(corpus.folder / f"growth-{size}", size)
        for what, value in curves[size].items():
            outcomes.append(_outcome(f"{what}, {size:,} shards", value))
    rows: dict[int, Costs] = {}
    for size in (size for size in _WRITES if size <= most):
        rows[size] = alone(_costs_of_writes, corpus.folder / f"writes-{size}", size)
        for what, value in rows[size].items():
            outcomes.append(_outcome(f"{what}, after {size:,} writes of one row", value))
    draw(corpus.folder / "growth.svg", {"shards": curves, "writes of one row": rows})
    return outcomes


def _outcome(what: str, value: float) -> Outcome:
    goals = {"append": 0.05, "first SQL": 0.5, "memory": 150.0}
    units = {"memory": " MB", "bytes": " MB", "shards": ""}
    unit = units.get(what.replace(",", " ").split(" ")[0], " s")
    goal = next((most for name, most in goals.items() if what.startswith(name)), None)
    return Outcome(point=_POINT, what=what, value=value, unit=unit, at_most=goal)


def alone(work: Callable[[Path, int], Costs], path: Path, size: int) -> Costs:
    """Do the work in a process of its own, whose memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, (path, size))


def _costs_of_shards(path: Path, size: int) -> Costs:
    """Build a store of so many shards and use it, each time in a process that knows nothing."""
    steps = (_build, _ask, _change, _ask_without_metadata, _verify)
    shutil.rmtree(path, ignore_errors=True)
    found: Costs = {}
    for step in steps:
        found |= alone(step, path, size)
    shutil.rmtree(path)
    return found


def _build(path: Path, size: int) -> Costs:
    found: Costs = {}
    with timed(found, "build"):
        build(path, size)
    return found


def _ask(path: Path, size: int) -> Costs:
    found: Costs = {}
    with timed(found, "open"):
        store = actstore.open(path)
    with timed(found, "select"):
        store.select(layer=size // 2).numpy()
    _load_duckdb()
    before = memory()
    for name in ("first SQL, metadata left by the writer", "second SQL"):
        with timed(found, name):
            store.sql(_GROUPED).fetchall()
    found["memory of both"] = memory() - before
    store.close()
    return found


def _load_duckdb() -> None:
    duckdb.execute("SELECT 1").fetchall()  # through the store it would read metadata


def _change(path: Path, size: int) -> Costs:
    found: Costs = {}
    vector = np.ones((1, WIDTH), np.float16)
    seconds, sizes = [], []
    store = actstore.open(path)
    _load_duckdb()
    for number in range(APPENDS):
        start = time.perf_counter()
        store.write(
            {"blocks.0.hook_resid_post": vector}, {"example_id": [f"more {number}"]}, model=MODEL
        )
        seconds.append(time.perf_counter() - start)
        sizes.append(layout.manifest_path(path, newest(path)).stat().st_size / 1e6)
    found["append of one row"] = float(np.median(seconds))
    found["bytes of the manifest of an append"] = float(np.median(sizes))
    with timed(found, "SQL after appends"):
        store.sql(_GROUPED).fetchall()
    with timed(found, "label"):
        store.label("'yes'", where="example_id = 'more 0'")
    store.close()
    with timed(found, "compact"):
        compact(path)
    shutil.rmtree(path / layout.CACHE)
    return found


def _ask_without_metadata(path: Path, size: int) -> Costs:
    found: Costs = {}
    with actstore.open(path) as store:
        _load_duckdb()
        with timed(found, "first SQL, metadata read from every shard"):
            store.sql(_GROUPED).fetchall()
    return found


def _verify(path: Path, size: int) -> Costs:
    found: Costs = {}
    snapshot = open_snapshot(path)
    with timed(found, "verify"):
        assert not verify(snapshot)
    snapshot.close()
    return found


def build(path: Path, size: int) -> None:
    """Write a store of so many shards, each of one row of a layer of its own."""
    vectors = np.random.default_rng(0).standard_normal((size, 1, WIDTH)).astype(np.float16)
    run = Run(run_id="growth", kind="benchmark", started_at=now())
    with StoreWriter(path, run=run) as writer:
        for layer in range(size):
            constants = {"model": MODEL, "site": "resid_post", "layer": layer, "pooling": "last"}
            columns = {"example_id": ["one"], "question": ["What is it?"], "label": ["yes"]}
            batch = RowBatch(vectors=vectors[layer], constants=constants, columns=columns)
            writer.add(batch)
        writer.commit(operation="ingest", message="benchmark")


def _costs_of_writes(path: Path, size: int) -> Costs:
    """Write row by row; the last hundred are what one costs by then."""
    found: Costs = {}
    shutil.rmtree(path, ignore_errors=True)
    vectors = np.random.default_rng(0).standard_normal((size, 1, WIDTH)).astype(np.float16)
    seconds = []
    store = actstore.open(path, create=True)
    for number, vector in enumerate(vectors):
        start = time.perf_counter()
        store.write(
            {"blocks.0.hook_resid_post": vector}, {"example_id": [f"row {number}"]}, model=MODEL
        )
        seconds.append(time.perf_counter() - start)
    found["append of one row"] = float(np.median(seconds[-100:]))
    found["shards"] = len(store.select(layer=0).shards)
    matrix = store.select(layer=0).numpy()
    assert np.array_equal(matrix.view(np.uint16), vectors[:, 0].view(np.uint16))
    with timed(found, "first SQL"):
        store.sql("SELECT count(*) FROM activations").fetchall()
    store.close()
    shutil.rmtree(path)
    return found


def memory() -> float:
    """Return the most memory that this process had so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def timed(found: Costs, name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    found[name] = time.perf_counter() - start


def draw(path: Path, curves: dict[str, dict[int, Costs]]) -> None:
    """Draw what each work costs against the size."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    size = (5.5 * len(curves), 6)
    figure, axes = pyplot.subplots(
        1, len(curves), figsize=size, layout="constrained", squeeze=False
    )
    for axis, (along, costs) in zip(axes[0], curves.items(), strict=True):
        names = [name for name in next(iter(costs.values())) if "byte" not in name]
        names = [name for name in names if not name.startswith(("memory", "shards"))]
        for number, name in enumerate(names):
            style = "o-" if number < 10 else "s--"  # there are ten colours
            axis.plot(list(costs), [cost[name] for cost in costs.values()], style, label=name)
        axis.set(xscale="log", yscale="log", xlabel=along, ylabel="seconds")
        axis.grid(alpha=0.3)
        axis.legend(
            fontsize="small",
            frameon=False,
            ncols=2,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.12),
        )
    figure.savefig(path)
    pyplot.close(figure)
