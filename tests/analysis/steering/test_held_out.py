"""Held-out figures of vectors under a null and a known effect; p-values for the best of layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from actstore.analysis.steering import held_out
from actstore.analysis.steering.held_out import Examples, HeldOutSeparation

WIDTH = 12


def examples(positive: np.ndarray, groups: np.ndarray, names: Sequence[int]) -> Examples:
    keys: list[tuple[object, ...]] = [
        (None, None, f"e{name}", None, None, bool(side))
        for name, side in zip(names, positive.tolist(), strict=True)
    ]
    units = np.column_stack([groups, names])
    return Examples(keys, np.arange(len(keys)), positive, groups, units)


def layers(
    draw: np.random.Generator, signals: Sequence[float], *, pairs: bool = False, rows: int = 40
) -> tuple[list[HeldOutSeparation | None], list[float | None]]:
    """Measure layers that share most of their noise, as layers of one model do."""
    if pairs:
        groups = np.repeat(np.arange(rows // 2), 2)
        positive = np.arange(rows) % 2 == draw.integers(2, size=rows // 2).repeat(2)
    else:
        groups = np.arange(rows)
        positive = draw.permutation(np.arange(rows) % 2 == 0)
    own = draw.standard_normal((rows // 2, WIDTH)).repeat(2, axis=0) * 2 if pairs else 0
    common = draw.standard_normal((rows, WIDTH)) + own
    direction = draw.standard_normal(WIDTH) / np.sqrt(WIDTH)
    found = examples(positive, groups, range(rows))
    plan = held_out.plan([found], 0, 60)
    assert plan is not None
    held = []
    for signal in signals:
        noise = common + 0.7 * draw.standard_normal((rows, WIDTH))
        matrix = noise + 5 + signal * np.outer(np.where(positive, 1, -1), direction)
        held.append(held_out.measure(matrix.astype(np.float32), found, plan))
    return held, held_out.family_p(held)


@pytest.mark.parametrize("pairs", [False, True])
def test_under_a_null_of_six_layers_one_in_twenty_runs_finds_something(pairs: bool) -> None:
    draw = np.random.default_rng(5)
    found, single, areas = 0, 0, []
    for _ in range(50):
        held, family = layers(draw, [0.0] * 6, pairs=pairs)
        found += min(p for p in family if p is not None) <= 0.05
        alone = [held_out.family_p([one])[0] for one in held]
        single += min(p for p in alone if p is not None) <= 0.05
        areas += [one.auroc.value for one in held if one is not None]
    # Seven of 50 come about in less than two of a hundred trials at 5 %.
    assert found <= 6
    assert single > found  # what each layer's own p-value comes to
    assert np.mean(areas) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("pairs", [False, True])
def test_an_effect_in_one_of_ten_layers_is_found_there(pairs: bool) -> None:
    draw = np.random.default_rng(6)
    found = 0
    for _ in range(20):
        held, family = layers(draw, [0.0] * 9 + [3.0], pairs=pairs)
        assert held[9] is not None
        found += (family[9] or 1) <= 0.05 and held[9].auroc.low > 0.5
    assert found >= 19


def test_layers_of_different_examples_share_their_shuffles() -> None:
    draw = np.random.default_rng(7)
    positive = draw.permutation(np.arange(40) % 2 == 0)
    whole = examples(positive, np.arange(40), range(40))
    kept = np.flatnonzero(np.arange(40) != 3)
    part = examples(positive[kept], kept, kept.tolist())
    plan = held_out.plan([whole, part], 0, 50)
    assert plan is not None
    matrix = draw.standard_normal((40, WIDTH)).astype(np.float32)
    one, other = held_out.measure(matrix, whole, plan), held_out.measure(matrix[kept], part, plan)
    assert one is not None
    assert other is not None
    assert abs(one.auroc.value - other.auroc.value) < 0.2
    assert np.corrcoef(one.shuffled, other.shuffled)[0, 1] > 0.8


def test_tokens_are_averaged_before_anything_is_measured() -> None:
    codes = np.array([0, 1, 0, 2, 1])
    keys: list[tuple[object, ...]] = [("d", "s", name, None, None, True) for name in "abc"]
    found = Examples(keys, codes, np.ones(3, bool), np.arange(3), np.zeros((3, 2), np.int64))
    matrix = np.array([[0, 1], [2, 2], [4, 3], [7, 7], [4, 6]], np.float32)
    np.testing.assert_allclose(found.means(matrix), [[2, 2], [3, 4], [7, 7]])


def test_too_few_examples_have_no_figures() -> None:
    found = examples(np.array([True, False]), np.arange(2), range(2))
    assert held_out.plan([found], 0) is None
    assert held_out.family_p([None, None]) == [None, None]


def test_huge_and_shifted_values_give_the_same_figures() -> None:
    draw = np.random.default_rng(8)
    positive = draw.permutation(np.arange(60) % 2 == 0)
    found = examples(positive, np.arange(60), range(60))
    plan = held_out.plan([found], 0, 10)
    assert plan is not None
    matrix = draw.standard_normal((60, WIDTH)) + positive[:, None]
    plain = held_out.measure(matrix.astype(np.float32), found, plan)
    huge = held_out.measure((matrix * 1e25).astype(np.float32), found, plan)
    moved = held_out.measure((matrix + 100).astype(np.float32), found, plan)
    assert plain is not None
    for one in (huge, moved):
        assert one is not None
        assert one.auroc.value == pytest.approx(plain.auroc.value, abs=1e-3)


def test_few_examples_do_not_put_the_classes_further_apart_than_they_are() -> None:
    draw = np.random.default_rng(8)
    distances = []
    for run in range(60):
        positive = draw.permutation(np.arange(16) % 2 == 0)
        found = examples(positive, np.arange(16), range(16))
        plan = held_out.plan([found], run, 1)
        assert plan is not None
        matrix = draw.standard_normal((16, 1)) + np.where(positive, 1, -1)[:, None]
        held = held_out.measure(matrix.astype(np.float32), found, plan)
        assert held is not None
        assert held.separation is not None
        distances.append(held.separation)
    assert np.mean(distances) == pytest.approx(2, rel=0.2)
    assert max(distances) < 12
