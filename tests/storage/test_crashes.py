"""Killed, interrupted or out of disk at any call: the last commit stands, and work can go on."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from actstore.errors import CommitError
from actstore.storage import manifest as manifests
from actstore.storage.snapshot import open_snapshot
from tests.children import children
from tests.storage import crashing
from tests.storage.crashing import (
    BATCHES,
    INTERRUPTED,
    PER_COMMIT,
    SCENARIOS,
    Scenario,
    no_trap,
    run_and_die,
    run_and_end,
    trapped,
)
from tests.storage.stores import (
    Content,
    assert_sound,
    card_commit,
    card_files,
    content,
    expected,
    live_files,
)
from tests.torture.effort import TORTURE, attack

KILLS = 100 if TORTURE else 12
KILLS_EACH = 40
"""Of each scenario, at random moments."""
PATIENCE = 300
"""Seconds after which a process stands still."""
DECISIVE = frozenset({"link", "replace", "rename"})
"""What puts a file in its place: always tried."""


every_scenario = pytest.mark.parametrize("name", SCENARIOS)


class Prepared(NamedTuple):
    """A store before a scenario, and what it may become."""

    root: Path
    states: list[Content]
    """Content after each commit that the scenario makes, the content before first."""
    first: int
    """Number of the commit before."""
    calls: list[str]

    def moments(self, step: int, turn: int | None = None) -> list[int]:
        """Return the numbers of the calls to try: the decisive ones, and of the rest a part.

        With a ``turn``, where many are decisive it is every third of them, others for each turn.
        """
        numbers = range(1, len(self.calls) + 1)
        if TORTURE:
            return list(numbers)
        decisive = [at for at in numbers if self.calls[at - 1] in DECISIVE]
        if turn is not None and len(decisive) > 2 * len(FAULTS):
            decisive = decisive[turn :: len(FAULTS)]
        return sorted({*decisive, *range(1, len(self.calls) + 1, step)})


@pytest.fixture
def prepared(name: str, tmp_path: Path) -> Prepared:
    """Run the scenario once without a fault, on a copy."""
    return prepare(name, tmp_path)


def prepare(name: str, folder: Path) -> Prepared:
    """Return a store before a scenario, and what it becomes."""
    scenario = SCENARIOS[name]
    root, trial = folder / "before", folder / "trial"
    with trapped(0, no_trap):
        scenario.prepare(root)
    known = manifests.numbers(root)
    first = known[-1] if known else 0
    states = [content(root) if first else {}]  # before it is copied, with what reading derives
    if root.exists():
        shutil.copytree(root, trial)
    calls: list[str] = []
    with trapped(1, lambda call, arguments: calls.append(call), lasting=True):
        scenario.run(trial)
    states += [content(trial, at) for at in manifests.numbers(trial) if at > first]
    assert len(calls) > 10
    return Prepared(root, states, first, calls)


def copy_of(prepared: Prepared, to: Path) -> Path:
    """Return a fresh copy of the store before."""
    shutil.rmtree(to, ignore_errors=True)
    if prepared.root.exists():
        shutil.copytree(prepared.root, to)
    return to


def assert_stands(root: Path, prepared: Prepared) -> None:
    """Check that a store, as a crash has left it, is one of its commits and nothing else."""
    known = manifests.numbers(root)
    if not known:
        assert prepared.first == 0
        return
    state = prepared.states[known[-1] - prepared.first]
    assert content(root) == state
    assert_sound(root)
    if prepared.first and prepared.first in known:
        assert content(root, prepared.first) == prepared.states[0]
    if (root / "README.md").exists():
        # Killed between commit and card, the card is one commit behind, and whole.
        about = card_commit(root)
        assert about in (known[-1], known[-1] - 1)
        if about in known:
            assert card_files(root)["metadata"] == live_files(root, about)


def assert_complete(root: Path, scenario: Scenario, prepared: Prepared) -> None:
    """Check that running the scenario again ends as if nothing had happened."""
    with trapped(0, no_trap):
        scenario.run(root)
    assert content(root) == prepared.states[-1]
    assert_sound(root)
    last = manifests.numbers(root)[-1]
    assert card_commit(root) == last
    assert card_files(root)["metadata"] == live_files(root)
    assert list((root / ".staging").iterdir()) == []
    named: set[str] = set()
    for number in manifests.numbers(root):
        manifest = manifests.load(root, number)
        named |= {entry.path for entry in manifest.shards}
        named |= {entry.path for entry in manifest.labels}
    found = {path.relative_to(root).as_posix() for path in root.rglob("*.parquet")}
    assert {path for path in found if not path.startswith(".cache/")} == named


@every_scenario
def test_killed_at_every_call(name: str, prepared: Prepared, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]
    endings = set()
    with attack("crashes", f"killed at calls of the system: {name}") as tally:
        for at in [*prepared.moments(18), len(prepared.calls) + 1]:
            root = copy_of(prepared, tmp_path / "store")
            child = children.Process(target=run_and_die, args=(root, scenario.run, at))
            child.start()
            child.join()
            endings.add(child.exitcode)
            if child.exitcode == 0:  # with several threads a run may need a call less
                assert at > len(prepared.calls) - 2
            else:
                assert child.exitcode == -signal.SIGKILL
                tally.tries += 1
            assert_stands(root, prepared)
            assert_complete(root, scenario, prepared)
    assert endings == {0, -signal.SIGKILL}


def _interrupt(call: str, arguments: tuple[Any, ...]) -> None:
    if threading.current_thread() is threading.main_thread():  # Ctrl-C comes nowhere else
        raise KeyboardInterrupt


def _full(call: str, arguments: tuple[Any, ...]) -> None:
    if call not in ("unlink", "rmdir", "rename", "ftruncate"):
        raise OSError(28, "No space left on device")


def _failing(call: str, arguments: tuple[Any, ...]) -> None:
    raise OSError(5, "Input/output error")


FAULTS: dict[str, tuple[crashing.Trap, bool, type[BaseException]]] = {
    "interrupt": (_interrupt, False, KeyboardInterrupt),
    "failing once": (_failing, False, CommitError),
    "full from then on": (_full, True, CommitError),
}
"""What happens, whether to all calls that follow too, and what it comes out as."""


@every_scenario
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_every_call(name: str, prepared: Prepared, tmp_path: Path, fault: str) -> None:
    """The error is clear, nothing half done is seen, no file stays open, and it can go on.

    Unless everything is tried, each decisive call meets one of the faults; a kill meets them all.
    """
    scenario = SCENARIOS[name]
    trap, lasting, error = FAULTS[fault]
    raised = 0
    gc.collect()
    before = len(os.listdir("/dev/fd"))
    moments = prepared.moments(30, list(FAULTS).index(fault))
    with attack("crashes", f"{fault}, at calls of the system") as tally:
        for at in moments:
            root = copy_of(prepared, tmp_path / "store")
            try:
                with trapped(at, trap, lasting=lasting):
                    scenario.run(root)
            except error:
                raised += 1
            assert_stands(root, prepared)
            assert_complete(root, scenario, prepared)
            tally.tries += 1
    gc.collect()
    assert len(os.listdir("/dev/fd")) == before
    assert raised > len(moments) // 4


@every_scenario
def test_a_session_goes_on_after_a_fault(name: str, prepared: Prepared, tmp_path: Path) -> None:
    """Whoever catches the error may try again in the same process, without cleaning up."""
    scenario = SCENARIOS[name]
    with attack("crashes", "failing again and again, in one process") as tally:
        for at in prepared.moments(12)[:: 2 if TORTURE else 5]:
            root = copy_of(prepared, tmp_path / "store")
            for following in range(at, 0, -5):
                try:
                    with trapped(following, _failing):
                        scenario.run(root)
                except CommitError:
                    continue
            assert_complete(root, scenario, prepared)
            tally.tries += 1


@pytest.mark.skipif(not TORTURE, reason="takes minutes: make torture")
@every_scenario
@pytest.mark.parametrize("ending", ["killed", "interrupted"])
def test_ended_at_any_moment(name: str, prepared: Prepared, tmp_path: Path, ending: str) -> None:
    """Between calls of the system too, and inside those of libraries."""
    scenario, interrupted = SCENARIOS[name], ending == "interrupted"
    began = time.monotonic()
    with trapped(0, no_trap):
        scenario.run(copy_of(prepared, tmp_path / "store"))
    duration = time.monotonic() - began
    moments = random.Random(name)
    with attack("crashes", f"{ending} at a random moment") as tally:
        while tally.tries < KILLS_EACH:
            root = copy_of(prepared, tmp_path / "store")
            given = (root, scenario.run, moments.uniform(0, duration), interrupted)
            child = children.Process(target=run_and_end, args=given)
            child.start()
            child.join(PATIENCE)
            child.kill()
            child.join()
            assert child.exitcode in (0, INTERRUPTED if interrupted else -signal.SIGALRM)
            tally.tries += child.exitcode != 0
            assert_stands(root, prepared)
            assert_complete(root, scenario, prepared)


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """The same ingest is run and killed until it completes, again and again."""
    whole: Content = {}
    sizes = {0: dict(whole)}
    for number in range(BATCHES):
        whole |= expected(*crashing.source_file(number))
        if number % PER_COMMIT == PER_COMMIT - 1 or number == BATCHES - 1:
            sizes[len(whole)] = dict(whole)
    started = time.monotonic()
    _run(tmp_path / "trial", 600)
    duration = time.monotonic() - started
    moments = random.Random(20260101)
    root, round_ = tmp_path / "store", 0
    with attack("crashes", "killed at a random moment") as tally:
        while tally.tries < KILLS:
            killed = _run(root, moments.uniform(0, duration))
            tally.tries += killed
            if manifests.numbers(root):
                found = content(root)
                assert found == sizes[len(found)]
                assert_sound(root)
                about = card_commit(root) if (root / "README.md").exists() else None
                if about is not None:
                    assert card_files(root)["metadata"] == live_files(root, about)
            if not killed:
                assert content(root) == whole
                assert card_commit(root) == manifests.numbers(root)[-1]
                root, round_ = tmp_path / f"store{round_}", round_ + 1
    assert not _run(root, 600)
    assert content(root) == whole
    assert list((root / ".staging").iterdir()) == []
    assert card_files(root)["metadata"] == live_files(root)
    assert not _run(root, 600)
    assert open_snapshot(root).rows == len(whole)


def _run(root: Path, seconds: float) -> bool:
    """Ingest in a child process; kill it after so long. Say whether it was killed."""
    child = children.Process(target=crashing.ingest_many, args=(root,))
    child.start()
    child.join(seconds)
    child.kill()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0
