"""Probes that predict numbers: ridge regressions, held against shuffled numbers and words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore.analysis.examples import place_rows
from actstore.analysis.examples.numbers import Numbers
from actstore.analysis.probes import (
    evaluating,
    judging,
    nested_ridge,
    p_values,
    run_plan,
    splits,
    words_baseline,
)
from actstore.analysis.probes.evaluating import Progress
from actstore.analysis.probes.nested_ridge import Found
from actstore.analysis.probes.number_results import (
    FEWEST,
    NumberBest,
    NumberReport,
    NumberResult,
    ShuffledNumbers,
    WordsOfNumbers,
)
from actstore.analysis.probes.results import Effect, Probe
from actstore.analysis.probes.run_plan import RunPlan
from actstore.analysis.probes.splits import Job, ProbeSettings
from actstore.analysis.solvers.ridge_paths import PENALTIES
from actstore.analysis.statistics import agreement
from actstore.analysis.statistics.folds import Fold
from actstore.analysis.statistics.paired import PairedDifference
from actstore.errors import TooFewRowsError
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows


class Tested(NamedTuple):
    """One place with what its regressions predicted."""

    job: Job
    numbers: np.ndarray
    found: Found
    words: np.ndarray | None
    """What the questions' words predict."""

    @property
    def predicted(self) -> np.ndarray:
        """Of each row by a probe that did not see it, float64 ``[rows]``."""
        return self.found.predicted[:, 0]

    @property
    def width(self) -> int:
        """Of the vectors."""
        return len(self.found.kept.centre)

    @property
    def rows(self) -> np.ndarray:
        """Those that were tested, ascending."""
        return np.sort(np.concatenate([division.test for division in self.job.divisions]))


def of_numbers(
    plan: RunPlan, selection: SelectedRows, progress: Progress | None = None
) -> NumberReport:
    """Train and test the probes of a column of numbers.

    Args:
        plan: what was asked.
        selection: the store's rows.
        progress: is told how far it has come.

    Raises:
        TooFewRowsError: too few rows or groups, or NaN in vectors.
    """
    notes: list[str] = []
    jobs = plan.jobs(selection, Numbers(column=plan.label), notes)
    for job in jobs:
        _check(job)
    jobs = splits.with_shuffled(jobs, plan.setting)
    results, best = run(jobs, plan.setting, notes, progress)
    results = [
        replace(result, made_of=run_plan.made_of(job))
        for job, result in zip(jobs, results, strict=True)
    ]
    asked = {
        "task": "number",
        "method": "ridge",
        "strength": plan.setting.strength or "chosen in the training rows of each fold",
    }
    return NumberReport(
        results=results,
        best=best,
        column=plan.label,
        lineage=plan.lineage(jobs[0].rows.grouping.grouped_by, {}) | asked,
        notes=list(dict.fromkeys(notes)),
    )


def run(
    jobs: Sequence[Job],
    setting: ProbeSettings,
    notes: list[str],
    progress: Progress | None = None,
) -> tuple[list[NumberResult], NumberBest | None]:
    """Return the result of each place, and the best of them.

    Args:
        jobs: the places; the shuffled labels are numbers.
        setting: folds, seed and strength.
        notes: takes what should be known of the figures.
        progress: is told how far it has come.
    """
    found, words = evaluating.side_by_side(
        jobs, lambda job: _regressions(job, setting), words_baseline.fit_numbers, progress
    )
    tested = [
        Tested(job, _numbers(job), one, told)
        for job, one, told in zip(jobs, found, words, strict=True)
    ]
    beyond = [_beyond_words(one) for one in tested]
    chances = judging.beyond_words(beyond, setting.seed)
    results = [
        _result(one, len(jobs), permuted, difference, chance)
        for one, permuted, difference, chance in zip(
            tested, _shuffled(tested), beyond, chances, strict=True
        )
    ]
    best = _best(tested, results, judging.no_choice(jobs, setting))
    _remark(tested, results, setting, notes)
    return results, best


