"""Corrects for the choice among many layers: family-wise p-values, the nested AUROC of the best.

The best of many layers is high by chance. So each place's AUROC is held against the largest
of all places on the same shuffled labels (Westfall and Young 1993, single step), which knows
how much the layers have in common. And the best layer is chosen anew for each fold by what
the other folds tell, so that the fold that judges has no part in the choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from actstore.analysis.examples.place_rows import ActivationPlace
from actstore.analysis.statistics import metrics
from actstore.analysis.statistics.folds import Fold
from actstore.analysis.statistics.metrics import IntervalEstimate

_EQUAL = 1e-12
_DRAWS = 2000
"""Draws of the largest of correlated differences."""


class Chance(NamedTuple):
    """Shares of shuffled runs, the real one included."""

    above: np.ndarray
    """Whose largest AUROC of all places is at least the place's; float64 ``[places]``."""
    below: np.ndarray
    """Whose smallest one is at most the place's."""


def chance(areas: np.ndarray, alike: bool) -> Chance:
    """Return family-wise p-values.

    Args:
        areas: AUROC by place and run, the first run being the one with the real labels;
            float64 ``[places, runs]``.
        alike: whether all places test the same rows. Where they do not, a small place's AUROC
            varies more and would drown the others': each is then measured in standard
            deviations of its own runs.
    """
    measured = areas
    if not alike:
        spread = areas.std(1, keepdims=True)
        measured = (areas - areas.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1)
    own = measured[:, :1]
    largest, smallest = measured[:, 1:].max(0), measured[:, 1:].min(0)
    runs = areas.shape[1]
    return Chance(
        (1 + (largest >= own - _EQUAL).sum(1)) / runs,
        (1 + (smallest <= own + _EQUAL).sum(1)) / runs,
    )


def differences(
    values: np.ndarray, influences: np.ndarray, errors: np.ndarray, freedom: float, seed: int
) -> np.ndarray:
    """Return family-wise p-values of differences that should be above 0.

    How far the largest of the places' differences goes by chance is drawn from their
    influences, groups being multiplied by the same normal numbers in all places. Errors that
    are known from few groups are too small in all places at once: each draw is divided by
    one error of that kind, which makes it a multivariate Student's t.

    Args:
        values: of each place, float64 ``[places]``.
        influences: what each group adds to the error of each, float64 ``[groups, places]``.
        errors: the standard error of each, float64 ``[places]``.
        freedom: degrees of freedom of these.
        seed: of the draws.
    """
    spreads = np.sqrt(np.square(influences).sum(0))
    generator = np.random.default_rng([seed, 2])
    draws = generator.standard_normal((_DRAWS, len(influences)))
    draws /= np.sqrt(generator.chisquare(freedom, _DRAWS) / freedom)[:, None]
    largest = (draws @ (influences / np.where(spreads > 0, spreads, 1))).max(1)
    steady = np.where(errors > 0, errors, 1)
    own = np.where(errors > 0, values / steady, np.where(values > 0, np.inf, -np.inf))
    found: np.ndarray = (1 + (largest[:, None] >= own).sum(0)) / (1 + _DRAWS)
    return found


class Candidate(NamedTuple):
    """The test results of one place, among which the best is chosen."""

    place: ActivationPlace
    auroc: IntervalEstimate
    scores: np.ndarray
    """Float64 ``[rows]``, of several classes ``[rows, classes]``, held out."""
    labels: np.ndarray
    """Whether rows are positive, or the number of their class, ``[rows]``."""
    groups: np.ndarray
    divisions: list[Fold]
    width: int
    choosing: np.ndarray | None
    """By what each fold's layer is chosen, float64 ``[folds]``; None where that cannot be."""


class Best(NamedTuple):
    """The place with the largest AUROC, and the nested AUROC of choosing it by data."""

    place: ActivationPlace
    auroc: IntervalEstimate
    places: int
    """How many it is the best of."""
    nested: IntervalEstimate | None
    """Mean AUROC of the folds, each by the place that the other folds chose."""
    chosen: list[ActivationPlace]
    """That place for each fold."""
    reason: str | None
    """Why there is no nested estimate."""

    @property
    def optimistic(self) -> bool:
        """Whether only the chosen figure itself is known."""
        return self.nested is None


def best(tested: Sequence[Candidate], reason: str | None) -> Best | None:
    """Return the best of several places, and the nested AUROC of that choice.

    Args:
        tested: the places; of one there is no choice.
        reason: why there is no nested estimate, if that is known.
    """
    if len(tested) < 2:
        return None
    top = max(tested, key=lambda each: each.auroc.value)
    choosing = [each.choosing for each in tested if each.choosing is not None]
    if reason is not None or len(choosing) < len(tested):
        return Best(top.place, top.auroc, len(tested), None, [], reason or "too few groups")
    winners = [tested[number] for number in np.argmax(np.array(choosing), axis=0).tolist()]
    pieces = [(each, each.divisions[fold].test) for fold, each in enumerate(winners)]
    ends = np.cumsum([0, *(len(rows) for _, rows in pieces)])
    # Folds train on what the others test.
    tests = [np.arange(start, end) for start, end in pairwise(ends.tolist())]
    rest = [np.setdiff1d(np.arange(ends[-1]), test) for test in tests]
    if len(tests) == 1:
        rest = [winners[0].divisions[0].train]
    several = top.scores.ndim > 1
    nested = (metrics.macro_auroc_interval if several else metrics.auroc_interval)(
        np.concatenate([each.scores[rows] for each, rows in pieces]),
        np.concatenate([each.labels[rows] for each, rows in pieces]),
        np.concatenate([each.groups[rows] for each, rows in pieces]),
        [Fold(*both) for both in zip(rest, tests, strict=True)],
        max(each.width for each in winners),
    )
    chosen = [each.place for each in winners]
    return Best(top.place, top.auroc, len(tested), nested, chosen, None)
