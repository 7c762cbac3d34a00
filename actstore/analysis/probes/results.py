"""A trained probe, and the figures of training and testing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore.analysis.examples.classes import Classes
from actstore.analysis.examples.place_rows import ActivationPlace
from actstore.analysis.probes.p_values import Best
from actstore.analysis.probes.result_tables import Table, ends, told
from actstore.analysis.solvers.linear import Method, Perceptron
from actstore.analysis.solvers.standardise import Standard
from actstore.analysis.statistics.metrics import IntervalEstimate

if TYPE_CHECKING:
    import pyarrow as pa

ABOVE, BELOW = 0.65, 0.55
"""Accuracies that bound document 001's bands."""

CHANCE = 0.05
"""Baselines must do as well in no more of their runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A trained classifier: standardise, then score; positive scores mean the positive class."""

    place: ActivationPlace
    method: Method
    standard: Standard
    model: np.ndarray | Perceptron
    """Weights float32 ``[width]``, or a perceptron."""
    intercept: float

    @property
    def width(self) -> int:
        """Width of the vectors it is for."""
        return len(self.standard.mean)

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """Return the score of each float32 vector, float64 ``[rows]``."""
        ready = self.standard.apply(vectors)
        if isinstance(self.model, Perceptron):
            return np.asarray(self.model.scores(ready), np.float64)
        return np.asarray(ready @ self.model, np.float64) + self.intercept


class Permuted(NamedTuple):
    """Figures of runs with shuffled labels."""

    runs: int
    auroc_mean: float
    auroc_95: float
    """95 of 100 shuffled runs stay below it."""
    accuracy_mean: float | None
    """None of several classes."""
    p_value: float
    """Share of runs, the real one included, whose AUROC is at least the real one's."""
    p_family: float
    """The same of the largest AUROC among all places of the run."""
    p_below: float
    """Share of runs whose smallest AUROC among all places is at most the real one's."""

    @property
    def enough(self) -> bool:
        """Whether so many runs can show anything at all."""
        return 1 / (1 + self.runs) <= CHANCE


class WordsBaseline(NamedTuple):
    """AUROC of the questions' words alone, in the same folds."""

    auroc: IntervalEstimate
    p_family: float
    """Of the probe's AUROC being no larger, among all places of the run."""


