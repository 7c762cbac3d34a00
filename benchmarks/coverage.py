"""How often intervals hold the truth, and how often chance is taken for a signal.

Vectors are drawn, the labels with them, and the whole of ``actstore probe`` runs on them but
for reading a store. The truth is the mean AUROC (and accuracy) of probes trained on as many
rows as a fold's, on fresh data: over all simulations of a setting, each fold's probe on rows
drawn for the purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from actstore import schema
from actstore.analysis.examples import example_groups
from actstore.analysis.examples.place_rows import ActivationPlace, PlaceRows
from actstore.analysis.probes import evaluating, judging, several_classes, splits
from actstore.analysis.probes.results import TestedPlace
from actstore.analysis.probes.splits import ProbeSettings
from actstore.analysis.solvers import linear
from actstore.analysis.solvers.linear import Method
from actstore.analysis.solvers.standardise import standards_of
from actstore.analysis.statistics import metrics
from actstore.analysis.statistics.metrics import IntervalEstimate
from benchmarks.corpus import Corpus
from benchmarks.measure import Outcome

SIMULATIONS = 200
_POINT = 5
FRESH = 400
"""Rows of fresh data for each simulation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How the data of one setting are drawn."""

    name: str
    rows: int = 120
    width: int = 60
    signal: float = 0.0
    """Half the distance of the classes' means, in standard deviations of the noise."""
    positive: float = 0.5
    size: int = 1
    """Rows in a group, which have one label and half of their noise in common."""
    pairs: bool = False
    """Whether a group is a pair with one row of each class."""
    layers: int = 1
    method: Method = "logistic"
    classes: int = 2
    """More than two have means in directions of their own, ``signal`` from the middle."""


CASES = (
    Case(name="null"),
    Case(name="null, n < d", rows=80, width=400),
    Case(name="weak signal", signal=0.35),
    Case(name="strong signal", signal=1.0),
    Case(name="strong signal, n < d", rows=80, width=400, signal=3.0),
    Case(name="few dimensions, weak", width=10, signal=0.3),
    Case(name="few dimensions, strong", width=10, signal=1.0),
    Case(name="imbalance 15 : 85, null", rows=160, positive=0.15),
    Case(name="imbalance 15 : 85, signal", rows=160, positive=0.15, signal=0.7),
    Case(name="groups of 4, null", rows=160, size=4),
    Case(name="groups of 4, signal", rows=160, size=4, signal=0.7),
    Case(name="pairs of both classes, null", pairs=True, size=2),
    Case(name="mean difference, signal", signal=0.7, method="mean-difference"),
    Case(name="ten layers, null", rows=80, width=40, layers=10),
    Case(name="ten layers, signal", rows=80, width=40, layers=10, signal=0.5),
    Case(name="four classes, null", classes=4),
    Case(name="four classes, signal", classes=4, signal=1.5),
    Case(name="four classes, n < d", rows=80, width=400, classes=4, signal=4.0),
    Case(name="four classes, few dimensions", width=10, classes=4, signal=1.5),
    Case(name="four classes, groups of 4, null", rows=240, size=4, classes=4),
    Case(name="four classes, groups of 4, signal", rows=240, size=4, classes=4, signal=1.5),
    Case(name="four classes of 1 : 2 : 3 : 4, null", classes=4, positive=0.1),
    Case(name="four classes of 1 : 2 : 3 : 4, signal", classes=4, positive=0.1, signal=1.5),
    Case(name="four classes, ten layers, null", rows=80, width=40, layers=10, classes=4),
)


class Draw(NamedTuple):
    """The data of one simulation."""

    vectors: list[np.ndarray]
    """Float32 ``[rows, width]`` of each layer."""
    positive: np.ndarray
    """Bool ``[rows]``; of several classes their numbers."""
    groups: np.ndarray