def _numbers(job: Job) -> np.ndarray:
    assert job.numbers is not None
    return job.numbers


def _check(job: Job) -> None:
    """Refuse parts that are too small to be measured, or numbers that do not vary.

    Raises:
        TooFewRowsError: says which.
    """
    numbers = _numbers(job)
    for division in job.divisions:
        groups = len(np.unique(job.groups[division.test]))
        if groups < FEWEST:
            raise TooFewRowsError(
                f"{job.rows.place.text}: {counted(groups, 'group')} "
                f"({job.rows.grouping.grouped_by}) to test on in one part, and an order needs "
                f"{FEWEST}: use fewer --folds, more rows, or group them otherwise with --group-by"
            )
        parts = [(division.train, "training")]
        # Of several folds the others tell something where one of them does not.
        parts += [(division.test, "test")] if len(job.divisions) == 1 else []
        for part, name in parts:
            if len(np.unique(numbers[part])) < 2:
                raise TooFewRowsError(
                    f"{job.rows.place.text}: all {counted(len(part), 'row')} of the {name} part "
                    "have the same number: use other conditions, or more rows"
                )


def _regressions(job: Job, setting: ProbeSettings) -> Found:
    numbers = _numbers(job)
    columns = numbers[:, None]
    if job.shuffled is not None:
        columns = np.column_stack([numbers, job.shuffled.columns()])
    division = nested_ridge.divide(job.divisions, job.groups, setting.folds, setting.seed)
    penalties = PENALTIES if setting.strength is None else np.array([1 / setting.strength])
    return nested_ridge.run(
        evaluating.vectors_of(job), columns, division, penalties, job.check, choose=job.choose
    )


def _beyond_words(one: Tested) -> PairedDifference | None:
    if one.words is None:
        return None
    return agreement.r2_difference(
        one.predicted, one.words, one.numbers, one.job.groups, one.job.divisions, one.width
    )


def _shuffled(tested: Sequence[Tested]) -> list[ShuffledNumbers | None]:
    """Return what shuffled numbers come to in each place."""
    if any(one.job.shuffled is None for one in tested):
        return [None] * len(tested)
    figures = []
    for one in tested:
        assert one.job.shuffled is not None
        truth = np.column_stack([one.numbers, one.job.shuffled.columns()])
        predicted, rows = one.found.predicted, one.rows
        figures.append(
            (
                agreement.r2(predicted[rows], truth[rows]),
                agreement.mean_spearman(predicted, truth, one.job.divisions),
            )
        )
    r2, rho = (np.array([each[kind] for each in figures]) for kind in (0, 1))
    same = len({one.numbers[one.rows].tobytes() for one in tested}) == 1
    family, orders = p_values.chance(r2, same), p_values.chance(rho, same)
    alone, alone_orders = (
        [float(p_values.chance(each[None], True).above[0]) for each in kind] for kind in (r2, rho)
    )
    return [
        ShuffledNumbers(
            runs=r2.shape[1] - 1,
            r2_mean=float(r2[number, 1:].mean()),
            r2_95=float(np.quantile(r2[number, 1:], 0.95)),
            spearman_mean=float(rho[number, 1:].mean()),
            p_value=alone[number],
            p_family=float(family.above[number]),
            spearman_p_value=alone_orders[number],
            spearman_p_family=float(orders.above[number]),
            spearman_p_below=float(orders.below[number]),
        )
        for number in range(len(tested))
    ]


