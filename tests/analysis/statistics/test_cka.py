"""Centred kernel alignment, held against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from actstore.analysis.statistics.cka import linear_cka

RNG = np.random.default_rng(5)


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    n = len(x)
    h = np.eye(n) - 1 / n
    k, l = h @ x @ x.T @ h, h @ y @ y.T @ h  # noqa: E741
    return float((k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum()))


def hsic(x: np.ndarray, y: np.ndarray) -> float:
    n = len(x)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    one = np.ones(n)
    sums = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return float((np.trace(k @ l) + sums - 2 / (n - 2) * one @ k @ l @ one) / (n * (n - 3)))


@pytest.mark.parametrize(("rows", "width", "other"), [(12, 30, 20), (50, 6, 9), (20, 4, 40)])
def test_both_forms_are_the_definition(rows: int, width: int, other: int) -> None:
    x = RNG.standard_normal((rows, width)).astype(np.float32) + 3
    y = (x @ RNG.standard_normal((width, other)) + RNG.standard_normal((rows, other))).astype(
        np.float32
    )
    found = linear_cka(x, y)
    x, y = x.astype(np.float64), y.astype(np.float64)
    assert found.cka == pytest.approx(by_definition(x, y), rel=1e-5)
    unbiased = hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))
    assert found.debiased == pytest.approx(unbiased, rel=1e-4)


def test_rotation_and_scale_do_not_matter() -> None:
    x = RNG.standard_normal((40, 8)).astype(np.float32)
    rotation = np.linalg.qr(RNG.standard_normal((8, 8)))[0]
    found = linear_cka(x, (1e4 * x @ rotation + 7).astype(np.float32))
    assert found.cka == pytest.approx(1, abs=1e-4)
    assert found.debiased == pytest.approx(1, abs=1e-4)


def test_noise_is_told_from_likeness_by_the_debiased_form_only() -> None:
    x, y = (RNG.standard_normal((20, 2000)).astype(np.float32) for _ in range(2))
    found = linear_cka(x, y)
    assert found.cka is not None
    assert found.cka > 0.9
    assert found.debiased == pytest.approx(0, abs=0.2)


def test_too_few_rows_and_rows_that_do_not_vary() -> None:
    x = RNG.standard_normal((3, 5)).astype(np.float32)
    assert linear_cka(x[:1], x[:1]) == (None, None)
    found = linear_cka(x, x)
    assert found.cka == pytest.approx(1)
    assert found.debiased is None
    assert linear_cka(x, np.ones_like(x)) == (None, None)