class Effect(NamedTuple):
    """How far the AUROC is above that of the strongest baseline."""

    baseline: str
    """``words`` or ``chance``."""
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TestedPlace:
    """The figures that probes of two classes and of several have in common."""

    place: ActivationPlace
    method: Method
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
    auroc: IntervalEstimate
    """Of several classes the macro AUROC: the mean of each one's against the rest."""
    accuracy: IntervalEstimate
    balanced_accuracy: float
    """Mean of the shares of each class that were classified rightly; of two 0.5 is chance."""
    majority: float
    """Accuracy of always naming the most frequent class."""
    permuted: Permuted | None
    words: WordsBaseline | None
    """None where no row has a question."""
    effect: Effect
    table: pa.Table
    """Metadata of the tested rows."""
    scores: np.ndarray
    """Float64 ``[rows]``, of several classes ``[rows, classes]``: by probes that were not
    trained on the row."""
    vectors_hash: str
    """Of the norms of the rows that it was trained on or tested on in folds."""
    rows_hash: str
    """Of keys and labels of all rows used."""
    made_of: np.ndarray | None = None
    """Keys of the kept probe's training rows (:mod:`actstore.analysis.examples.lineages`)."""
    converged: bool = True
    """Whether the weights of every regression are the optimum's, but for one part in 10,000."""

    @property
    def below_chance(self) -> bool:
        """Whether the AUROC is further below 0.5 than chance would put it.

        Its interval is wholly below, and so is the AUROC itself for shuffled labels, the
        smallest of all places.
        """
        if self.auroc.high >= 0.5:
            return False
        permuted = self.permuted
        return permuted is None or not permuted.enough or permuted.p_below <= CHANCE

    @property
    def verdict(self) -> str:
        """What the figures allow to say, held against the strongest baselines.

        The AUROC against shuffled labels (the largest of all places) and against the questions'
        words, the accuracy against the majority. An AUROC asks how rows are ordered, an
        accuracy where the line between the classes is drawn.
        """
        kind = "signal" if self.method == "mlp" else self._kind
        if self.below_chance:
            return "suspicious: AUROC below chance"
        if self.permuted is None or not self.permuted.enough:
            return "too few shuffles to tell"
        if self.permuted.p_family > CHANCE:
            if self.permuted.p_value <= CHANCE:
                return f"no better than the best of {self.places} on shuffled labels"
            return "no better than shuffled labels"
        if self.words is not None and self.words.p_family > CHANCE:
            return "no better than words"
        if self.accuracy.low <= self.majority:
            return f"{kind}, accuracy no better than the majority"
        return kind

    @property
    def figures(self) -> dict[str, object]:
        """The figures by name, as a row of a table."""
        return {
            **self.place.named,
            "rows": self.rows,
            "groups": self.groups,
            **ends(self._auroc, self.auroc),
            **ends("accuracy", self.accuracy),
            "balanced_accuracy": self.balanced_accuracy,
            "majority_accuracy": self.majority,
            "words_auroc": None if self.words is None else self.words.auroc.value,
            "p_value": None if self.permuted is None else self.permuted.p_value,
            "p_family": None if self.permuted is None else self.permuted.p_family,
            "verdict": self.verdict,
        }

    def __repr__(self) -> str:
        figure = self._auroc.replace("_", " ").replace("auroc", "AUROC")
        return (
            f"{type(self).__name__}({self.place.text}: {figure} {told(self.auroc)}, "
            f"{self.rows:,} rows; {self.verdict})"
        )

    @property
    def _kind(self) -> str:
        return "linear direction"

    @property
    def _auroc(self) -> str:
        return "auroc"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ProbeResult(TestedPlace):
    """The figures of one probe that tells two classes apart."""

    positives: int
    """Tested rows of the positive class."""
    auroc_pooled: float
    """Over the scores of all folds together."""
    probe: Probe

    @property
    def band(self) -> str:
        """Document 001's band of the accuracy: ``above 65 %``, ``55-65 %`` or ``below 55 %``."""
        if self.accuracy.value > ABOVE:
            return "above 65 %"
        return "55-65 %" if self.accuracy.value >= BELOW else "below 55 %"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFigures:
    """How well one of several classes is told from the rest."""

    name: str
    rows: int
    """Tested rows of it."""
    auroc: IntervalEstimate
    p_family: float | None
    """Share of shuffled runs whose largest AUROC of all classes and places, in standard
    deviations of its own shuffled runs, is at least this one's."""
    probe: Probe


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ClassesResult(TestedPlace):
    """The figures of one place's probes for several classes, each against the rest."""

    classes: tuple[ClassFigures, ...]
    confusion: np.ndarray
    """Int64 ``[classes, classes]``: tested rows by their class and by the one that was named,
    which is the one with the largest score."""

    @property
    def _kind(self) -> str:
        return "linear directions"

    @property
    def _auroc(self) -> str:
        return "macro_auroc"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ProbeReport(Table):
    """All probes of one run."""

    results: list[ProbeResult]
    best: Best | None
    """The best of several places, with its nested AUROC."""
    classes: Classes
    method: Method
    lineage: dict[str, object]
    """Where the rows came from: store, commit, fingerprint, query, seed and settings."""
    notes: list[str]

    @property
    def title(self) -> str:
        """What these are, for a heading."""
        first, second = self.classes.names
        return f"{self.method} probe, {first} (positive) against {second}"

    def figures(self) -> list[dict[str, object]]:
        """Return the figures of each place, by name."""
        return [result.figures for result in self.results]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ClassesReport(Table):
    """All probes of one run that tells several classes apart."""

    results: list[ClassesResult]
    best: Best | None
    """The place with the largest macro AUROC of several, with its nested one."""
    column: str
    """The metadata column that holds the classes."""
    names: tuple[str, ...]
    """The classes, in the order of every result's."""
    method: Method
    lineage: dict[str, object]
    """Where the rows came from: store, commit, fingerprint, query, seed and settings."""
    notes: list[str]

    @property
    def title(self) -> str:
        """What these are, for a heading."""
        return f"{self.method} probes, each of {len(self.names)} classes against the rest"

    def figures(self) -> list[dict[str, object]]:
        """Return the figures of each place, by name."""
        return [result.figures for result in self.results]
