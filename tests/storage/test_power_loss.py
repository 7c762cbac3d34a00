"""The power fails at any call: what was reported as stored is there, the rest as if never begun."""

from __future__ import annotations

import itertools
import random
import shutil
from pathlib import Path

import pytest

from actstore.storage import manifest as manifests
from actstore.storage import manifest_content, soundness
from actstore.storage.transaction import Transaction
from tests.storage.crashing import SCENARIOS, no_trap, trapped
from tests.storage.power import Disk
from tests.storage.stores import assert_sound, content
from tests.torture.effort import TORTURE, attack

DRAWS = 8 if TORTURE else 1
STEP = 1 if TORTURE else 12


def test_what_was_removed_never_holds_the_bytes_of_another_file(tmp_path: Path) -> None:
    home, found = tmp_path / "disk", tmp_path / "found"
    home.mkdir()
    for number in range(20):
        (home / f"old-{number}").write_text("old")
    disk = Disk(home)
    with disk.watch():
        for number in range(20):
            (home / f"old-{number}").unlink()
            (home / f"new-{number}").write_text("new")
    for draw in range(4):
        disk.after(disk.moments[-1], found, random.Random(draw))
        left = {path.read_text() for path in found.glob("old-*")}
        assert left == {"old"}
        shutil.rmtree(found)


@pytest.mark.parametrize("most", [1, 256])
def test_a_commit_that_pruning_has_left_is_whole(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_content, "MOST_LISTED", most)
    home, found = tmp_path / "disk", tmp_path / "found"
    root = home / "store"
    home.mkdir()
    SCENARIOS["prune"].prepare(root)
    disk = Disk(home)
    with disk.watch():
        SCENARIOS["prune"].run(root)
    chances = random.Random(most)
    for moment in disk.moments:
        disk.after(moment, found, chances)
        manifests.forget()
        for number in manifests.numbers(found / "store"):
            files = manifests.load(found / "store", number).named
            assert soundness.problems(found / "store", files.values()) == [], moment.call
        shutil.rmtree(found)


@pytest.mark.parametrize("name", SCENARIOS)
def test_power_loss_at_every_call(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = SCENARIOS[name]
    home = tmp_path / "disk"
    root = home / "folder" / "store"
    home.mkdir()
    with trapped(0, no_trap):
        scenario.prepare(root)
    first = manifests.latest(root).number
    states = {first: content(root) if first else {}}
    disk = Disk(home)
    commit = Transaction.commit

    def acknowledged(self: Transaction, *given: object, **more: object) -> object:
        made = commit(self, *given, **more)  # type: ignore[arg-type]
        if made is not None:
            disk.acknowledged = made.number
            states[made.number] = content(root)
        return made

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "commit", acknowledged)
        disk.acknowledged = first
        with disk.watch():
            scenario.run(root)
    last = manifests.latest(root).number
    states[last] = content(root)
    chances = random.Random(name)
    chosen = [
        (number, moment)
        for number, moment in enumerate(disk.moments)
        if number % STEP == 0 or moment.call in ("link", "rename", "replace", "end")
    ]
    with attack("power", f"states of the disk, at calls of: {name}") as tally:
        for (number, moment), draw in itertools.product(chosen, range(DRAWS + 1)):
            found = tmp_path / "found"
            disk.after(moment, found, chances if draw else None)
            after = found / "folder" / "store"
            known = manifests.numbers(after)
            assert (known[-1] if known else 0) >= moment.acknowledged, (moment.call, number)
            if known:
                assert content(after) == states[known[-1]], (moment.call, number)
                assert_sound(after)
            if draw == DRAWS:
                with trapped(0, no_trap):
                    scenario.run(after)
                assert content(after) == states[last]
                assert list((after / ".staging").iterdir()) == []
            shutil.rmtree(found)
            tally.tries += 1
