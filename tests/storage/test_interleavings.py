"""Stopped at any step, while another process changes the store and prunes: nothing gets lost."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from actstore.errors import CommitError
from actstore.storage import manifest as manifests
from actstore.storage import manifest_content, pruning, turns
from actstore.storage.compaction import compact
from actstore.storage.snapshot import Snapshot, open_snapshot
from actstore.storage.verification import verify
from tests.children import children
from tests.storage import crashing
from tests.storage.stores import RUN, Content, assert_sound, batch, content, expected, write
from tests.torture.effort import TORTURE, attack

SAMPLES = 3
"""Steps of each change that are tried every day."""
STEPS = frozenset(
    {
        *("open", "os.listdir", "os.scandir", "os.rename", "os.link", "os.remove", "os.mkdir"),
        *("os.rmdir", "shutil.rmtree"),
    }
)
"""What Python tells its auditors of, before it is done: https://docs.python.org/3/library/audit_events.html"""

_MOST = "MOST_LISTED"
"""What says from how many shards on a manifest has segments."""

OVERTAKEN = ("compacted", "changed by others", "again")
"""Words of the errors that say that somebody else was faster, and nothing has changed."""


class _Stop:
    """Counts a thread's steps in a folder, and does something before one of them."""

    root: str | None = None
    at = count = 0
    then: Callable[[], object] = staticmethod(lambda: None)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _Stop.root is None or event not in STEPS or not arguments:
        return
    path = arguments[0]
    if isinstance(path, bytes | str | os.PathLike) and os.fsdecode(path).startswith(_Stop.root):
        _Stop.count += 1
        if _Stop.count == _Stop.at:
            root, _Stop.root = _Stop.root, None  # what is done meanwhile is not counted
            try:
                _Stop.then()
            finally:
                _Stop.root = root


_HEARD: list[object] = []


@contextmanager
def stopped(root: Path, at: int, then: Callable[[], object]) -> Iterator[type[_Stop]]:
    """Call ``then`` before the block's step number ``at`` in a folder, and count all steps."""
    if _audit not in _HEARD:  # it stays, and does nothing without a folder
        sys.addaudithook(_audit)
        _HEARD.append(_audit)
    _Stop.root, _Stop.at, _Stop.count, _Stop.then = str(root), at, 0, staticmethod(then)
    try:
        yield _Stop
    finally:
        _Stop.root = None


def write_and_prune(root: Path) -> None:
    """Write rows, and forget all commits before."""
    write(root, batch(70, 2, layer=0))
    pruning.erase(root)


def compact_and_prune(root: Path) -> None:
    """Write rows, join everything, and forget all commits before."""
    write(root, batch(70, 2, layer=0))
    compact(root)
    pruning.erase(root)


def prune(root: Path) -> None:
    """Forget all commits before the latest."""
    pruning.erase(root)


Other = Callable[[str, Path], bool]
"""Lets another process change a store; False where it was told to wait."""
OTHERS = {each.__name__: each for each in (write_and_prune, compact_and_prune, prune)}


