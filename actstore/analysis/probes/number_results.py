"""The figures of probes that predict numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore.analysis.examples.place_rows import ActivationPlace
from actstore.analysis.probes.result_tables import Table, ends, told
from actstore.analysis.probes.results import CHANCE, Effect, Probe
from actstore.analysis.statistics.metrics import IntervalEstimate

if TYPE_CHECKING:
    import pyarrow as pa

FEWEST = 3
"""Groups in each tested part, below which nothing can be said of an order or its error."""


class ShuffledNumbers(NamedTuple):
    """Figures of runs with shuffled numbers."""

    runs: int
    r2_mean: float
    r2_95: float
    """95 of 100 shuffled runs stay below it."""
    spearman_mean: float
    p_value: float
    """Share of runs, the real one included, whose R² is at least the real one's."""
    p_family: float
    """The same of the largest R² among all places of the run."""
    spearman_p_value: float
    spearman_p_family: float
    spearman_p_below: float
    """Share of runs whose smallest rho among all places is at most the real one's."""

    @property
    def enough(self) -> bool:
        """Whether so many runs can show anything at all."""
        return 1 / (1 + self.runs) <= CHANCE


class WordsOfNumbers(NamedTuple):
    """R² and rho of the questions' words alone, in the same folds."""

    r2: IntervalEstimate
    spearman: IntervalEstimate
    p_family: float
    """Of the probe's R² being no larger, among all places of the run."""


class NumberBest(NamedTuple):
    """The place with the largest R², and the nested figures of choosing it by data."""

    place: ActivationPlace
    r2: IntervalEstimate
    places: int
    """How many it is the best of."""
    nested: IntervalEstimate | None
    """R² where each fold is predicted at the place that the other folds chose."""
    nested_spearman: IntervalEstimate | None
    chosen: list[ActivationPlace]
    """That place for each fold."""
    reason: str | None
    """Why there are no nested figures."""

    @property
    def optimistic(self) -> bool:
        """Whether only the chosen figure itself is known."""
        return self.nested is None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class NumberResult:
    """The figures of one probe that predicts numbers."""

    place: ActivationPlace
    width: int
    rows: int
    """Rows that were tested."""
    trained_rows: int
    """Rows that the saved probe was trained on."""
    grouped_by: str
    """What kept rows on one side."""
    groups: int
    """Groups among the tested rows."""
    places: int
    """Places of the run, this one included: among so many may chance choose."""
    folds: int
    """1 where there is one training part and one test part."""
    r2: IntervalEstimate
    """Of all tested rows together, each predicted by a probe that did not see it."""
    spearman: IntervalEstimate
    """Mean of the folds' correlations of ranks."""
    spearman_pooled: float
    """Of the predictions of all folds together."""
    error: float
    """Root of the mean squared error of tested rows, in the column's own unit."""
    deviation: float
    """Standard deviation of the tested numbers: the error of always naming their mean."""
    strength: float
    """Inverse of the saved probe's penalty."""
    strengths: tuple[float, ...]
    """The same of the probe of each fold."""
    permuted: ShuffledNumbers | None
    words: WordsOfNumbers | None
    """None where no row has a question."""
    effect: Effect
    """R² above the strongest baseline: the words', or ``mean``, whose R² is 0."""
    probe: Probe
    table: pa.Table
    """Metadata of the tested rows."""
    numbers: np.ndarray
    """The true ones, float64 ``[rows]``."""
    predicted: np.ndarray
    """Float64 ``[rows]``: by probes that were not trained on the row."""
    vectors_hash: str
    """Of the norms of the rows that it was trained on or tested on in folds."""
    rows_hash: str
    """Of keys and labels of all rows used."""
    made_of: np.ndarray | None = None
    """Keys of the kept probe's training rows (:mod:`actstore.analysis.examples.lineages`)."""

    @property
    def below_chance(self) -> bool:
        """Whether rho is further below 0 than chance would put it."""
        if self.spearman.high >= 0:
            return False
        permuted = self.permuted
        return permuted is None or not permuted.enough or permuted.spearman_p_below <= CHANCE

    @property
    def verdict(self) -> str:
        """What the figures allow to say, held against the strongest baselines.

        R² against shuffled numbers (the largest of all places) and against the questions' words,
        then its interval against naming the mean each time.
        """
        if self.below_chance:
            return "suspicious: order below chance"
        if self.permuted is None or not self.permuted.enough:
            return "too few shuffles to tell"
        if self.permuted.p_family > CHANCE:
            if self.permuted.p_value <= CHANCE:
                return f"no better than the best of {self.places} on shuffled numbers"
            return "no better than shuffled numbers"
        if self.words is not None and self.words.p_family > CHANCE:
            return "no better than words"
        if self.r2.low <= 0:
            return "linear direction, error no smaller than the mean's"
        return "linear direction"

    def __repr__(self) -> str:
        return (
            f"NumberResult({self.place.text}: R² {told(self.r2)}, Spearman {told(self.spearman)}, "
            f"{self.rows:,} rows; {self.verdict})"
        )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class NumberReport(Table):
    """All probes of one run that predicts numbers."""

    results: list[NumberResult]
    best: NumberBest | None
    """The place with the largest R² of several, with its nested one."""
    column: str
    """The metadata column that holds the numbers."""
    lineage: dict[str, object]
    """Where the rows came from: store, commit, fingerprint, query, seed and settings."""
    notes: list[str]

    @property
    def title(self) -> str:
        """What these are, for a heading."""
        return f"ridge probes of {self.column}"

    def figures(self) -> list[dict[str, object]]:
        """Return the figures of each place, by name."""
        return [
            {
                **each.place.named,
                "rows": each.rows,
                "groups": each.groups,
                **ends("r2", each.r2),
                **ends("spearman", each.spearman),
                "error": each.error,
                "deviation": each.deviation,
                "strength": each.strength,
                "words_r2": None if each.words is None else each.words.r2.value,
                "p_value": None if each.permuted is None else each.permuted.p_value,
                "p_family": None if each.permuted is None else each.permuted.p_family,
                "verdict": each.verdict,
            }
            for each in self.results
        ]
