"""Folds that keep each group on one side."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from actstore.errors import TooFewRowsError, UsageError
from actstore.wording import counted


class Fold(NamedTuple):
    """One division of the rows; positions, int64, ascending."""

    train: np.ndarray
    test: np.ndarray


def grouped(
    codes: np.ndarray,
    groups: np.ndarray,
    count: int,
    seed: int,
    names: Sequence[str] = ("negative", "positive"),
) -> list[Fold]:
    """Divide rows into ``count`` folds; no group is on both sides, classes are spread evenly.

    Groups are dealt out one by one, the largest first and equal ones in an order drawn from
    ``seed``, each to the fold that holds the smallest share of its classes so far.

    Args:
        codes: class of each row, bool or int64 ``[rows]``.
        groups: int64 ``[rows]``, the number of each row's group.
        count: how many folds.
        seed: where the order comes from.
        names: of the classes, for messages.

    Raises:
        UsageError: fewer than two folds, or a negative seed.
        TooFewRowsError: a class occurs in fewer groups than there are folds.
    """
    if count < 2:
        raise UsageError(f"at least two folds are needed, got {count}")
    if seed < 0:
        raise UsageError(f"a seed cannot be negative, got {seed}")
    _, numbers = np.unique(groups, return_inverse=True)
    number = int(numbers.max(initial=-1)) + 1
    sizes = np.zeros((number, len(names)), np.int64)
    np.add.at(sizes, (numbers, codes.astype(np.int64)), 1)
    for side, name in enumerate(names):
        having = int((sizes[:, side] > 0).sum())
        if having < count:
            raise TooFewRowsError(
                f"the {name} class has {counted(int(sizes[:, side].sum()))} in "
                f"{counted(having, 'group')}, and {count} folds need {count} at least: "
                "use fewer --folds, more rows, or group them otherwise with --group-by"
            )
    return divisions(dealt(sizes, count, seed)[numbers], count)


def dealt(sizes: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the fold of each group, int64 ``[groups]``: how :func:`grouped` deals them out.

    Args:
        sizes: int64 ``[groups, classes]``, the rows of each class in each.
        count: how many folds.
        seed: where the order of groups of one size comes from.
    """
    number = len(sizes)
    order = np.random.default_rng(seed).permutation(number)
    order = order[np.argsort(-sizes[order].sum(1), kind="stable")]
    weight = 1 / np.square(np.maximum(sizes.sum(0), 1).astype(float))
    held = [[0] * sizes.shape[1] for _ in range(count)]
    fold_of = np.empty(number, np.int64)
    for group in order.tolist():
        own = sizes[group].tolist()
        fold = min(
            range(count),
            key=lambda k: (
                sum(map(operator.mul, map(operator.mul, held[k], own), weight)),
                sum(held[k]),
            ),
        )
        held[fold] = list(map(operator.add, held[fold], own))
        fold_of[group] = fold
    return fold_of


def divisions(assigned: np.ndarray, count: int) -> list[Fold]:
    """Return folds by each row's number of the one that it is tested in, int64 ``[rows]``."""
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
