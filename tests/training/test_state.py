"""States: what they belong to, and what is said when they belong to something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actstore.errors import MismatchError, UsageError
from actstore.storage.snapshot import Snapshot, open_snapshot
from actstore.training import state as states
from actstore.training.order import Ordering
from actstore.training.plan import Place, Plan
from actstore.training.state import Lane, fingerprint
from tests.querying import stores

PLAN = Plan(rows=24, size=4, ordering=Ordering(shuffle="exact", seed=7), world_size=2)


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    stores.layered(tmp_path / "s", layers=2)
    return open_snapshot(tmp_path / "s")


def _pack(plan: Plan = PLAN, **more: Any) -> dict[str, Any]:
    return states.pack(plan, Place(1, 8), rows_hash="abc", commit=3, **more)


def test_a_state_is_json_and_says_where_to_go_on() -> None:
    state = json.loads(json.dumps(_pack()))
    found = states.unpack(state, PLAN, rows_hash="abc", commit=4)
    assert found == (Place(1, 8), 0, None)
    lane = json.loads(json.dumps(_pack(lane=Lane(1, 3, 2))))
    assert states.unpack(lane, PLAN, rows_hash="abc", commit=3).lane == Lane(1, 3, 2)


def test_a_state_of_other_rows_names_both(snapshot: Snapshot) -> None:
    with pytest.raises(MismatchError) as caught:
        states.unpack(_pack(), PLAN, rows_hash="def", commit=5)
    message = str(caught.value)
    assert "abc (24 rows at commit 3)" in message
    assert "def (24 rows at commit 5)" in message
    assert "open the store with at=3" in message
    with pytest.raises(MismatchError, match="make the same selection"):
        states.unpack(_pack(), PLAN, rows_hash="def", commit=3)


def test_a_state_of_another_order_names_both() -> None:
    other = Plan(rows=24, size=4, ordering=Ordering(shuffle="exact", seed=8))
    with pytest.raises(MismatchError, match=r"seed=7, these .*seed=8"):
        states.unpack(_pack(), other, rows_hash="abc", commit=3)
    blocks = Ordering(shuffle="blocks", block=2, window=4)
    two, three = (Plan(rows=24, size=4, ordering=blocks, world_size=world) for world in (2, 3))
    with pytest.raises(MismatchError, match=r"world_size=2, this is 3"):
        states.unpack(_pack(two), three, rows_hash="abc", commit=3)


@pytest.mark.parametrize("wrong", [{}, {"epoch": None}, {"worker": 3}, {"order": None}])
def test_what_is_no_state_is_refused(wrong: dict[str, Any]) -> None:
    state = {**_pack(), **wrong} if wrong else {}
    with pytest.raises(UsageError, match="no state of batches"):
        states.unpack(state, PLAN, rows_hash="abc", commit=3)


def test_a_state_of_another_format_is_refused() -> None:
    with pytest.raises(UsageError, match="format 99"):
        states.unpack({**_pack(), "version": 99}, PLAN, rows_hash="abc", commit=3)


def test_a_fingerprint_goes_by_rows_and_order(snapshot: Snapshot) -> None:
    rows = np.arange(24)
    found = fingerprint(snapshot, [rows])
    assert found == fingerprint(snapshot, [rows.copy()])
    others = [[rows[::-1].copy()], [rows[:23]], [rows[:12], rows[12:]], [np.append(rows[:23], 22)]]
    assert len({found, *(fingerprint(snapshot, other) for other in others)}) == 5
    assert len(found) == 32


def test_a_fingerprint_outlives_rows_that_others_add(tmp_path: Path, snapshot: Snapshot) -> None:
    before = fingerprint(snapshot, [np.arange(12, 24)])
    stores.add(tmp_path / "s", stores.vectors(5, 8, "float16", 9), layer=-1)
    after = open_snapshot(tmp_path / "s")
    assert fingerprint(after, [np.arange(17, 29)]) == before
    assert fingerprint(after, [np.arange(12, 24)]) != before