def draw(case: Case, rows: int, generator: np.random.Generator, exact: bool = True) -> Draw:
    """Draw rows; ``exact`` has as many of the positive class as the case says."""
    count = rows // case.size
    groups = np.repeat(np.arange(count), case.size)
    if case.pairs:
        positive = np.tile([True, False], count)
    elif case.classes > 2:
        # As many of each; or, where the first one's part is less, 1 : 2 : 3 : …
        parts = np.arange(1, case.classes + 1) if case.positive < 0.5 else np.ones(case.classes)
        codes = np.searchsorted(np.cumsum(parts) / parts.sum(), (np.arange(count) + 0.5) / count)
        positive = generator.permutation(codes)[groups]
    else:
        side = np.arange(count) < round(case.positive * count)
        positive = generator.permutation(side)[groups]
    vectors = []
    for _ in range(case.layers):
        own = generator.standard_normal((len(groups), case.width))
        if case.size > 1:
            own = np.sqrt(0.5) * (own + generator.standard_normal((count, case.width))[groups])
        if case.classes > 2:
            own[np.arange(len(groups)), positive] += case.signal
        else:
            own[:, 0] += case.signal * np.where(positive, 1, -1)
        vectors.append(own.astype(np.float32))
    return Draw(vectors, positive, groups)


def probe(data: Draw, setting: ProbeSettings) -> tuple[Sequence[TestedPlace], Any]:
    """Return what ``actstore probe`` would say of these rows, and of the best layer."""
    if data.positive.dtype != bool:
        codes = [data.positive] * len(data.vectors)
        names = tuple(f"c{code}" for code in range(int(data.positive.max()) + 1))
        jobs = splits.crossed(place_rows_of(data), setting, codes, names)
        jobs = splits.with_shuffled(jobs, setting, codes)
        return several_classes.run(jobs, codes, names, setting, [])
    jobs = splits.crossed(place_rows_of(data), setting)
    evaluated, words = evaluating.evaluate(jobs, setting, None)
    return judging.judge(jobs, evaluated, words, setting, [])


def place_rows_of(data: Draw) -> list[PlaceRows]:
    """Return the rows as the places of a store that need not be written."""
    count = len(data.positive)
    typed = schema.metadata_schema()
    names = dict.fromkeys([*schema.key_names(), "label", "norm", *example_groups.COLUMNS])
    columns = {name: pa.nulls(count, typed.field(name).type) for name in names}
    columns["example_id"] = pa.array([f"e{group}" for group in data.groups.tolist()])
    columns["example_index"] = pa.array(range(count), pa.int64())
    table = pa.table(columns)
    grouping = example_groups.of_table(table)
    return [
        PlaceRows(
            place=ActivationPlace("m", "resid_post", layer, "last", None),
            selection=_Rows(vectors),  # type: ignore[arg-type]  # as much of one as is needed
            table=table,
            positive=data.positive == 1,
            grouping=grouping,
        )
        for layer, vectors in enumerate(data.vectors)
    ]


class _Rows:
    """Vectors in memory, in the place of a selection."""

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors
        self.shape = vectors.shape
        self.rows = np.arange(len(vectors))

    def numpy(self, *, copy: bool | None = True) -> np.ndarray:
        return self._vectors


@dataclass(slots=True)
class Found:
    """What came of the simulations of one setting."""

    aurocs: list[IntervalEstimate] = field(default_factory=list)
    accuracies: list[IntervalEstimate] = field(default_factory=list)
    true_auroc: list[float] = field(default_factory=list)
    true_accuracy: list[float] = field(default_factory=list)
    p_value: list[float] = field(default_factory=list)
    smallest: list[float] = field(default_factory=list)
    """p-value of the best layer of each simulation, and p_family."""
    family: list[float] = field(default_factory=list)
    claimed: list[bool] = field(default_factory=list)
    """Whether any verdict speaks of a direction."""
    below: list[bool] = field(default_factory=list)
    nested: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)


def simulate(case: Case, simulations: int, seed: int, permutations: int = 99) -> Found:
    """Run one setting."""
    found = Found()
    for number in range(simulations):
        generator = np.random.default_rng([seed, number])
        data = draw(case, case.rows, generator)
        setting = ProbeSettings(method=case.method, permutations=permutations, seed=number)
        results, best = probe(data, setting)
        fresh = draw(case, FRESH, generator)
        first = _true(case, data, fresh, setting)
        found.true_auroc.append(first[0])
        found.true_accuracy.append(first[1])
        found.aurocs += [result.auroc for result in results]
        found.accuracies += [result.accuracy for result in results]
        permuted = [result.permuted for result in results if result.permuted is not None]
        found.p_value += [each.p_value for each in permuted]
        found.smallest.append(min(each.p_value for each in permuted))
        found.family.append(min(each.p_family for each in permuted))
        found.claimed.append(any("direction" in result.verdict for result in results))
        found.below.append(any(result.below_chance for result in results))
        if best is not None and best.nested is not None:
            found.best.append(best.auroc.value)
            found.nested.append(best.nested.value)
    return found


