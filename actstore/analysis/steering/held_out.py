"""How well differences of means tell examples apart that they were not made of, layer by layer.

Each fold's examples are scored along the difference of the other folds' class means. Labels
are shuffled as for probes (:mod:`~actstore.analysis.statistics.shuffling`), the same shuffle
in every layer, and each shuffle's directions are found anew. A layer's family-wise p-value is
the share of shuffles whose *best* layer does at least as well as it (Westfall and Young
1993, the maximum statistic): it allows for the choice among layers, however alike they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from actstore.analysis.examples.place_rows import PlaceRows
from actstore.analysis.statistics import folds, metrics, shuffling
from actstore.analysis.statistics.folds import Fold
from actstore.analysis.statistics.metrics import IntervalEstimate
from actstore.errors import TooFewRowsError

SHUFFLES = 200
"""Runs with shuffled labels; the smallest p-value is one of 201."""
_FOLDS = 5
_LARGE = 1e12
"""Beyond it products of two values come near what float32 holds."""
_ROUNDING = 1e-6
"""Size of a difference against that of the means, below which it is rounding."""
_KEY = ("dataset", "split", "example_id", "example_index", "mode", "variant")


class Examples(NamedTuple):
    """The examples of one place, each with the rows (tokens) of one class that it has."""

    keys: list[tuple[object, ...]]
    """What tells them apart in every place, the class last; in order of appearance."""
    codes: np.ndarray
    """Each row's example, int64 ``[rows]``."""
    positive: np.ndarray
    """Bool ``[examples]``."""
    groups: np.ndarray
    """Int64 ``[examples]``: what must stay on one side, numbered alike in all places."""
    units: np.ndarray
    """Numbers of the example and of its version, int64 ``[examples, 2]``, likewise."""

    def means(self, vectors: np.ndarray) -> np.ndarray:
        """Return each example's mean, float32 ``[examples, width]``, of ``[rows, width]``."""
        if len(self.keys) == len(vectors):
            return vectors
        order = np.argsort(self.codes, kind="stable")
        starts = np.flatnonzero(np.diff(self.codes[order], prepend=-1))
        sums = np.add.reduceat(vectors[order], starts, axis=0)
        return sums / np.bincount(self.codes)[:, None].astype(np.float32)


class HeldOutSeparation(NamedTuple):
    """Figures of one layer's direction on examples that it was not made of."""

    separation: float | None
    """Distance of the class means along it in standard deviations (Cohen's d), within folds."""
    auroc: IntervalEstimate
    shuffled: np.ndarray
    """AUROC of each shuffle, float64 ``[shuffles]``; NaN where a class was missing."""


class SharedFolds(NamedTuple):
    """Folds and shuffles that all layers share."""

    places: dict[tuple[object, ...], int]
    """Number of each example of any layer."""
    groups: np.ndarray
    """Int64 ``[examples]``."""
    divisions: list[Fold]
    shuffled: np.ndarray
    """Bool ``[examples, shuffles]``."""


def examples(rows: PlaceRows) -> Examples:
    """Return the examples of a place's rows."""
    columns = [rows.table[name].to_pylist() for name in _KEY]
    numbers: dict[tuple[object, ...], int] = {}
    codes = np.array(
        [
            numbers.setdefault(key, len(numbers))
            for key in zip(*columns, rows.positive.tolist(), strict=True)
        ],
        np.int64,
    )
    first = np.unique(codes, return_index=True)[1]
    return Examples(
        list(numbers),
        codes,
        rows.positive[first],
        rows.groups[first],
        rows.grouping.units[first, :2],
    )


def plan(found: Sequence[Examples], seed: int, shuffles: int = SHUFFLES) -> SharedFolds | None:
    """Divide the examples of all layers into folds; None where a class has fewer than two groups.

    Args:
        found: the examples of each layer.
        seed: of folds and shuffles.
        shuffles: how many.
    """
    places: dict[tuple[object, ...], int] = {}
    identities: list[list[int]] = []
    for one in found:
        levels = np.column_stack([one.groups, one.units]).tolist()
        for key, numbers in zip(one.keys, levels, strict=True):
            if key not in places:
                places[key] = len(places)
                identities.append(numbers)
    positive = np.array([bool(key[-1]) for key in places])
    together = np.array(identities, np.int64)
    groups = together[:, 0]
    for count in range(_FOLDS, 1, -1):
        try:
            divisions = folds.grouped(positive, groups, count, seed)
        except TooFewRowsError:
            continue
        part = np.zeros(len(places), np.int64)
        for number, fold in enumerate(divisions):
            part[fold.test] = number
        levels = np.column_stack([part, together])
        shuffled = shuffling.exchanged(positive, levels, shuffles, seed)
        return SharedFolds(places, groups, divisions, shuffled)
    return None


