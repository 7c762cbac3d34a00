"""Exact widening, finiteness and norms, against NumPy's own arithmetic."""

import numpy as np
import pytest

from actstore.storage import floats, kernels


@pytest.fixture(autouse=True, params=["numkong", "NumPy"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernels, and as on a machine without them."""
    if request.param == "NumPy":
        monkeypatch.setattr(kernels, "library", lambda: None)


def test_widen_agrees_with_numpy_on_every_half() -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    theirs = halves.astype(np.float32)
    assert np.array_equal(floats.widen(halves).view(np.uint32), theirs.view(np.uint32))
    number = ~np.isnan(theirs)  # in blocks without NaN nothing is done twice
    ours = floats.widen(halves[number])
    assert np.array_equal(ours.view(np.uint32), theirs[number].view(np.uint32))


@pytest.mark.parametrize("shape", [(1, 1), (3, 70_000), (1000, 129)])
def test_widen_any_shape_and_slices(shape: tuple[int, int]) -> None:
    halves = np.random.default_rng(0).standard_normal(shape).astype(np.float16)
    assert np.array_equal(floats.widen(halves), halves.astype(np.float32))
    strided = halves[:, ::2]
    assert np.array_equal(floats.widen(strided), strided.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_finite_sees_one_bad_value_anywhere(dtype: type, bad: float) -> None:
    values: np.ndarray = np.zeros((7, 40_000), dtype)
    assert floats.finite(values)
    values[-1, -1] = bad
    assert not floats.finite(values)


def test_norms_survive_overflow_and_underflow_of_the_squares() -> None:
    vectors = np.array([[3e30, 4e30], [3e-30, 4e-30], [0, 0], [3, 4]], np.float32)
    assert floats.norms(vectors) == pytest.approx([5e30, 5e-30, 0, 5], rel=1e-6)


def test_norms_of_halves() -> None:
    halves = np.random.default_rng(1).standard_normal((513, 777)).astype(np.float16)
    expected = np.linalg.norm(halves.astype(np.float64), axis=1)
    assert floats.norms(halves) == pytest.approx(expected, rel=1e-5)
    halves[5, 5] = np.inf
    assert np.isinf(floats.norms(halves)[5])


@pytest.mark.parametrize("width", [1, 1024, 1536, 4099, 70_000])
def test_norms_of_long_rows_of_equal_values(width: int) -> None:
    # Sums of equal values are rounded in one direction, over and over.
    halves: np.ndarray = np.full((3, width), 0.1, np.float16)
    expected = np.linalg.norm(halves.astype(np.float64), axis=1)
    assert floats.norms(halves) == pytest.approx(expected, rel=1e-5)


def test_norms_of_rows_that_are_not_in_one_piece() -> None:
    halves = np.random.default_rng(2).standard_normal((40, 96)).astype(np.float16)
    aside = np.frombuffer(b"x" + halves.tobytes(), np.uint8)[1:].view(np.float16).reshape(40, 96)
    for rows in (halves[::3], halves[::-1], halves[:, 5:50], halves[:, ::2], halves.T, aside):
        expected = np.linalg.norm(rows.astype(np.float64), axis=1)
        assert floats.norms(rows) == pytest.approx(expected, rel=1e-6)
    assert floats.norms(halves[:0]).shape == (0,)
    assert floats.norms(halves[:, :0]).tolist() == [0] * 40