def _true(case: Case, data: Draw, fresh: Draw, setting: ProbeSettings) -> tuple[float, float]:
    """Return mean AUROC and accuracy of the first layer's folds on fresh data."""
    several = case.classes > 2
    names = tuple(f"c{code}" for code in range(case.classes))
    (job,) = splits.crossed(
        place_rows_of(data)[:1], setting, [data.positive.astype(np.int64)], names
    )
    areas, right = [], []
    for train, _ in job.divisions:
        (standard,) = standards_of(data.vectors[0], [train])
        space = linear.TrainTest.of(
            np.concatenate(
                [standard.apply(data.vectors[0][train]), standard.apply(fresh.vectors[0])]
            ),
            np.arange(len(train)),
            np.arange(len(train), len(train) + len(fresh.positive)),
        )
        columns = []
        for code in range(case.classes) if several else [1]:
            model = evaluating._linear(space, data.positive[train] == code, setting)
            scores = space.scores(model.weights)[:, 0] + float(model.intercepts[0])
            columns.append(scores)
            areas.append(float(metrics.auroc(scores, fresh.positive == code)))
        named = np.column_stack(columns).argmax(1) if several else columns[0] > 0
        right.append(float((named == fresh.positive).mean()))
    return float(np.mean(areas)), float(np.mean(right))


def run(corpus: Corpus, simulations: int | None = None) -> list[Outcome]:
    """Print the table that ``docs/numbers.md`` shows, and return its ends."""
    count = simulations or (8 if corpus.quick else SIMULATIONS)
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    areas, accuracies, claims = [], [], []
    with linear.threads(1):
        for case in CASES:
            found = simulate(case, count, 0)
            print("| " + " | ".join(_row(case, found)) + " |", flush=True)
            areas.append(held(found.aurocs, float(np.mean(found.true_auroc))))
            accuracies.append(held(found.accuracies, float(np.mean(found.true_accuracy))))
            if not case.signal:
                claims.append(float(np.mean(found.claimed)))
    note = f"{count} simulations of each of {len(CASES)} settings"
    error = np.sqrt(0.05 * 0.95 / count)
    return [
        Outcome(
            point=_POINT,
            what=f"{name} that hold the truth, {which}, nominal 95 %",
            value=100 * pick(shares),
            unit=" %",
            at_least=100 * (0.94 - 2 * error) if pick is min else None,
            note=note,
        )
        for name, shares in (("AUROC intervals", areas), ("accuracy intervals", accuracies))
        for which, pick in (("least", min), ("most", max))
    ] + [
        Outcome(
            point=_POINT,
            what="null settings in which a direction is claimed, most",
            value=100 * max(claims),
            unit=" %",
            at_most=100 * (0.05 + 3 * error),
            note=note,
        )
    ]


HEADER = (
    *("setting", "rows x width", "true AUROC", "AUROC's interval holds it"),
    *("true accuracy", "accuracy's interval holds it", "p <= 0.05", "p_family <= 0.05"),
    *("a direction is claimed", "called below chance", "best layer", "nested"),
)


def _row(case: Case, found: Found) -> list[str]:
    area, accuracy = float(np.mean(found.true_auroc)), float(np.mean(found.true_accuracy))
    return [
        case.name,
        f"{case.rows} x {case.width}",
        f"{area:.3f}",
        f"{held(found.aurocs, area):.1%}",
        f"{accuracy:.3f}",
        f"{held(found.accuracies, accuracy):.1%}",
        f"{np.mean(np.array(found.smallest) <= 0.05):.1%}",
        f"{np.mean(np.array(found.family) <= 0.05):.1%}",
        f"{np.mean(found.claimed):.1%}",
        f"{np.mean(found.below):.1%}",
        f"{np.mean(found.best):.3f}" if found.best else "",
        f"{np.mean(found.nested):.3f}" if found.nested else "",
    ]


def held(intervals: Sequence[IntervalEstimate], truth: float) -> float:
    """Return the share of intervals that hold the truth."""
    return float(np.mean([low <= truth <= high for _, low, high in intervals]))
