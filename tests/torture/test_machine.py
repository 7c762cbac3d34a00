"""Any row of changes, readers and kills, held against an oracle: a dict of rows for each commit."""

from __future__ import annotations

import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from actstore.storage import manifest as manifests
from actstore.storage.compaction import compact
from actstore.storage.snapshot import Snapshot, open_snapshot
from tests.children import children
from tests.storage.stores import Content, assert_sound, content
from tests.torture.effort import TORTURE, Tally, attack
from tests.torture.oracle import (
    Oracle,
    Step,
    compacting,
    dropping,
    erasing,
    going_back,
    labelling,
    names,
    perform,
    perform_and_die,
    renaming,
    replacing,
    storing,
)

numbers = st.integers(0, 11)
layers = st.integers(0, 2)
several = st.sets(numbers, max_size=4)
steps = st.one_of(
    st.tuples(st.just(storing), numbers, st.integers(1, 4), layers),
    st.tuples(st.just(replacing), numbers, st.integers(1, 4), layers, st.integers(0, 2)),
    st.tuples(st.just(labelling), several, st.sampled_from(["x", "y", None])),
    st.tuples(st.just(dropping), st.just("example_id"), several.map(names)),
    st.tuples(st.just(dropping), st.just("layer"), st.sets(layers, max_size=1)),
    st.tuples(st.just(renaming), numbers, st.just("example_id"), numbers.map("e{}".format)),
    st.tuples(st.just(renaming), numbers, st.just("layer"), layers),
    st.tuples(st.just(renaming), layers, st.just("site"), st.sampled_from(["a", "resid_post"])),
    st.tuples(st.just(going_back), st.integers(0, 5)),
    st.tuples(st.just(compacting)),
    st.tuples(st.just(erasing)),
)


class Machine(RuleBasedStateMachine):
    """A store, its oracle, and readers that stay open at the commits where they began."""

    tally: Tally
    """Counts the steps of all histories."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.root = Path(self._folder.name) / "s"
        self.oracle = Oracle()
        self.readers: list[tuple[Snapshot, Content]] = []
        storing(self.root, self.oracle, 0, 4, 1)

    @rule(step=steps)
    def change(self, step: Step) -> None:
        perform(step, self.root, self.oracle)

    @rule(choice=st.integers(0, 5))
    def begin_to_read(self, choice: int) -> None:
        at = sorted(self.oracle.commits)[choice % len(self.oracle.commits)]
        self.readers.append((open_snapshot(self.root, at), self.oracle.commits[at]))

    @precondition(lambda self: self.readers)
    @rule(choice=st.integers(0, 5), ending=st.booleans())
    def read(self, choice: int, ending: bool) -> None:
        reader, rows = self.readers[choice % len(self.readers)]
        assert content(reader) == rows
        if ending:
            self.readers.pop(choice % len(self.readers))
            reader.close()

    @rule(step=steps, at=st.integers(1, 60))
    def be_killed(self, step: Step, at: int) -> None:
        before = Oracle()
        before.commits = dict(self.oracle.commits)
        child = children.Process(target=perform_and_die, args=(step, self.root, before, at))
        child.start()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
        known = manifests.numbers(self.root)
        if step[0] is erasing:  # some of it may be done: the rest is
            assert known[-1] == max(self.oracle.commits)
            perform(step, self.root, self.oracle)
        elif known != sorted(self.oracle.commits):
            with tempfile.TemporaryDirectory() as folder:
                # What the step would have made of the commit before it.
                twin, after = Path(folder) / "s", Oracle()
                shutil.copytree(self.root, twin)
                after.commits = dict(self.oracle.commits)
                (twin / "manifests" / f"{known[-1]:010d}.json").unlink()
                perform(step, twin, after)
                self.oracle = after

    @invariant()
    def holds_what_the_oracle_does(self) -> None:
        self.tally.tries += 1
        assert manifests.numbers(self.root) == sorted(self.oracle.commits)
        assert content(self.root) == self.oracle.now

    def teardown(self) -> None:
        for number, rows in self.oracle.commits.items():
            assert content(self.root, number) == rows
        assert_sound(self.root)
        for reader, rows in self.readers:
            assert content(reader) == rows
            reader.close()
        compact(self.root)  # and with it what the killed have left is cleared
        assert list((self.root / ".staging").iterdir()) == []
        self._folder.cleanup()


@pytest.mark.parametrize("part", range(4 if TORTURE else 1))
def test_what_a_dict_would_give(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    with attack("any row of changes", "steps of histories of up to 50") as tally:
        machine = seed(part)(type("Machine", (Machine,), {"tally": tally}))
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=50 if TORTURE else 4,
                stateful_step_count=50 if TORTURE else 12,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
            ),
        )
