"""What the crash tests do to a store, in child processes that are killed at a chosen call.

Every call of the system that changes files is counted, and the process ends itself with
SIGKILL, or the call fails, when its number comes.
"""

from __future__ import annotations

import importlib
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from actstore.capturing.repooling import repool
from actstore.errors import CommitError
from actstore.storage import manifest as manifests
from actstore.storage import shard
from actstore.storage.compaction import compact, prune
from actstore.storage.dropping import drop_rows
from actstore.storage.going_back import go_back
from actstore.storage.labels import set_labels
from actstore.storage.pruning import erase
from actstore.storage.renaming import NewValues, Renaming
from actstore.storage.rows import RowBatch
from actstore.storage.snapshot import open_snapshot
from actstore.storage.writer import StoreWriter
from tests.storage.drafts import drafting
from tests.storage.stores import RUN, batch, write
from tests.storage.undoing import rows_of

# pyarrow and the card import these when they first need them; then every child would.
for _name in ("pandas", "yaml"):
    importlib.import_module(_name)

CALLS = (
    "open", "pwrite", "ftruncate", "fsync", "link", "rename", "replace", "unlink", "mkdir", "rmdir"
)  # fmt: skip
Trap = Callable[[str, tuple[Any, ...]], None]


def no_trap(call: str, arguments: tuple[Any, ...]) -> None:
    """Let the call through."""


