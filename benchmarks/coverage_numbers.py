"""How often intervals of R² and rho hold the truth, and how often chance is taken for a signal.

As :mod:`benchmarks.coverage` does for classes: vectors and numbers are drawn, and all that
``actstore probe`` does of numbers runs on them. The truth is the mean over all simulations of
the R² and rho that each fold's probe has on fresh rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from actstore.analysis.probes import nested_ridge, numbers_probing, splits
from actstore.analysis.probes.splits import ProbeSettings
from actstore.analysis.solvers import linear
from actstore.analysis.solvers.ridge_paths import Parts
from actstore.analysis.statistics import agreement
from actstore.analysis.statistics.folds import Fold
from actstore.analysis.statistics.metrics import IntervalEstimate
from benchmarks import coverage
from benchmarks.corpus import Corpus
from benchmarks.measure import Outcome

_POINT = 5
FRESH = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How the data of one setting are drawn."""

    name: str
    rows: int = 120
    width: int = 60
    signal: float = 0.0
    """What the first dimension adds to a number, whose noise has deviation 1."""
    size: int = 1
    """Rows in a group, which have half of their vectors' noise in common."""
    alike: float = 1.0
    """Part of the numbers' noise that is that of the group."""
    tails: float | None = None
    """Degrees of freedom of the numbers' noise, where it is Student's."""
    layers: int = 1


CASES = (
    Case(name="null"),
    Case(name="null, n < d", rows=80, width=400),
    Case(name="weak signal", signal=0.5),
    Case(name="strong signal", signal=1.5),
    Case(name="strong signal, n < d", rows=80, width=400, signal=3.0),
    Case(name="few dimensions, weak", width=10, signal=0.4),
    Case(name="few dimensions, strong", width=10, signal=1.5),
    Case(name="few rows", rows=30, width=10, signal=1.0),
    Case(name="heavy tails", width=10, signal=1.0, tails=4.0),
    Case(name="groups of 4, null", rows=160, size=4),
    Case(name="groups of 4, signal", rows=160, size=4, signal=1.5),
    Case(name="numbers differ within groups, null", rows=160, size=4, alike=0.5),
    Case(name="numbers differ within groups, signal", rows=160, size=4, alike=0.5, signal=1.0),
    Case(name="ten layers, null", rows=80, width=40, layers=10),
)


class Draw(NamedTuple):
    """The data of one simulation."""

    vectors: list[np.ndarray]
    """Float32 ``[rows, width]`` of each layer."""
    numbers: np.ndarray
    groups: np.ndarray


def draw(case: Case, rows: int, generator: np.random.Generator) -> Draw:
    """Draw rows."""
    count = rows // case.size
    groups = np.repeat(np.arange(count), case.size)

    def noise(number: int) -> np.ndarray:
        if case.tails is None:
            return generator.standard_normal(number)
        drawn: np.ndarray = generator.standard_t(case.tails, number)
        drawn /= np.sqrt(case.tails / (case.tails - 2))
        return drawn

    vectors = []
    for _ in range(case.layers):
        own = generator.standard_normal((len(groups), case.width))
        if case.size > 1:
            own = np.sqrt(0.5) * (own + generator.standard_normal((count, case.width))[groups])
        vectors.append(own.astype(np.float32))
    shared = np.sqrt(case.alike) * noise(count)[groups]
    numbers = shared + np.sqrt(1 - case.alike) * noise(len(groups))
    return Draw(vectors, numbers + case.signal * vectors[0][:, 0], groups)


@dataclass(slots=True)
class Found:
    """What came of the simulations of one setting."""

    r2: list[IntervalEstimate] = field(default_factory=list)
    rho: list[IntervalEstimate] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    """Mean squared error of the first layer's folds on fresh rows."""
    true_rho: list[float] = field(default_factory=list)
    smallest: list[float] = field(default_factory=list)
    family: list[float] = field(default_factory=list)
    claimed: list[bool] = field(default_factory=list)
    below: list[bool] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    nested: list[float] = field(default_factory=list)


