"""Many writers at once: each commits in its turn, or one process commits what all have staged."""

from __future__ import annotations

import dataclasses
import multiprocessing
import shutil
import statistics
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from actstore.storage import layout
from actstore.storage import manifest as manifests
from actstore.storage.entries import ShardEntry
from actstore.storage.manifest import Manifest, Run, now
from actstore.storage.metadata_table import Fragment
from actstore.storage.rows import RowBatch
from actstore.storage.shard import ShardWriter, Written
from actstore.storage.transaction import Transaction
from actstore.storage.writer import StoreWriter
from benchmarks.corpus import MODEL, Corpus
from benchmarks.measure import Outcome

_POINT = 17
_WRITERS, _COMMITS = 64, 4
_ROWS, _WIDTH = 64, 256

children = multiprocessing.get_context("forkserver")


class _Staged(NamedTuple):
    """A shard that a writer has finished, and that is in no commit yet."""

    writer: int
    path: Path
    entry: ShardEntry


def run(corpus: Corpus) -> list[Outcome]:
    """Let writers add rows as fast as it goes, both ways, and see how long each addition takes."""
    children.set_forkserver_preload(["benchmarks.many_writers"])
    writers = 8 if corpus.quick else _WRITERS
    outcomes = []
    for way, work in (("in turns", _in_turns), ("by one committer", _gathered)):
        root = corpus.folder / "many-writers"
        shutil.rmtree(root, ignore_errors=True)
        took = work(root, writers)
        latest = manifests.latest(root)
        assert latest.rows == writers * _COMMITS * _ROWS
        every = [seconds for each in took for seconds in each]
        sums = [sum(each) for each in took]
        what = f"{writers} writers, {_COMMITS} additions each, {way}"
        figures = {
            "wall": max(sums),
            "an addition until it is durable, median": statistics.median(every),
            "an addition, longest": max(every),
            "the writer that was done first": min(sums),
        }
        outcomes += [
            Outcome(point=_POINT, what=f"{what}: {name}", value=value, unit=" s")
            for name, value in figures.items()
        ]
        outcomes.append(
            Outcome(point=_POINT, what=f"{what}: commits", value=latest.number, unit="")
        )
        shutil.rmtree(root)
    return outcomes


def _batch(number: int) -> RowBatch:
    """Return rows that no other addition brings."""
    vectors = np.random.default_rng(number).standard_normal((_ROWS, _WIDTH)).astype(np.float16)
    constants = {"model": MODEL, "site": "resid_post", "layer": 0, "pooling": "last"}
    return RowBatch(
        vectors=vectors,
        constants=constants,
        columns={"example_id": [f"{number} {row}" for row in range(_ROWS)]},
    )


def _warm_up(root: Path) -> None:
    """Import what the first and the second addition need: thousands of modules."""
    run_ = Run(run_id="warm", kind="benchmark", started_at=now())
    with StoreWriter(root, run=run_) as writer:
        for number in range(2):
            writer.add(_batch(number))
            writer.commit(operation="ingest", message="benchmark")
    shutil.rmtree(root)


def _in_turns(root: Path, writers: int) -> list[list[float]]:
    results: Queue[list[float]] = children.Queue()
    start = children.Barrier(writers)
    processes = [
        children.Process(target=_commit_each, args=(root, number, start, results))
        for number in range(writers)
    ]
    for process in processes:
        process.start()
    took = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return took


def _commit_each(root: Path, number: int, start: Barrier, results: Queue[list[float]]) -> None:
    batches = [_batch(number * _COMMITS + addition) for addition in range(_COMMITS)]
    _warm_up(root.with_name(f"warm-{number}"))
    start.wait()
    took = []
    run_ = Run(run_id=f"writer {number}", kind="benchmark", started_at=now())
    with StoreWriter(root, run=run_) as writer:
        for batch in batches:
            began = time.perf_counter()
            writer.add(batch)
            writer.commit(operation="ingest", message="benchmark")
            took.append(time.perf_counter() - began)
    results.put(took)


def _gathered(root: Path, writers: int) -> list[list[float]]:
    results: Queue[list[float]] = children.Queue()
    staged: Queue[_Staged] = children.Queue()
    heard = [children.Event() for _ in range(writers)]
    with Transaction(root) as change:  # makes the folder
        start = children.Barrier(writers)
        processes = [
            children.Process(
                target=_stage_each, args=(root, number, start, staged, heard[number], results)
            )
            for number in range(writers)
        ]
        for process in processes:
            process.start()
        left = writers * _COMMITS
        while left:
            some = [staged.get()]
            while not staged.empty():
                some.append(staged.get())
            _commit(change, some)
            for each in some:
                heard[each.writer].set()
            left -= len(some)
        took = [results.get() for _ in processes]
        for process in processes:
            process.join()
    return took


def _commit(change: Transaction, some: list[_Staged]) -> None:
    """Commit what is staged. Whether keys are there already is not looked at: a little is saved."""
    transaction = layout.new_transaction()
    files: dict[str, Path] = {}
    entries = []
    for number, (_, path, entry) in enumerate(some):
        name = entry.named(transaction, number)
        entries.append(dataclasses.replace(entry, path=name))
        files[name] = path
    run_ = Run(run_id="committer", kind="benchmark", started_at=now())

    def build(latest: Manifest) -> Manifest:
        return latest.adding(entries, run=run_, operation="ingest", message="benchmark")

    change.commit(files, build)


def _stage_each(
    root: Path,
    number: int,
    start: Barrier,
    staged: Queue[_Staged],
    heard: Any,
    results: Queue[list[float]],
) -> None:
    batches = [_batch(number * _COMMITS + addition) for addition in range(_COMMITS)]
    _warm_up(root.with_name(f"warm-{number}"))
    start.wait()
    took = []
    with Transaction(root) as change:
        for addition, batch in enumerate(batches):
            began = time.perf_counter()
            path = change.folder / f"{addition}.parquet"
            written = _write(path, batch, f"writer {number}")
            staged.put(_Staged(number, path, _entry(written)))
            heard.wait()
            heard.clear()
            took.append(time.perf_counter() - began)
    results.put(took)


def _write(path: Path, batch: RowBatch, run_id: str) -> Written:
    shard = ShardWriter(path, width=_WIDTH, dtype="float16")
    constants = {**batch.constants, "run_id": run_id}
    shard.append(batch.vectors, Fragment(constants, batch.columns, range(_ROWS)))
    return shard.finish()


def _entry(written: Written) -> ShardEntry:
    where: dict[str, Any] = {"model": MODEL, "site": "resid_post", "layer": 0}
    kind: dict[str, Any] = {"width": _WIDTH, "dtype": "float16"}
    return ShardEntry(path="", **where, **kind, **written._asdict())
