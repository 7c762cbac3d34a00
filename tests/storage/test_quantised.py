"""Vectors as whole numbers: no value is off by more than half its row's scale."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from actstore.storage import quantised

_SLACK = 1 + 2.0**-14
"""What float32 division and multiplication add to half a scale."""

LARGEST = float(np.float32(3.4e38))
any_rows = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 9)),
    elements=st.floats(-LARGEST, LARGEST, width=32),
)


@given(any_rows)
def test_no_value_is_off_by_more_than_half_the_scale(vectors: np.ndarray) -> None:
    numbers, scales = quantised.quantise(vectors)
    assert numbers.dtype == np.int8
    assert numbers.min() >= -127
    exact = numbers.astype(np.float64) * scales.astype(np.float64)[:, None]
    gap = np.abs(vectors.astype(np.float64) - exact)
    assert (gap <= scales[:, None].astype(np.float64) / 2 * _SLACK).all()
    read = quantised.restore(numbers, scales)
    assert np.isfinite(read).all()
    tiny = np.finfo(np.float32).smallest_subnormal
    assert (np.abs(read - exact) <= np.maximum(np.abs(exact) * 2.0**-24, tiny / 2)).all()


@given(any_rows)
def test_the_scale_is_that_of_the_largest_value(vectors: np.ndarray) -> None:
    numbers, scales = quantised.quantise(vectors)
    largest = np.abs(vectors).max(axis=1).astype(np.float64)
    assert (scales.astype(np.float64) * 127 >= largest).all()
    assert ((scales == 0) == (largest == 0)).all()
    normal = largest > 1e-30
    assert (np.abs(numbers[normal]).max(axis=1, initial=0) == 127).all() or not normal.any()


@given(any_rows, st.integers(0, 3))
def test_a_negative_mirrors_and_rows_do_not_depend_on_their_neighbours(
    vectors: np.ndarray, chosen: int
) -> None:
    numbers, scales = quantised.quantise(vectors)
    mirrored, same = quantised.quantise(-vectors)
    assert (mirrored == -numbers).all()
    assert (same == scales).all()
    row = chosen % len(vectors)
    alone, scale = quantised.quantise(vectors[row : row + 1])
    assert (alone[0] == numbers[row]).all()
    assert scale[0] == scales[row]


def test_rows_with_nan_or_infinity_do_not_fit() -> None:
    vectors = np.zeros((5, 3), np.float32)
    vectors[1, 2], vectors[2, 0], vectors[3, 1] = np.nan, np.inf, np.finfo(np.float32).max
    assert quantised.fit(vectors).tolist() == [True, False, False, False, True]
    half = np.array([[1, np.inf], [65504, -65504]], np.float16)
    assert quantised.fit(half).tolist() == [False, True]
    read = quantised.rounded(vectors)
    assert np.isnan(read[1, 2])
    assert np.isposinf(read[2, 0])
    assert read[3, 1] == vectors[3, 1]


def test_norms_are_those_of_what_is_read_back() -> None:
    vectors = np.random.default_rng(0).standard_normal((700, 1000)).astype(np.float32)
    numbers, scales = quantised.quantise(vectors)
    found = np.empty(700, np.float32)
    quantised.norms(numbers, found)
    read = quantised.restore(numbers, scales).astype(np.float64)
    assert found * scales == pytest.approx(np.linalg.norm(read, axis=1), rel=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_vectors_are_restored_into_other_types(dtype: str) -> None:
    numbers = np.array([[127, -1], [0, 3]], np.int8)
    out = np.empty((2, 2), dtype)
    assert quantised.restore(numbers, np.array([0.5, 2], np.float32), out) is out
    assert out.tolist() == [[63.5, -0.5], [0, 6]]


def test_scales_of_a_growing_shard() -> None:
    scales = quantised.RowScales()
    scales.append(np.array([1, 2, 3], np.float32))
    scales.append(np.array([4], np.float32)[::-1])
    scales.truncate(3)
    scales.append(np.array([5, 6], np.float32))
    assert scales.of(1, 4).tolist() == [2, 3, 5]
    assert scales.at([4, 0]).tolist() == [6, 1]
