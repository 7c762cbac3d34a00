"""The stored type: exact or refused, never changed in silence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from actstore.errors import LayoutError, NonFiniteError, PrecisionError
from actstore.ingestion.options import Options
from actstore.ingestion.precision import Stored, stored


def store(values: Any, dtype: Any = np.float32, **options: Any) -> Stored:
    vectors = np.array(values, dtype)
    return stored(vectors, Options(**options), lambda row: f"file#key row {row}")


def same(left: np.ndarray, right: np.ndarray) -> bool:
    return left.dtype == right.dtype and left.tobytes() == right.tobytes()


EDGES = [[0.0, -0.0, 6.1e-5, 5.96e-8], [65504.0, -1.5, 1e-7, 1.0]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_both_stored_types_stay_as_they_are(dtype: Any) -> None:
    vectors = np.array(EDGES, dtype)
    result = stored(vectors, Options(), str)
    assert result.vectors is vectors
    assert (result.rounded, result.nonfinite) == (0, 0)


def test_the_result_is_contiguous() -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2]
    result = stored(vectors, Options(), str).vectors
    assert result.flags.c_contiguous
    assert np.array_equal(result, vectors)


def test_float16_widens_on_request() -> None:
    half = np.array(EDGES, np.float16)
    assert same(store(half, np.float16, storage_dtype="float32").vectors, half.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint64, bool])
def test_whole_numbers_become_float32(dtype: Any) -> None:
    result = store([[0, 1, 1]], dtype)
    assert same(result.vectors, np.array([[0, 1, 1]], np.float32))


@pytest.mark.parametrize(
    ("values", "dtype", "where"),
    [
        ([[1.0, 0.1]], np.float64, "row 0, column 1 = 0.1: float32 would round 1 value of 2"),
        ([[0, 2**24 + 1]], np.int32, "row 0, column 1 = 16777217"),
        ([[2**53, 2**53 + 1]], np.int64, "row 0, column 1 = 9007199254740993"),
        ([[0], [2**63 - 1]], np.int64, "row 1, column 0 = 9223372036854775807"),
        ([[0], [2**64 - 1]], np.uint64, "row 1, column 0 = 18446744073709551615"),
    ],
)
def test_what_float32_cannot_hold_is_refused(values: Any, dtype: Any, where: str) -> None:
    with pytest.raises(PrecisionError) as caught:
        store(values, dtype)
    assert where in str(caught.value)
    assert "--storage-dtype float32 --allow-rounding" in str(caught.value)
    assert "file#key" in str(caught.value)


def test_float64_that_fits_is_taken() -> None:
    values = np.array(EDGES, np.float32).astype(np.float64)
    assert same(store(values, np.float64).vectors, values.astype(np.float32))


def test_rounding_to_float32_can_be_allowed_and_is_counted() -> None:
    result = store([[0.1, 0.5, 0.3]], np.float64, storage_dtype="float32", allow_rounding=True)
    assert same(result.vectors, np.array([[0.1, 0.5, 0.3]], np.float32))
    assert result.rounded == 2
    with pytest.raises(PrecisionError, match=r"1 value overflows float32 .*widest"):
        store([[1e300]], np.float64, storage_dtype="float32", allow_rounding=True)


def test_narrowing_refuses_overflow_always() -> None:
    values = [[1.0, 65504.0], [65536.0, -1e30]]
    for allow in (False, True):
        with pytest.raises(PrecisionError) as caught:
            store(values, storage_dtype="float16", allow_rounding=allow)
        assert "row 1, column 0 = 65536.0: 2 values overflow float16" in str(caught.value)
        assert "leave out --storage-dtype" in str(caught.value)


def test_narrowing_refuses_rounding_unless_allowed() -> None:
    values = [[1.0, 1.0 + 2**-11], [1e-9, 2.0]]
    with pytest.raises(PrecisionError) as caught:
        store(values, storage_dtype="float16")
    assert "row 0, column 1" in str(caught.value)
    assert "would round 2 values of 4" in str(caught.value)
    result = store(values, storage_dtype="float16", allow_rounding=True)
    assert result.rounded == 2
    assert same(result.vectors, np.array([[1.0, 1.0], [0.0, 2.0]], np.float16))


def test_values_just_below_the_limit_round_without_overflow() -> None:
    # 65519 rounds to 65504, 65520 to infinity.
    assert store([[65519.0]], storage_dtype="float16", allow_rounding=True).rounded == 1
    with pytest.raises(PrecisionError, match="overflows"):
        store([[65520.0]], storage_dtype="float16", allow_rounding=True)


def test_auto_narrows_where_nothing_changes() -> None:
    half = np.array(EDGES, np.float16)
    assert same(store(half.astype(np.float32), storage_dtype="auto").vectors, half)
    wide = np.array([[1.0, 1.0 + 2**-20]], np.float32)
    assert same(store(wide, storage_dtype="auto").vectors, wide)
    huge = np.array([[70000.0]], np.float32)
    assert same(store(huge, storage_dtype="auto").vectors, huge)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(dtype: Any, bad: float) -> None:
    values = [[0.0, 1.0, 2.0], [3.0, bad, bad]]
    with pytest.raises(NonFiniteError) as caught:
        store(values, dtype)
    assert f"file#key row 1, column 1 = {bad}: 2 values are" in str(caught.value)
    assert "--allow-nonfinite" in str(caught.value)


@pytest.mark.parametrize("storage", [None, "float32", "float16", "auto"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_what_is_not_finite_can_be_allowed(storage: Any, dtype: Any) -> None:
    values = np.array([[np.nan, np.inf, -np.inf, 1.5]], dtype)
    result = store(values, dtype, storage_dtype=storage, allow_nonfinite=True)
    assert result.nonfinite == 3
    assert result.rounded == 0
    assert np.array_equal(result.vectors.astype(np.float64), values, equal_nan=True)


def test_text_is_no_vector() -> None:
    with pytest.raises(LayoutError, match="no vector"):
        store([["a", "b"]], np.str_)


@given(arrays(np.float32, (3, 4), elements=st.floats(width=32, allow_nan=False)))
def test_auto_never_changes_a_value(values: np.ndarray) -> None:
    result = stored(values, Options(storage_dtype="auto", allow_nonfinite=True), str).vectors
    assert result.astype(np.float32).tobytes() == values.tobytes()


@given(arrays(np.uint16, (2, 8)))
def test_every_finite_half_survives_the_way_through_float32(bits: np.ndarray) -> None:
    half = bits.view(np.float16)
    half = np.where(np.isfinite(half), half, np.float16(0))
    result = stored(half.astype(np.float32), Options(storage_dtype="float16"), str).vectors
    assert result.tobytes() == half.tobytes()
