"""Rows by hash, in a dictionary and in arrays: whatever is put in and taken out, as in one dict."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore.storage import pending_rows
from actstore.storage.pending_rows import PendingRows
from tests.torture.effort import examples

_TOP = (1 << 64) - 1
_HASHES = st.one_of(st.integers(0, 40), st.integers(_TOP - 20, _TOP))


def _assert_same(found: PendingRows, known: dict[int, int]) -> None:
    everything = [*range(42), *range(_TOP - 22, _TOP + 1)]
    assert len(found) == len(known)
    assert bool(found) is bool(known)
    assert {value: found.get(value) for value in everything} == {
        value: known.get(value) for value in everything
    }
    at = found.find(np.array(everything, np.uint64), everything)
    assert {everything[position]: row for position, row in at.items()} == known
    hashes, rows = found.arrays()
    assert hashes.dtype == np.dtype(np.uint64)
    assert rows.dtype == np.dtype(np.int64)
    assert dict(zip(hashes.tolist(), rows.tolist(), strict=True)) == known
    assert len(hashes) == len(known)


@settings(deadline=None, max_examples=examples(60))
@given(
    st.lists(st.tuples(st.booleans(), st.lists(_HASHES, max_size=6, unique=True)), max_size=25),
    st.sampled_from([1, 2, 5, 1000]),
)
def test_as_in_one_dictionary(steps: list[tuple[bool, list[int]]], few: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pending_rows, "_FEW", few)
        found, known = PendingRows(), dict[int, int]()
        first = 0
        for put, values in steps:
            if put:
                new = [value for value in values if value not in known]
                found.put(new, first)
                known |= {value: first + at for at, value in enumerate(new)}
                first += len(new)
            else:
                found.discard(values)
                known = {value: row for value, row in known.items() if value not in values}
            _assert_same(found, known)


def test_arrays_are_few_and_memory_is_what_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_rows, "_FEW", 10)
    found = PendingRows()
    for start in range(0, 10_000, 10):
        found.put(range(start, start + 10), start)
    assert len(found) == 10_000
    sizes = [len(hashes) for hashes, _ in found._sorted]
    assert all(2 * one <= other for one, other in itertools.pairwise(sizes))
    assert len(found._latest) < 10