def die(call: str, arguments: tuple[Any, ...]) -> None:
    """Kill this process, in the middle of a write if it is one."""
    if call == "pwrite":
        descriptor, data, offset = arguments
        _real["pwrite"](descriptor, bytes(data)[: len(data) // 2], offset)
    os.kill(os.getpid(), signal.SIGKILL)


_real = {name: getattr(os, name) for name in CALLS}


@contextmanager
def trapped(at: int, trap: Trap, *, lasting: bool = False) -> Iterator[None]:
    """Spring ``trap`` at call number ``at``, and if ``lasting`` at all that follow."""
    lock = threading.Lock()
    count = 0

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if name == "open" and not arguments[1] & (os.O_CREAT | os.O_RDWR):
                return _real[name](*arguments, **options)
            with lock:
                count += 1
                mine = count
            if mine == at or (lasting and mine > at > 0):
                trap(name, arguments)
            # Only a power failure could tell whether the disk was really waited for.
            return None if name == "fsync" else _real[name](*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard, "GROUP_BYTES", 64)
        patch.setattr(shard, "_CHUNK", 64)
        for name in CALLS:
            patch.setattr(os, name, wrapped(name))
        yield


FILES = (batch(0, 6, layer=0), batch(0, 2, layer=1), batch(6, 5, layer=0), batch(2, 1, layer=1))


class Refused(Exception):
    """Stands for what a reader of source files raises."""


def ingest(root: Path) -> None:
    """Store four files in two commits, with one file between that is refused."""
    with StoreWriter(root, run=RUN) as session:
        for number, one in enumerate(FILES):
            with session.file():
                session.add(one)
            with suppress(Refused), session.file():
                session.add(batch(90, 5, layer=0))
                raise Refused
            if number % 2:
                session.commit(operation="ingest", message="")


def prepare_labels(root: Path) -> None:
    """Store everything, and label some of it once."""
    ingest(root)
    label(root, "first")


def label(root: Path, word: str = "second") -> None:
    """Label the first three rows and take the label of the next away."""
    snapshot = open_snapshot(root)
    set_labels(snapshot, np.arange(4), [word, word, word, None], message=word)
    snapshot.close()


def compacting(root: Path) -> None:
    """Join all shards of each layer."""
    compact(root)


def prepare_prune(root: Path) -> None:
    """Leave shards and labels behind that no current commit needs."""
    prepare_labels(root)
    compact(root)
    write(root, batch(50, 2, layer=0))


def pruning(root: Path) -> None:
    """Forget all commits but the last."""
    prune(root)


def dropping(root: Path) -> None:
    """Drop some rows of two shards, and all of another."""
    chosen = ("e1", "e7", "e8")
    snapshot = open_snapshot(root)
    rows = np.concatenate([rows_of(snapshot, example_id=name) for name in chosen])
    drop_rows(snapshot, rows)


def dropping_for_good(root: Path) -> None:
    """Drop rows, and forget that they were ever there."""
    dropping(root)
    erase(root, caches=True)


def renaming(root: Path) -> None:
    """Give rows of one layer another site, and some of another layer another name."""
    snapshot = open_snapshot(root)
    rows = rows_of(snapshot, layer=1, site="resid_post")
    values = NewValues(rows=rows, columns={"site": ["attn_out"] * len(rows)})
    Renaming(snapshot, values).commit("site")
    snapshot = open_snapshot(root)
    rows = rows_of(snapshot, example_id="e3")
    values = NewValues(rows=rows, columns={"example_id": ["other"] * len(rows)})
    Renaming(snapshot, values).commit("example_id")


def going_back(root: Path) -> None:
    """Go back to the first commit."""
    go_back(root, 1)


def replacing(root: Path) -> None:
    """Store rows again whose vectors are others now."""
    with StoreWriter(root, run=RUN, replace=True) as session:
        session.add(batch(2, 5, layer=0, seed=7))
        session.add(batch(1, 2, layer=1, seed=7))
        session.commit(operation="ingest", message="again")


def prepare_draft(root: Path) -> None:
    """Leave a draft of two parts, which replace rows and bring some."""
    prepare_labels(root)
    with drafting(root) as drafted:
        drafted.add("one", batch(2, 5, layer=0, seed=7), batch(60, 3, layer=8), replace=True)
        drafted.add("two", batch(1, 2, layer=1, seed=7), batch(62, 3, layer=8), replace=True)


def taking_over(root: Path) -> None:
    """Make a commit of the draft, unless that is done, or others have made one."""
    with drafting(root) as drafted:
        if drafted.base == min(manifests.numbers(drafted.draft)):
            drafted.take_over()
        elif "all" not in {manifests.load(root, n).message for n in manifests.numbers(root)}:
            raise CommitError(f"{root} was changed by others: nothing is taken over")


def prepare_pooling(root: Path) -> None:
    """Store the tokens of two examples, in two layers."""
    for layer in (0, 1):
        columns: dict[str, list[Any]] = {
            "example_id": ["e1"] * 3 + ["e2"] * 2,
            "position": [0, 1, 2, 0, 1],
            "token_id": [7, 8, 9, 7, 8],
        }
        write(
            root,
            RowBatch(
                vectors=batch(0, 5, layer=layer, dtype="float32").vectors,
                constants={
                    "model": "org/model",
                    "site": "resid_post",
                    "pooling": "none",
                    "region": "prompt",
                    "token_count": 1,
                    "layer": layer,
                },
                columns=columns,
            ),
        )


def pooling(root: Path) -> None:
    """Make rows of the stored tokens."""
    repool(root, ["prompt.mean", "prompt.last"])


class Scenario(NamedTuple):
    """Something done to a store, from a state before to a state after."""

    prepare: Callable[[Path], object]
    run: Callable[[Path], object]


def _nothing(root: Path) -> None:
    pass


SCENARIOS = {
    "ingest": Scenario(_nothing, ingest),
    "ingest more": Scenario(lambda root: write(root, FILES[0]), ingest),
    "label": Scenario(prepare_labels, label),
    "compact": Scenario(prepare_labels, compacting),
    "prune": Scenario(prepare_prune, pruning),
    "drop": Scenario(prepare_labels, dropping),
    "drop for good": Scenario(prepare_labels, dropping_for_good),
    "rename": Scenario(prepare_labels, renaming),
    "checkout": Scenario(prepare_labels, going_back),
    "replace": Scenario(prepare_labels, replacing),
    "take over": Scenario(prepare_draft, taking_over),
    "pool": Scenario(prepare_pooling, pooling),
}


def run_and_die(root: Path, scenario: Callable[[Path], None], at: int) -> None:
    """Run a scenario in this process and kill it at call number ``at``."""
    tempfile.gettempdir()  # tries folders by making files in them, once in each process
    with trapped(at, die):
        scenario(root)


INTERRUPTED = 130


def run_and_end(
    root: Path, scenario: Callable[[Path], None], seconds: float, interrupted: bool
) -> None:
    """Run a scenario in this process, which the system kills, or Ctrl-C ends, after so long."""
    tempfile.gettempdir()
    signal.signal(signal.SIGALRM, signal.default_int_handler if interrupted else signal.SIG_DFL)
    with trapped(0, no_trap):
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            scenario(root)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None


BATCHES = 30
PER_COMMIT = 4


def source_file(number: int) -> list[RowBatch]:
    """Return the rows of one of many source files: one example, three layers."""
    return [batch(3 * number, 3, layer=layer, width=64) for layer in (0, 1, None)]


def ingest_many(root: Path) -> None:
    """Store many files, a commit for every few; once more after a kill it completes them."""
    with pytest.MonkeyPatch.context() as patch, StoreWriter(root, run=RUN) as session:
        patch.setattr(shard, "GROUP_BYTES", 1000)
        for number in range(BATCHES):
            with session.file():
                for one in source_file(number):
                    session.add(one)
            if number % PER_COMMIT == PER_COMMIT - 1:
                session.commit(operation="ingest", message="in progress")
        session.commit(operation="ingest", message="all")
