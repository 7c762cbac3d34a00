"""What a probe is, and what came of training and testing one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore.analysis.cells import Place
from actstore.analysis.classes import Classes
from actstore.analysis.linear import Method, Perceptron
from actstore.analysis.metrics import Estimate
from actstore.analysis.standards import Standard

if TYPE_CHECKING:
    import pyarrow as pa

ABOVE, BELOW = 0.65, 0.55
"""Accuracies that bound the verdict bands."""

CHANCE = 0.05
"""Shuffled labels must do as well in no more of their runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A trained classifier: standardise, then score; positive scores mean the positive class."""

    place: Place
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
    """What comes out when labels are shuffled."""

    runs: int
    auroc_mean: float
    auroc_95: float
    """95 of 100 shuffled runs stay below it."""
    accuracy_mean: float
    p_value: float
    """Share of runs, the real one included, whose AUROC is at least the real one's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one probe came to."""

    place: Place
    method: Method
    width: int
    rows: int
    """Rows that were tested."""
    trained_rows: int
    """Rows that the saved probe was trained on."""
    positives: int
    """Tested rows of the positive class."""
    groups: int
    """Groups among the tested rows."""
    folds: int
    """1 where there is one training part and one test part."""
    auroc: Estimate
    auroc_pooled: float
    """Over the scores of all folds together."""
    accuracy: Estimate
    balanced_accuracy: float
    """Mean of the shares of both classes that were classified rightly; 0.5 is chance."""
    majority: float
    """Accuracy of always naming the more frequent class."""
    permuted: Permuted | None
    probe: Probe
    table: pa.Table
    """Metadata of the tested rows."""
    scores: np.ndarray
    """Float64 ``[rows]``: of each by a probe that was not trained on it."""
    rows_hash: str
    """Of keys and labels of all rows used."""
    converged: bool = True
    """Whether the weights of every regression are the optimum's, but for one part in 10,000."""

    @property
    def band(self) -> str:
        """The accuracy's band: ``above 65 %``, ``55-65 %`` or ``below 55 %``."""
        if self.accuracy.value > ABOVE:
            return "above 65 %"
        return "55-65 %" if self.accuracy.value >= BELOW else "below 55 %"

    @property
    def verdict(self) -> str:
        """The band in words, unless chance or the majority does as well.

        An AUROC asks how rows are ordered, an accuracy where the line between the classes
        is drawn. Where only the order is better than chance, that is what it says.
        """
        orders = self.permuted is not None and self.permuted.p_value <= CHANCE
        if self.accuracy.value < BELOW:
            if orders:
                return "AUROC above chance, accuracy not"
            return "no linear direction" if self.method != "mlp" else "no signal"
        if self.accuracy.value <= self.majority:
            if orders:
                return "AUROC above chance, accuracy no better than the majority"
            return "no better than the majority"
        if self.permuted is not None and not orders:
            return "no better than shuffled labels"
        if self.balanced_accuracy < BELOW:
            return "AUROC above chance, balanced accuracy not"
        kind = "signal" if self.method == "mlp" else "linear direction"
        if min(self.accuracy.value, self.balanced_accuracy) > ABOVE:
            return kind
        return "weak signal" if self.method == "mlp" else "weak linear signal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All probes of one run."""

    results: list[Result]
    classes: Classes
    method: Method
    lineage: dict[str, object]
    """Where the rows came from: store, commit, fingerprint, query, seed and settings."""
    notes: list[str]