def simulate(case: Case, simulations: int, seed: int, permutations: int = 99) -> Found:
    """Run one setting."""
    found = Found()
    for number in range(simulations):
        generator = np.random.default_rng([seed, number])
        data = draw(case, case.rows, generator)
        setting = ProbeSettings(permutations=permutations, seed=number)
        sides = coverage.Draw(data.vectors, np.zeros(len(data.groups), bool), data.groups)
        own = [replace(each, numbers=data.numbers) for each in coverage.place_rows_of(sides)]
        codes = [np.zeros(len(data.groups), np.int64)] * len(own)
        jobs = splits.with_shuffled(splits.crossed(own, setting, codes, ("n",)), setting)
        results, best = numbers_probing.run(jobs, setting, [])
        _fresh(case, data, generator, jobs[0].divisions, results[0].strengths, setting, found)
        found.r2 += [result.r2 for result in results]
        found.rho += [result.spearman for result in results]
        permuted = [result.permuted for result in results if result.permuted is not None]
        found.smallest.append(min(each.p_value for each in permuted))
        found.family.append(min(each.p_family for each in permuted))
        found.claimed.append(any("direction" in result.verdict for result in results))
        found.below.append(any(result.below_chance for result in results))
        if best is not None and best.nested is not None:
            found.best.append(best.r2.value)
            found.nested.append(best.nested.value)
    return found


def _fresh(
    case: Case,
    data: Draw,
    generator: np.random.Generator,
    divisions: list[Fold],
    strengths: tuple[float, ...],
    setting: ProbeSettings,
    found: Found,
) -> None:
    """Add how the first layer's folds do on fresh rows."""
    fresh = draw(case, FRESH, generator)
    parts = nested_ridge.divide(divisions, data.groups, setting.folds, setting.seed)
    numbers = data.numbers[:, None]
    ridges = Parts(data.vectors[0], numbers, parts.part, parts.tested)
    errors, rhos = [], []
    for out, strength in zip(parts.tested, strengths, strict=True):
        path = ridges.path(out)
        told = path.predicted(path.projected(fresh.vectors[0]), np.array([1 / strength]))
        errors.append(float(np.square(told[:, 0] - fresh.numbers).mean()))
        rhos.append(float(agreement.spearman(told, fresh.numbers[:, None])[0]))
    found.errors.append(float(np.mean(errors)))
    found.true_rho.append(float(np.mean(rhos)))


def run(corpus: Corpus, simulations: int | None = None) -> list[Outcome]:
    """Print the table that ``docs/numbers.md`` shows, and return its ends."""
    count = simulations or (8 if corpus.quick else coverage.SIMULATIONS)
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    shares, claims = [], []
    with linear.threads(1):
        for case in CASES:
            found = simulate(case, count, 0)
            print("| " + " | ".join(_row(case, found)) + " |", flush=True)
            shares += [coverage.held(found.r2, true_r2(case, found))]
            shares += [coverage.held(found.rho, float(np.mean(found.true_rho)))]
            if not case.signal:
                claims.append(float(np.mean(found.claimed)))
    note = f"{count} simulations of each of {len(CASES)} settings"
    error = np.sqrt(0.05 * 0.95 / count)
    return [
        Outcome(
            point=_POINT,
            what="intervals of R² and rho that hold the truth, least, nominal 95 %",
            value=100 * min(shares),
            unit=" %",
            at_least=100 * (0.94 - 2 * error),
            note=note,
        ),
        Outcome(
            point=_POINT,
            what="null settings of numbers in which a direction is claimed, most",
            value=100 * max(claims),
            unit=" %",
            at_most=100 * (0.05 + 3 * error),
            note=note,
        ),
    ]


def true_r2(case: Case, found: Found) -> float:
    """Return R² on fresh rows: all numbers there are have the variance that was drawn."""
    return 1 - float(np.mean(found.errors)) / (1 + case.signal**2)


HEADER = (
    *("setting", "rows x width", "true R²", "interval holds it", "true rho", "interval holds it"),
    *("p <= 0.05", "p_family <= 0.05", "a direction is claimed", "called below chance"),
    *("best layer", "nested"),
)


def _row(case: Case, found: Found) -> list[str]:
    r2, rho = true_r2(case, found), float(np.mean(found.true_rho))
    return [
        case.name,
        f"{case.rows} x {case.width}",
        f"{r2:.3f}",
        f"{coverage.held(found.r2, r2):.1%}",
        f"{rho:.3f}",
        f"{coverage.held(found.rho, rho):.1%}",
        f"{np.mean(np.array(found.smallest) <= 0.05):.1%}",
        f"{np.mean(np.array(found.family) <= 0.05):.1%}",
        f"{np.mean(found.claimed):.1%}",
        f"{np.mean(found.below):.1%}",
        f"{np.mean(found.best):.3f}" if found.best else "",
        f"{np.mean(found.nested):.3f}" if found.nested else "",
    ]