def _result(
    one: Tested,
    count: int,
    permuted: ShuffledNumbers | None,
    beyond: PairedDifference | None,
    chance: float | None,
) -> NumberResult:
    import pyarrow as pa

    job, rows, found = one.job, one.rows, one.found
    where = one.numbers, job.groups, job.divisions, one.width
    r2 = agreement.r2_interval(one.predicted, *where)
    words, effect = None, Effect("mean", *r2)
    if one.words is not None and beyond is not None and chance is not None:
        told = agreement.r2_interval(one.words, *where)
        words = WordsOfNumbers(told, agreement.spearman_interval(one.words, *where), chance)
        if told.value > 0:
            effect = Effect("words", *beyond[:3])
    truth, predicted = one.numbers[rows], one.predicted[rows]
    weights, intercept = found.kept.weights(found.penalty)
    crossed = len(job.divisions) > 1
    return NumberResult(
        place=job.rows.place,
        width=one.width,
        rows=len(rows),
        trained_rows=len(one.numbers) if crossed else len(job.divisions[0].train),
        grouped_by=job.rows.grouping.grouped_by,
        groups=len(np.unique(job.groups[rows])),
        places=count,
        folds=len(job.divisions),
        r2=r2,
        spearman=agreement.spearman_interval(one.predicted, *where),
        spearman_pooled=float(agreement.spearman(predicted[:, None], truth[:, None])[0]),
        error=float(np.sqrt(np.square(predicted - truth).mean())),
        deviation=float(truth.std()),
        strength=1 / found.penalty,
        strengths=tuple(1 / penalty for penalty in found.penalties),
        permuted=permuted,
        words=words,
        effect=effect,
        probe=Probe(
            place=job.rows.place,
            method="ridge",
            standard=found.kept.standard,
            model=weights.astype(np.float32),
            intercept=intercept,
        ),
        table=judging.table_of(job).take(pa.array(rows)),
        numbers=truth,
        predicted=predicted,
        rows_hash=judging.rows_hash_of(job),
        vectors_hash=place_rows.vectors_hash(job.rows.stored),
    )


def _best(
    tested: Sequence[Tested], results: Sequence[NumberResult], reason: str | None
) -> NumberBest | None:
    """Return the best of several places, and the nested figures of that choice."""
    if len(tested) < 2:
        return None
    top = max(results, key=lambda result: result.r2.value)
    choosing = [one.found.choosing for one in tested if one.found.choosing is not None]
    if reason is None and len(choosing) < len(tested):
        reason = "too few groups"
    if reason is not None:
        return NumberBest(top.place, top.r2, len(tested), None, None, [], reason)
    winners = [tested[number] for number in np.argmax(np.array(choosing), axis=0).tolist()]
    pieces = [(one, one.job.divisions[fold].test) for fold, one in enumerate(winners)]
    ends = np.cumsum([0, *(len(rows) for _, rows in pieces)])
    tests = [np.arange(start, end) for start, end in pairwise(ends.tolist())]
    rest = [np.setdiff1d(np.arange(ends[-1]), test) for test in tests]
    where = (
        np.concatenate([one.predicted[rows] for one, rows in pieces]),
        np.concatenate([one.numbers[rows] for one, rows in pieces]),
        np.concatenate([one.job.groups[rows] for one, rows in pieces]),
        [Fold(*both) for both in zip(rest, tests, strict=True)],
        max(one.width for one in winners),
    )
    return NumberBest(
        top.place,
        top.r2,
        len(tested),
        agreement.r2_interval(*where),
        agreement.spearman_interval(*where),
        [one.job.rows.place for one in winners],
        None,
    )


def _remark(
    tested: Sequence[Tested],
    results: Sequence[NumberResult],
    setting: ProbeSettings,
    notes: list[str],
) -> None:
    """Say what the figures cannot show, and which of them should be looked into."""
    judging.remark_shuffles(setting, notes)
    if setting.strength is None and not all(one.found.chosen for one in tested):
        notes.append(
            "too few groups to choose a penalty by: it is the one of strength 1; --strength sets it"
        )
    below = [result for result in results if result.below_chance]
    if below:
        worst = min(below, key=lambda result: result.spearman.value)
        more = f" and {counted(len(below) - 1, 'more place')}" if len(below) > 1 else ""
        notes.append(
            f"{worst.place.text}{more}: a rank correlation of {worst.spearman.value:.3f} is below "
            "what chance gives, and no probe learns to be wrong. As a rule numbers are balanced "
            f"within a hidden group that the folds split; here {worst.grouped_by} keeps rows "
            "together: name what belongs together with --group-by. Or the training and the tested "
            "part contradict each other"
        )
