"""The kernels against float64: any rows, any query, infinity and NaN included."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from actstore.storage import floats, kernels

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="numkong has no SIMD here")

HALVES = st.floats(width=16)
FINITE = st.floats(width=16, allow_nan=False, allow_infinity=False)
SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)
# Few kinds of values, much repeated, and long rows: sums that round in one direction.
LONG = st.tuples(st.integers(1, 3), st.sampled_from([1000, 1024, 1031, 4096, 9216]))


def rows(values: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    short = arrays.arrays(np.float16, SHAPES, elements=values)
    long = arrays.arrays(np.float16, LONG, elements=values, fill=values)
    return st.one_of(short, long)


def query_of(data: st.DataObject, width: int, **options: Any) -> np.ndarray:
    elements = st.floats(width=32, allow_nan=False, allow_infinity=False, **options)
    found: np.ndarray = data.draw(arrays.arrays(np.float32, width, elements=elements))
    return found


@settings(deadline=None, max_examples=60)
@given(st.one_of(rows(HALVES), arrays.arrays(np.float32, SHAPES, elements=st.floats(width=32))))
def test_norms(vectors: np.ndarray) -> None:
    bits = vectors.view(np.uint32) & 0xFFFF0000 if vectors.dtype == np.float32 else None
    for matrix in [vectors] if bits is None else [vectors, bits.view(np.float32)]:  # bfloat16's
        wide = matrix.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            expected = np.sqrt(np.vecdot(wide, wide)).astype(np.float32)
        found = floats.norms(matrix)
        assert np.array_equal(np.isnan(found), np.isnan(expected))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-44)


@settings(deadline=None, max_examples=60)
@given(rows(FINITE), st.data())
def test_products(vectors: np.ndarray, data: st.DataObject) -> None:
    query = query_of(data, vectors.shape[1])
    parts = kernels.halves(query)
    assert parts is not None
    found = kernels.products(vectors, parts)
    wide = vectors.astype(np.float64)
    size = np.linalg.norm(wide, axis=1) * np.linalg.norm(query.astype(np.float64))
    assert found is not None
    assert (np.abs(found - wide @ query.astype(np.float64)) <= 2e-6 * size).all()


@settings(deadline=None, max_examples=60)
@given(rows(FINITE), st.data())
def test_distances(vectors: np.ndarray, data: st.DataObject) -> None:
    point = query_of(data, vectors.shape[1], max_value=65504, min_value=-65504).astype(np.float16)
    found = kernels.distances(vectors, point)
    assert found is not None
    difference = vectors.astype(np.float64) - point.astype(np.float64)
    np.testing.assert_allclose(
        found,
        np.vecdot(difference, difference),
        rtol=1e-4,
        atol=1e-30,  # one sum of float32
    )


@settings(deadline=None, max_examples=40)
@given(rows(HALVES), st.data())
def test_what_is_not_finite_is_seen(vectors: np.ndarray, data: st.DataObject) -> None:
    parts = kernels.halves(query_of(data, vectors.shape[1]))
    assert parts is not None
    found = kernels.products(vectors, parts)
    assert found is not None
    broken = ~np.isfinite(vectors).all(axis=1)
    with np.errstate(invalid="ignore"):
        zero = vectors.astype(np.float64) @ np.zeros(vectors.shape[1])
    assert np.isfinite(found[~broken]).all()
    assert not np.isfinite(found[broken]).any()
    assert np.array_equal(np.isnan(zero), broken)  # as NumPy has it too


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_query_that_is_not_finite_has_no_parts(value: float) -> None:
    assert kernels.halves(np.array([1, value], np.float32)) is None


def test_a_query_of_halves_is_one_part_and_any_other_two_or_three() -> None:
    generator = np.random.default_rng(0)
    exact = generator.standard_normal(64).astype(np.float16).astype(np.float32)
    one = kernels.halves(exact)
    assert one is not None
    assert len(one.weights) == 1
    assert (one.first * one.weights[0]).tolist() == exact.tolist()
    several = kernels.halves(generator.standard_normal(64).astype(np.float32))
    assert several is not None
    assert len(several.weights) == 3
    nothing = kernels.halves(np.zeros(5, np.float32))
    assert nothing is not None
    assert kernels.products(np.ones((2, 5), np.float16), nothing).tolist() == [0, 0]  # type: ignore[union-attr]


def test_without_the_library_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = kernels.halves(np.ones(4, np.float32))
    assert parts is not None
    monkeypatch.setattr(kernels, "library", lambda: None)
    some: np.ndarray = np.ones((2, 4), np.float16)
    assert kernels.halves(np.ones(4, np.float32)) is None
    assert kernels.products(some, parts) is None
    assert kernels.squares(some) is None
    assert kernels.distances(some, some[0]) is None
