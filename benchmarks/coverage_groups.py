"""How often intervals of few groups hold the truth: of one AUROC, of an accuracy, of a difference.

Two probes (differences of means) are trained on two sets of vectors that tell the classes apart
equally well, and tested in one part of few groups, or in folds. The truth of a difference is 0.
That of an AUROC and of an accuracy is what the probe itself has on fresh groups where there is one
part, and the mean over all simulations where there are folds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from actstore.analysis.statistics import folds, metrics
from actstore.analysis.statistics.auroc_difference import auroc_difference
from actstore.analysis.statistics.folds import Fold
from benchmarks.corpus import Corpus
from benchmarks.measure import Outcome

SIMULATIONS = 400
_POINT = 5
_TRAINED, _FRESH = 16, 200
"""Groups to train on where there is one test part, and fresh ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How the data of one setting are drawn."""

    groups: int
    """That are tested."""
    size: int
    """Rows in each."""
    within: bool = True
    """Whether each group has rows of both classes, and shows them more or less."""
    parts: int = 1
    """Folds; 1 is a test part beside a training part."""
    width: int = 8
    signal: float = 0.7
    """Half the distance of the classes' means, where a row's noise has a deviation of 1.4."""

    @property
    def name(self) -> str:
        """For the table."""
        where = "one part" if self.parts == 1 else f"{self.parts} folds"
        return f"{where}, {'both classes' if self.within else 'one class'} in a group"


CASES = (
    *(
        Case(groups=groups, size=size, signal=signal)
        for groups, size in (
            (2, 4),
            (2, 20),
            (3, 20),
            (5, 20),
            (8, 20),
            (10, 20),
            (16, 20),
            (24, 4),
        )
        for signal in (0.0, 0.7)
    ),
    *(Case(groups=groups, size=20, within=False) for groups in (4, 6, 12, 24)),
    Case(groups=12, size=1, within=False),
    Case(groups=10, size=8, parts=5),
    Case(groups=6, size=10, within=False, parts=3),
    Case(groups=10, size=4, within=False, parts=5),
    Case(groups=20, size=4, within=False, parts=5, width=60, signal=0.0),
    Case(groups=20, size=4, within=False, parts=5),
    Case(groups=24, size=1, within=False, parts=5),
)


class Draw(NamedTuple):
    """Rows of one simulation, with the vectors of two places."""

    vectors: tuple[np.ndarray, np.ndarray]
    positive: np.ndarray
    groups: np.ndarray


def draw(case: Case, count: int, generator: np.random.Generator) -> Draw:
    """Draw the rows of some groups."""
    groups = np.repeat(np.arange(count), case.size)
    positive = (np.arange(len(groups)) if case.within else groups) % 2 == 0
    vectors = []
    for _ in range(2):
        own = generator.standard_normal((len(groups), case.width))
        if case.size > 1:
            own += generator.standard_normal((count, case.width))[groups]
        shown = case.signal + 0.4 * case.within * generator.standard_normal(count)
        own[:, 0] += np.where(positive, 1, -1) * shown[groups]
        vectors.append(own)
    return Draw((vectors[0], vectors[1]), positive, groups)


@dataclass(slots=True)
class Found:
    """In which simulations the interval left out the truth, and how wide it was."""

    auroc: list[bool]
    accuracy: list[bool]
    difference: list[bool]
    width: list[float]


def simulate(case: Case, simulations: int, seed: int = 0) -> Found:
    """Run one setting."""
    found = Found([], [], [], [])
    aurocs, accuracies, truths = [], [], []
    for number in range(simulations):
        generator = np.random.default_rng([seed, number, case.groups, case.size, case.within])
        one_part = case.parts == 1
        data = draw(case, case.groups + _TRAINED * one_part, generator)
        positive, groups = data.positive, data.groups
        if one_part:
            tested = groups < case.groups
            divisions = [Fold(np.flatnonzero(~tested), np.flatnonzero(tested))]
        else:
            divisions = folds.grouped(positive, groups, case.parts, number)
        fresh = draw(case, _FRESH, generator)
        scores, truth = np.zeros((2, len(groups))), []
        for train, test in divisions:
            side = positive[train]
            for place in range(2):
                rows = data.vectors[place][train]
                weights = rows[side].mean(0) - rows[~side].mean(0)
                middle = (rows[side].mean(0) + rows[~side].mean(0)) @ weights / 2
                scores[place, test] = data.vectors[place][test] @ weights - middle
                if place == 0:
                    other = fresh.vectors[0] @ weights - middle
                    right = ((other > 0) == fresh.positive).mean()
                    truth.append((float(metrics.auroc(other, fresh.positive)), float(right)))
        told = (scores[0] > 0) == positive
        how = groups, divisions, case.width
        aurocs.append(metrics.auroc_interval(scores[0], positive, *how))
        accuracies.append(metrics.accuracy_interval(told, *how, positive))
        truths.append(np.mean(truth, axis=0))
        difference = auroc_difference(scores[0], scores[1], positive, *how)
        found.difference.append(not difference.low <= 0 <= difference.high)
        found.width.append(difference.high - difference.low)
    known = (
        np.array(truths) if case.parts == 1 else np.tile(np.mean(truths, axis=0), (len(truths), 1))
    )
    for kind, (intervals, kept) in enumerate(((aurocs, found.auroc), (accuracies, found.accuracy))):
        kept += [
            not each.low <= true <= each.high
            for each, true in zip(intervals, known[:, kind].tolist(), strict=True)
        ]
    return found


HEADER = (
    *("tested", "groups x rows", "signal", "AUROC's interval leaves it out"),
    *("accuracy's", "difference's", "mean width of the difference's"),
)


def run(corpus: Corpus, simulations: int | None = None) -> list[Outcome]:
    """Print the table that ``docs/numbers.md`` shows, and return its ends."""
    count = simulations or (20 if corpus.quick else SIMULATIONS)
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    worst = dict.fromkeys(("AUROC", "accuracy", "difference"), 0.0)
    for case in CASES:
        found = simulate(case, count)
        shares = [float(np.mean(each)) for each in (found.auroc, found.accuracy, found.difference)]
        cells = (
            case.name,
            f"{case.groups} x {case.size}",
            f"{case.signal:g}",
            *(f"{share:.1%}" for share in shares),
            f"{np.mean(found.width):.2f}",
        )
        print("| " + " | ".join(cells) + " |", flush=True)
        for name, share in zip(worst, shares, strict=True):
            worst[name] = max(worst[name], share)
    error = np.sqrt(0.05 * 0.95 / count)
    return [
        Outcome(
            point=_POINT,
            what=f"{name} intervals of few groups that leave out the truth, most, nominal 5 %",
            value=100 * share,
            unit=" %",
            at_most=100 * (0.06 + 2.5 * error),
            note=f"{count} simulations of each of {len(CASES)} settings",
        )
        for name, share in worst.items()
    ]