def _no_power_fails(fd: object) -> None:
    """Take the place of waiting for the disk, hundreds of times."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", _no_power_fails)


def _serve(requests: Connection) -> None:
    """Change the stores whose names come, one after the other."""
    os.fsync = _no_power_fails
    turns.PATIENCE = 0.05  # who is stopped may have its turn
    while (asked := requests.recv()) is not None:
        name, root, most_listed = asked
        setattr(manifest_content, _MOST, most_listed)
        try:
            OTHERS[name](root)
        except CommitError as error:
            requests.send(str(error))
        except BaseException as error:
            requests.send(repr(error))
        else:
            requests.send(None)


@pytest.fixture(scope="module")
def other() -> Iterator[Other]:
    """Return what lets another process change a store, and waits for it."""
    here, there = children.Pipe()
    process = children.Process(target=_serve, args=(there,))
    process.start()

    def change(name: str, root: Path) -> bool:
        here.send((name, root, getattr(manifest_content, _MOST)))
        assert here.poll(60), "the other process does not come to an end"
        if said := here.recv():
            assert any(word in said for word in OVERTAKEN), said
        return said is None

    yield change
    here.send(None)
    process.join()


WRITING = dataclasses.replace(RUN, run_id="write-1", kind="write")


def write_again(root: Path) -> None:
    """Write a row as ``store.write`` does, which joins those before it."""
    write(root, batch(40, 1, layer=0), run=WRITING, small=True)


def prepare_joining(root: Path) -> None:
    """Store as many small shards as make one, but for the next."""
    for number in range(15):
        write(root, batch(number, 1, layer=0), run=WRITING, small=True)


SCENARIOS = {
    name: scenario
    for name, scenario in crashing.SCENARIOS.items()
    if name not in ("ingest", "checkout")  # which may well take back what another one wrote
} | {
    "join": crashing.Scenario(prepare_joining, write_again),
}
_THEIRS: Content = expected(batch(70, 2, layer=0))


_PAIRS = list(itertools.product(OTHERS, (256, 2)))
"""What the other one does, and from how many shards on manifests have segments."""


def steps(count: int) -> list[int]:
    """Return the steps to stop at: all of them, or others each day."""
    return list(range(1, count + 1)) if TORTURE else random.sample(range(1, count + 1), SAMPLES)


@pytest.mark.parametrize("name", SCENARIOS)
def test_another_process_changes_the_store_at_any_step(
    name: str, other: Other, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = _PAIRS if TORTURE else random.sample(_PAIRS, 1)
    with attack("several processes", f"another one at steps of: {name}") as tally:
        for number, (theirs, most_listed) in enumerate(pairs):
            monkeypatch.setattr(manifest_content, _MOST, most_listed)
            folders = (tmp_path / f"{each}-{number}" for each in ("before", "whole", "s"))
            tally.tries += _at_each_step(name, theirs, other, *folders)


def _at_each_step(
    name: str, theirs: str, other: Other, before: Path, whole: Path, trial: Path
) -> int:
    """Stop a change at its steps, while another process changes the store; say how often."""
    scenario = SCENARIOS[name]
    scenario.prepare(before)
    shutil.copytree(before, whole)
    with stopped(whole, 0, lambda: None) as counted:
        scenario.run(whole)
    made = [at for at in manifests.numbers(whole) if at > manifests.newest(before)]
    states = [content(before), *(content(whole, at) for at in made)]
    if theirs != "prune":
        states = [state | _THEIRS for state in states]
    assert counted.count > 10
    chosen = steps(counted.count)
    for at in chosen:
        where = f"{name}, stopped at step {at} of {counted.count}: {theirs}, {trial.name}"
        shutil.copytree(before, trial)
        possible = states if _overtaken(scenario, theirs, at, trial, other) else states[-1:]
        assert content(trial) in possible, where
        assert_sound(trial)
        compact(trial)
        pruning.erase(trial)
        assert content(trial) in possible, where
        assert os.listdir(trial / ".staging") == [], where
        shutil.rmtree(trial)
    return len(chosen)


def _overtaken(scenario: crashing.Scenario, theirs: str, at: int, root: Path, other: Other) -> bool:
    """Run both, one of them stopped at a step, and say whether it gave up for the other one."""
    done: list[str] = []

    def between() -> None:
        if other(theirs, root):
            done.append(theirs)

    overtaken = False
    with stopped(root, at, between):
        try:
            scenario.run(root)
        except CommitError as error:
            if not any(word in str(error) for word in OVERTAKEN):
                raise
            overtaken = True
    # Not yet where it took fewer steps this time, or where the other one was told to wait.
    if not done:
        assert other(theirs, root)
    return overtaken


@pytest.mark.parametrize("done", [content, verify])
def test_another_process_changes_the_store_at_any_step_of_reading(
    done: Callable[[Snapshot], object], other: Other, tmp_path: Path
) -> None:
    before, trial = tmp_path / "before", tmp_path / "s"
    crashing.prepare_prune(before)
    first = content(before)
    shutil.copytree(before, trial)

    def read() -> object:
        with closing(open_snapshot(trial)) as snapshot:
            return done(snapshot)

    with stopped(trial, 0, lambda: None) as counted:
        read()
    assert counted.count > 5
    with attack("several processes", f"another one at steps of: {done.__name__}") as tally:
        for theirs in OTHERS if TORTURE else random.sample(sorted(OTHERS), 1):
            for at in steps(counted.count):
                shutil.rmtree(trial)
                shutil.copytree(before, trial)
                with stopped(trial, at, partial(other, theirs, trial)):
                    found = read()
                assert found in ([], first, first | _THEIRS), f"step {at}: {theirs}"
                tally.tries += 1
