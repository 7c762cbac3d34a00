"""Rows on their way into a smaller type: what fits, what stays, and what is said of the loss."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actstore.errors import ConflictError
from actstore.storage import floats, narrowing
from actstore.storage.manifest import Rounding
from actstore.storage.rehearsal import Rehearsal
from actstore.storage.rows import Narrow, RowBatch
from actstore.storage.snapshot import open_snapshot
from actstore.storage.verification import verify
from actstore.storage.writer import StoreWriter
from tests.storage.stores import RUN, batch, write


def of(vectors: np.ndarray) -> RowBatch:
    whole = batch(0, len(vectors), width=vectors.shape[1], dtype="float32")
    return dataclasses.replace(whole, vectors=vectors)


bfloat16 = st.integers(0, 0xFFFF).map(
    lambda bits: np.array([bits << 16], np.uint32).view(np.float32)[0]
)


@given(st.lists(bfloat16, min_size=1, max_size=20))
def test_a_bfloat16_within_range_is_a_float16_exactly(values: list[np.float32]) -> None:
    """What is smaller than 2^-14 is off by at most 2^-25; the largest is 65,280."""
    vectors = np.array(values, np.float32)[:, None]
    parts = list(narrowing.narrowed(of(vectors), "compact16"))
    half = [part for part in parts if part.vectors.dtype == np.float16]
    finite = vectors[np.isfinite(vectors)]
    assert (
        sum(len(part) for part in parts if part.vectors.dtype == np.float32)
        == (np.abs(finite) > 65504).sum()
    )
    for part in half:
        rows = [int(name[1:]) for name in part.columns["example_id"]]
        was, now = vectors[rows], floats.widen(part.vectors)
        with np.errstate(invalid="ignore"):
            gap = np.abs(was - now)
        exact = ~np.isfinite(was) | (np.abs(was) >= 2.0**-14)
        assert (np.isnan(was) == np.isnan(now)).all()
        assert (was[exact & ~np.isnan(was)] == now[exact & ~np.isnan(was)]).all()
        assert (gap[~exact] <= 2.0**-25).all()
        lost = part.rounding or Rounding(0, 0.0)
        assert lost.values == (gap > 0).sum()
        assert lost.greatest == (gap[gap > 0].max() if lost.values else 0)


def test_rows_that_overflow_stay_and_nan_and_infinity_do_not_make_them(tmp_path: Path) -> None:
    vectors = np.ones((5, 8), np.float32)
    vectors[1, 3], vectors[2, 0], vectors[3, 0] = 65520, np.inf, np.nan
    vectors[4, 0] = 1 + 2.0**-12
    write(tmp_path / "s", of(vectors), narrow="compact16")
    snapshot = open_snapshot(tmp_path / "s")
    assert [(e.dtype, e.rows, e.rounding) for e in snapshot.shards] == [
        ("float16", 4, Rounding(1, 2.0**-12)),
        ("float32", 1, None),
    ]
    read = snapshot.gather(np.arange(5))
    assert read[4, 3] == 65520
    assert np.isposinf(read[1, 0])
    assert np.isnan(read[2, 0])


def test_float16_is_small_already() -> None:
    whole = batch(0, 3, dtype="float16")
    whole.vectors[1, 0] = np.inf
    (part,) = narrowing.narrowed(whole, "compact16")
    assert part.vectors is whole.vectors
    assert (part.columns, part.scales, part.rounding) == (whole.columns, None, None)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_int8_keeps_rows_without_numbers_in_their_type(tmp_path: Path, dtype: str) -> None:
    one = batch(0, 6, dtype=dtype)
    one.vectors[2, 1] = np.nan
    one.vectors[3] = 0
    write(tmp_path / "s", one, narrow="int8")
    snapshot = open_snapshot(tmp_path / "s")
    # Shards of one commit come in the order in which they were begun.
    assert [(e.dtype, e.rows) for e in snapshot.shards] == [("int8", 5), (dtype, 1)]
    read = snapshot.gather(np.arange(6))
    assert not read[2].any()
    assert np.isnan(read[5, 1])


@pytest.mark.parametrize("narrow", ["compact16", "int8"])
def test_rows_that_are_stored_are_known_again_in_whatever_type_they_come(
    tmp_path: Path, narrow: Narrow
) -> None:
    one = batch(0, 9, dtype="float32")
    one.vectors[0, 0] = 1e9 if narrow == "compact16" else np.inf
    write(tmp_path / "s", one, narrow=narrow)
    for again in (narrow, None) if narrow == "int8" else (narrow,):
        assert write(tmp_path / "s", one, narrow=again) is None
    other = dataclasses.replace(one, vectors=one.vectors + 1)
    with pytest.raises(ConflictError, match="stored with a different vector"):
        write(tmp_path / "s", other, narrow=narrow)
    write(tmp_path / "other", one)
    if narrow == "int8":
        assert write(tmp_path / "other", one, narrow="int8") is None


def test_a_session_says_what_was_lost(tmp_path: Path) -> None:
    vectors = np.ones((3, 8), np.float32)
    vectors[0, 0], vectors[1, 1] = 1e6, 0.1
    with StoreWriter(tmp_path / "s", run=RUN, narrow="compact16") as writer:
        assert writer.narrowing_note is None
        added = writer.add(of(vectors))
        assert (added.written, added.bytes) == (3, 2 * 8 * 2 + 8 * 4)
        refused = of(np.concatenate([vectors[1:], vectors]) + 1)
        with pytest.raises(ConflictError):  # taken back, and not counted
            writer.add(refused)
        assert writer.narrowing_note == (
            "compact16: 1 values were rounded, by at most 2.4e-05; 1 row with values beyond 65,504 "
            "stayed float32"
        )


def test_a_rehearsal_says_what_would_be_saved(tmp_path: Path) -> None:
    with Rehearsal(tmp_path / "s", run=RUN) as rehearsal:
        rehearsal.add(of(np.ones((10, 8), np.float32)))
        rehearsal.add(batch(10, 3, dtype="float16"))
        note = rehearsal.narrowing_note
    assert note is not None
    assert "320 bytes; --storage-dtype compact16 would take 160 bytes and round nothing" in note
    assert note.endswith("int8 120 bytes")
    with Rehearsal(tmp_path / "s", run=RUN, narrow="int8") as rehearsal:
        rehearsal.add(of(np.ones((10, 8), np.float32)))
        # A scale is a float32: 127 of them are not exactly 1.
        assert rehearsal.narrowing_note == "int8: 80 values were rounded, by at most 1.2e-07"
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("narrow", ["compact16", "int8"])
def test_such_stores_are_sound(tmp_path: Path, narrow: Narrow) -> None:
    write(tmp_path / "s", batch(0, 50, width=7, dtype="float32"), narrow=narrow)
    snapshot = open_snapshot(tmp_path / "s")
    assert verify(snapshot) == []
    assert snapshot.shards[0].rounding is not None