def measure(means: np.ndarray, found: Examples, shared: SharedFolds) -> HeldOutSeparation | None:
    """Measure one layer; None where a fold of it lacks a class.

    Args:
        means: float32 ``[examples, width]``.
        found: the same examples.
        shared: of all layers.
    """
    at = np.array([shared.places[key] for key in found.keys], np.int64)
    divisions = _within(shared.divisions, at)
    if any(
        not 0 < int(found.positive[part].sum()) < len(part) for fold in divisions for part in fold
    ):
        return None
    labels = np.column_stack([found.positive, shared.shuffled[at]])
    scores = _scores(means, labels, divisions)
    areas = np.stack([metrics.auroc(scores[fold.test], labels[fold.test]) for fold in divisions])
    known = np.isfinite(areas)
    with np.errstate(invalid="ignore"):
        shuffled = (np.where(known, areas, 0).sum(0) / known.sum(0))[1:]
    own = scores[:, 0].astype(np.float64)
    return HeldOutSeparation(
        separation=_separation(own, found.positive, divisions),
        auroc=metrics.auroc_interval(own, found.positive, shared.groups[at], divisions),
        shuffled=shuffled,
    )


def family_p(held: Sequence[HeldOutSeparation | None]) -> list[float | None]:
    """Return the family-wise p-value of each layer; None for those that were not measured."""
    known = [one for one in held if one is not None]
    if not known or not len(known[0].shuffled):
        return [None] * len(held)
    drawn = np.stack([one.shuffled for one in known])
    best = np.where(np.isfinite(drawn), drawn, -np.inf).max(axis=0)
    return [
        None
        if one is None
        else float((1 + (best >= one.auroc.value - 1e-12).sum()) / (1 + len(best)))
        for one in held
    ]


def _within(divisions: Sequence[Fold], at: np.ndarray) -> list[Fold]:
    """Return the folds of the examples ``at`` alone, as positions among these."""
    return [Fold(*(np.flatnonzero(np.isin(at, part)) for part in fold)) for fold in divisions]


def _scores(means: np.ndarray, labels: np.ndarray, divisions: Sequence[Fold]) -> np.ndarray:
    """Return each example's score for each column of labels, float32 ``[examples, columns]``."""
    # Neither shift nor scale means anything to an AUROC; rounding is smaller without them.
    centred = means - means.mean(axis=0, dtype=np.float64).astype(np.float32)
    largest = float(np.abs(centred).max(initial=0))
    if largest > _LARGE:
        centred /= np.float32(largest)
    # Each fold's sums are taken once; a direction needs those of all others.
    ones = labels.astype(np.float32)
    sums = np.stack([centred[fold.test].T @ ones[fold.test] for fold in divisions])
    every = np.stack([centred[fold.test].sum(axis=0) for fold in divisions])[:, :, None]
    scores = np.zeros(labels.shape, np.float32)
    for number, fold in enumerate(divisions):
        # Summed without the fold rather than less it: one large row would leave its rounding.
        towards = np.delete(sums, number, axis=0).sum(axis=0)
        away = np.delete(every, number, axis=0).sum(axis=0) - towards
        count = ones[fold.train].sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            towards, away = towards / count, away / (len(fold.train) - count)
        direction = np.nan_to_num(towards - away)
        size = np.linalg.norm(direction, axis=0)
        around = np.linalg.norm(np.nan_to_num(towards), axis=0)
        # Of two means that are the same, only what rounding makes of them is left. Others have
        # length 1, so that distances in all folds have one unit.
        told = size > _ROUNDING * around
        direction[:, told] /= size[told]
        direction[:, ~told] = 0
        scores[fold.test] = centred[fold.test] @ direction
    return scores


def _separation(
    scores: np.ndarray, positive: np.ndarray, divisions: Sequence[Fold]
) -> float | None:
    distances, squares, freedom = [], 0.0, 0
    for fold in divisions:
        first = scores[fold.test][positive[fold.test]]
        second = scores[fold.test][~positive[fold.test]]
        distances.append(first.mean() - second.mean())
        squares += first.var() * len(first) + second.var() * len(second)
        freedom += len(first) + len(second) - 2
    # Deviations of single folds of few examples come near zero, and a mean of parts of them far.
    return float(np.mean(distances) / np.sqrt(squares / freedom)) if squares > 0 else None
