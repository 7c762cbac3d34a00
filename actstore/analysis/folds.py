"""Folds that keep each group on one side, and permutations that respect groups and folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from actstore.errors import TooFewRowsError, UsageError
from actstore.wording import counted


class Fold(NamedTuple):
    """One division of the rows; positions, int64, ascending."""

    train: np.ndarray
    test: np.ndarray


def grouped(positive: np.ndarray, groups: np.ndarray, count: int, seed: int) -> list[Fold]:
    """Divide rows into ``count`` folds; no group is on both sides, classes are spread evenly.

    Groups are dealt out one by one, the largest first and equal ones in an order drawn from
    ``seed``, each to the fold that holds the smallest share of its classes so far.

    Args:
        positive: bool ``[rows]``.
        groups: int64 ``[rows]``, the number of each row's group.
        count: how many folds.
        seed: where the order comes from.

    Raises:
        UsageError: fewer than two folds, or a negative seed.
        TooFewRowsError: a class occurs in fewer groups than there are folds.
    """
    if count < 2:
        raise UsageError(f"at least two folds are needed, got {count}")
    if seed < 0:
        raise UsageError(f"a seed cannot be negative, got {seed}")
    _, codes = np.unique(groups, return_inverse=True)
    number = int(codes.max(initial=-1)) + 1
    sizes = np.zeros((number, 2), np.int64)
    np.add.at(sizes, (codes, positive.astype(np.int64)), 1)
    for side, name in enumerate(("negative", "positive")):
        having = int((sizes[:, side] > 0).sum())
        if having < count:
            raise TooFewRowsError(
                f"the {name} class has {int(sizes[:, side].sum())} rows in "
                f"{counted(having, 'group')}, and {count} folds need {count} at least: "
                "use fewer --folds, more rows, or group them otherwise with --group-by"
            )
    order = np.random.default_rng(seed).permutation(number)
    order = order[np.argsort(-sizes[order].sum(1), kind="stable")]
    weight = 1 / np.square(sizes.sum(0).astype(float))
    held = [[0, 0] for _ in range(count)]
    fold_of = np.empty(number, np.int64)
    for group in order.tolist():
        negatives, positives = sizes[group].tolist()
        fold = min(
            range(count),
            key=lambda k: (
                held[k][0] * negatives * weight[0] + held[k][1] * positives * weight[1],
                held[k][0] + held[k][1],
            ),
        )
        held[fold][0] += negatives
        held[fold][1] += positives
        fold_of[group] = fold
    assigned = fold_of[codes]
    return [
        Fold(np.flatnonzero(assigned != k), np.flatnonzero(assigned == k)) for k in range(count)
    ]


def divided(train: np.ndarray, test: np.ndarray, groups: np.ndarray) -> tuple[Fold, int]:
    """Return one division; training rows whose group is tested on are left out.

    Args:
        train: bool ``[rows]``.
        test: bool ``[rows]``.
        groups: int64 ``[rows]``.

    Returns:
        The division, and how many training rows were left out of it.
    """
    shared = train & np.isin(groups, groups[test])
    return Fold(np.flatnonzero(train & ~shared), np.flatnonzero(test)), int(shared.sum())


def permutations(
    positive: np.ndarray, groups: np.ndarray, parts: Sequence[np.ndarray], count: int, seed: int
) -> np.ndarray:
    """Return labels shuffled as they might be if they had nothing to do with the vectors.

    Within each part, groups of one class exchange their classes, and rows of a group that
    has both exchange theirs. So folds stay as even as they were, which makes the test
    that compares with these labels exact.

    Args:
        positive: bool ``[rows]``.
        groups: int64 ``[rows]``.
        parts: positions of the rows among which labels are exchanged: the tested rows of
            each fold, or the training rows and the tested rows of one division.
        count: how many.
        seed: where they come from.

    Returns:
        bool ``[rows, count]``.
    """
    generator = np.random.default_rng([seed, 1])
    shuffled = np.repeat(positive[:, None], count, axis=1)
    for part in parts:
        _, codes = np.unique(groups[part], return_inverse=True)
        size = np.bincount(codes)
        positives = np.bincount(codes, positive[part])
        pure = (positives == 0) | (positives == size)
        if pure.any():
            drawn = np.repeat((positives[pure] > 0)[:, None], count, axis=1)
            drawn = generator.permuted(drawn, axis=0)
            place = np.cumsum(pure) - 1
            rows = pure[codes]
            shuffled[part[rows]] = drawn[place[codes[rows]]]
        for group in np.flatnonzero(~pure).tolist():
            rows = part[codes == group]
            shuffled[rows] = generator.permuted(shuffled[rows], axis=0)
    return shuffled
