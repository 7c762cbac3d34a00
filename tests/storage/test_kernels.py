"""The kernels against float64: any rows, any query, infinity and NaN included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore.storage import floats, kernels
from tests.torture.effort import examples

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="numkong has no SIMD here")

SEED = st.integers(0, 1 << 32)
WIDTH = st.one_of(st.integers(1, 70), st.sampled_from([1000, 1024, 1031, 4096, 9216]))
ANY_HALF = st.floats(width=16)
FINITE_HALF = st.floats(width=16, allow_nan=False, allow_infinity=False)


@st.composite
def rows(draw: st.DrawFn, values: st.SearchStrategy[float], dtype: type = np.float16) -> np.ndarray:
    """Return vectors of a few values, which come again and again: hard ones, or one alone."""
    few: np.ndarray = np.array(draw(st.lists(values, min_size=1, max_size=8)), dtype)
    shape = draw(st.integers(1, 9)), draw(WIDTH)
    return np.random.default_rng(draw(SEED)).choice(few, shape)


def query_of(data: st.DataObject, width: int, largest: int = 120) -> np.ndarray:
    """Return a finite float32 vector, of values of one size or of very different ones."""
    generator = np.random.default_rng(data.draw(SEED))
    low, high = sorted(data.draw(st.tuples(st.integers(-140, largest), st.integers(-140, largest))))
    values = np.ldexp(generator.standard_normal(width), generator.integers(low, high + 1, width))
    kind = data.draw(st.sampled_from([np.float16, np.float32]))
    with np.errstate(over="ignore"):
        found = values.astype(kind).astype(np.float32)
    return np.where(np.isfinite(found), found, np.float32(1))


@settings(deadline=None, max_examples=examples(60))
@given(st.one_of(rows(ANY_HALF), rows(st.floats(width=32), np.float32)))
def test_norms(vectors: np.ndarray) -> None:
    bits = vectors.view(np.uint32) & 0xFFFF0000 if vectors.dtype == np.float32 else None
    for matrix in [vectors] if bits is None else [vectors, bits.view(np.float32)]:  # bfloat16's
        wide = matrix.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            expected = np.sqrt(np.vecdot(wide, wide)).astype(np.float32)
        found = floats.norms(matrix)
        assert np.array_equal(np.isnan(found), np.isnan(expected))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-44)


@settings(deadline=None, max_examples=examples(60))
@given(rows(FINITE_HALF), st.data())
def test_products(vectors: np.ndarray, data: st.DataObject) -> None:
    query = query_of(data, vectors.shape[1])
    parts = kernels.halves(query)
    assert parts is not None
    found = kernels.products(vectors, parts)
    wide = vectors.astype(np.float64)
    size = np.linalg.norm(wide, axis=1) * np.linalg.norm(query.astype(np.float64))
    assert found is not None
    assert (np.abs(found - wide @ query.astype(np.float64)) <= 2e-6 * size).all()


@settings(deadline=None, max_examples=examples(60))
@given(rows(FINITE_HALF), st.data())
def test_distances(vectors: np.ndarray, data: st.DataObject) -> None:
    point = query_of(data, vectors.shape[1], 12).astype(np.float16)
    found = kernels.distances(vectors, point)
    assert found is not None
    difference = vectors.astype(np.float64) - point.astype(np.float64)
    np.testing.assert_allclose(
        found,
        np.vecdot(difference, difference),
        rtol=1e-4,
        atol=1e-30,  # one sum of float32
    )


@settings(deadline=None, max_examples=examples(40))
@given(rows(ANY_HALF), st.data())
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


@pytest.mark.parametrize("width", [1, 96, 512, 600, 1031, 4096])
def test_products_by_segment_are_as_sure_as_they_say(width: int) -> None:
    generator = np.random.default_rng(width)
    rows = generator.standard_normal((50, width)) + 3 * generator.standard_normal(width)
    rows[:10] *= 1_000.0
    rows[10:20] *= 1e-6
    stored = rows.astype(np.float16)
    wide = stored.astype(np.float64)

    def products(vectors: np.ndarray, cut: kernels.HalvesBySegment | None) -> np.ndarray:
        assert cut is not None
        found = kernels.products_by_segment(vectors, cut)
        assert found is not None
        return found

    for scale in (1e-30, 1e30, 1.0):
        query = (scale * generator.standard_normal(width)).astype(np.float32)
        cut = kernels.halves_by_segment(query)
        assert cut is not None
        assert len(cut.packs) * cut.size == width
        found = products(stored, cut)
        lengths = np.linalg.norm(wide, axis=1) * np.linalg.norm(query.astype(np.float64))
        assert (np.abs(found - wide @ query.astype(np.float64)) <= cut.error * lengths).all()
        assert np.array_equal(products(stored[::2], cut), found[::2])
    stored[3, 0] = np.inf
    again = products(stored, cut)
    assert not np.isfinite(again[3])
    assert np.array_equal(np.delete(again, 3), np.delete(found, 3))
    assert cut is not None
    assert kernels.products_by_segment(stored.astype(np.float32), cut) is None
    assert kernels.halves_by_segment(np.full(width, np.nan, np.float32)) is None
