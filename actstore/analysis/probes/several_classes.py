"""Probes for several classes: one against the rest, of which the largest score names the class.

Each class has a probe of its own, trained and tested as that of two classes is, in folds that
all of them share. The labels of a shuffled run are those of all classes at once, so that the
mean of the classes' AUROCs has the distribution that it has without signal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from actstore.analysis.examples import place_rows
from actstore.analysis.examples.classes import Classes
from actstore.analysis.probes import (
    evaluating,
    judging,
    p_values,
    run_plan,
    splits,
    words_baseline,
)
from actstore.analysis.probes.evaluating import Evaluated, Progress
from actstore.analysis.probes.p_values import Best, Candidate
from actstore.analysis.probes.results import (
    ClassesReport,
    ClassesResult,
    ClassFigures,
    Permuted,
    WordsBaseline,
)
from actstore.analysis.probes.run_plan import RunPlan
from actstore.analysis.probes.splits import Job, ProbeSettings
from actstore.analysis.probes.words_baseline import WordsFit
from actstore.analysis.statistics import metrics
from actstore.analysis.statistics.auroc_difference import macro_auroc_difference
from actstore.analysis.statistics.metrics import IntervalEstimate
from actstore.analysis.statistics.paired import PairedDifference
from actstore.analysis.statistics.shuffling import Shuffled

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows


def of_several(
    plan: RunPlan,
    selection: SelectedRows,
    names: tuple[str, ...],
    progress: Progress | None = None,
) -> ClassesReport:
    """Train and test one probe for each class and place.

    Args:
        plan: what was asked.
        selection: the store's rows.
        names: the classes, ascending.
        progress: is told how far it has come.

    Raises:
        TooFewRowsError: too few rows or groups of a class, or NaN.
    """
    notes: list[str] = []
    sides = Classes(column=plan.label, positive=names[:1], negative=names[1:])
    jobs = plan.jobs(selection, sides, notes, names)
    codes = [_codes(job, plan.label, names) for job in jobs]
    for job, own in zip(jobs, codes, strict=True):
        splits.check_divisions(job.rows.place, own, job.divisions, names)
    jobs = splits.with_shuffled(jobs, plan.setting, codes)
    results, best = run(jobs, codes, names, plan.setting, notes, progress)
    results = [
        replace(result, made_of=run_plan.made_of(job))
        for job, result in zip(jobs, results, strict=True)
    ]
    notes += [
        run_plan.UNSETTLED.format(place=each.place.text) for each in results if not each.converged
    ]
    return ClassesReport(
        results=results,
        best=best,
        column=plan.label,
        names=names,
        method=plan.setting.method,
        lineage=plan.lineage(jobs[0].rows.grouping.grouped_by, {"classes": list(names)}),
        notes=list(dict.fromkeys(notes)),
    )


def run(
    jobs: Sequence[Job],
    codes: Sequence[np.ndarray],
    names: tuple[str, ...],
    setting: ProbeSettings,
    notes: list[str],
    progress: Progress | None = None,
) -> tuple[list[ClassesResult], Best | None]:
    """Return the result of each place, and the best of them.

    Args:
        jobs: the places; the shuffled labels are numbers of classes.
        codes: class of each job's rows, int64 ``[rows]``.
        names: of the classes.
        setting: method, folds and seed.
        notes: takes what should be known of the figures.
        progress: is told how far it has come.
    """
    jobs = [job._replace(codes=own) for job, own in zip(jobs, codes, strict=True)]
    evaluated, fits = evaluating.side_by_side(
        jobs,
        lambda job: evaluating.each_class(_against_rest(job, len(names)), setting),
        lambda job, texts: [
            words_baseline.fit(each, texts) for each in _against_rest(job, len(names))
        ],
        progress,
    )
    words = [
        None if each is None else _words(job, own, each)
        for job, own, each in zip(jobs, codes, fits, strict=True)
    ]
    return _judge(jobs, codes, names, evaluated, words, setting, notes)


def _codes(job: Job, column: str, names: tuple[str, ...]) -> np.ndarray:
    tables = [job.rows.table] + ([job.other.table] if job.other is not None else [])
    return np.concatenate([place_rows.codes_of(table, column, names) for table in tables])


def _against_rest(job: Job, classes: int) -> list[Job]:
    """Return the jobs of telling each class from all others."""
    count, codes = len(job.rows), job.codes
    assert codes is not None
    found = []
    for code in range(classes):
        positive = codes == code
        other, shuffled = job.other, job.shuffled
        if other is not None:
            other = replace(other, positive=positive[count:])
        if shuffled is not None:
            shuffled = Shuffled(shuffled.labels == code, shuffled.units)
        rows = replace(job.rows, positive=positive[:count])
        found.append(job._replace(rows=rows, other=other, shuffled=shuffled))
    return found


def _words(job: Job, codes: np.ndarray, fits: Sequence[WordsFit]) -> WordsFit:
    scores = np.column_stack([fit.scores for fit in fits])
    auroc = metrics.macro_auroc_interval(scores, codes, job.groups, job.divisions)
    return WordsFit(scores, auroc)


def _judge(
    jobs: Sequence[Job],
    codes: Sequence[np.ndarray],
    names: tuple[str, ...],
    evaluated: Sequence[Sequence[Evaluated]],
    words: Sequence[WordsFit | None],
    setting: ProbeSettings,
    notes: list[str],
) -> tuple[list[ClassesResult], Best | None]:
    tested = []
    beyond: list[PairedDifference | None] = []
    for job, own, each, told in zip(jobs, codes, evaluated, words, strict=True):
        scores = np.column_stack([one.scores for one in each])
        width = each[0].probe.width
        where = own, job.groups, job.divisions, width
        choosing = [one.choosing for one in each if one.choosing is not None]
        tested.append(
            Candidate(
                job.rows.place,
                metrics.macro_auroc_interval(scores, *where),
                scores,
                *where,
                np.mean(choosing, axis=0) if len(choosing) == len(each) else None,
            )
        )
        beyond.append(None if told is None else macro_auroc_difference(scores, told.scores, *where))
    areas = [[one.areas for one in each if one.areas is not None] for each in evaluated]
    permuted = judging.shuffled_figures(
        [np.mean(each, axis=0) if each else None for each in areas],
        [None] * len(jobs),
        judging.alike(jobs, codes),
    )
    family: list[Sequence[float | None]] = [[None] * len(names)] * len(jobs)
    if all(areas):
        # Of classes with unlike sizes each AUROC is measured by its own spread.
        above = p_values.chance(np.concatenate(areas), alike=False).above
        family = list(above.reshape(len(jobs), len(names)).tolist())
    alone = judging.words_alone(words, beyond, setting.seed)
    results = [
        _result(job, one, names, each, len(jobs), setting, chance, chances, told, difference)
        for job, one, each, chance, chances, told, difference in zip(
            jobs, tested, evaluated, permuted, family, alone, beyond, strict=True
        )
    ]
    best = p_values.best(tested, judging.no_choice(jobs, setting))
    judging.remark(results, setting, notes)
    return results, best


def _result(
    job: Job,
    tested: Candidate,
    names: tuple[str, ...],
    evaluated: Sequence[Evaluated],
    count: int,
    setting: ProbeSettings,
    permuted: Permuted | None,
    family: Sequence[float | None],
    words: WordsBaseline | None,
    beyond: PairedDifference | None,
) -> ClassesResult:
    import pyarrow as pa

    codes, groups, scores, width = tested.labels, tested.groups, tested.scores, tested.width
    rows = np.sort(np.concatenate([division.test for division in job.divisions]))
    named = np.full(len(codes), -1)
    named[rows] = scores[rows].argmax(1)
    confusion = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, (codes[rows], named[rows]), 1)
    sizes = confusion.sum(1)
    table = judging.table_of(job)
    crossed = len(job.divisions) > 1
    figures = tuple(
        ClassFigures(
            name=name,
            rows=int(sizes[code]),
            auroc=_auroc(tested, code),
            p_family=family[code],
            probe=evaluated[code].probe,
        )
        for code, name in enumerate(names)
    )
    return ClassesResult(
        place=job.rows.place,
        method=setting.method,
        width=width,
        rows=len(rows),
        trained_rows=len(codes) if crossed else len(job.divisions[0].train),
        grouped_by=job.rows.grouping.grouped_by,
        groups=len(np.unique(groups[rows])),
        places=count,
        folds=len(job.divisions),
        auroc=tested.auroc,
        # Chance is not a half here, so the interval is that of probes misled by all they learn.
        accuracy=metrics.accuracy_interval(named == codes, groups, job.divisions, None, codes),
        balanced_accuracy=float((np.diag(confusion) / sizes).mean()),
        majority=float(sizes.max() / sizes.sum()),
        permuted=permuted,
        words=words,
        effect=judging.effect_of(tested.auroc, words, beyond),
        converged=all(each.converged for each in evaluated),
        classes=figures,
        confusion=confusion,
        table=table.take(pa.array(rows)),
        scores=scores[rows],
        rows_hash=judging.rows_hash_of(job),
        vectors_hash=place_rows.vectors_hash(job.rows.stored),
    )


def _auroc(tested: Candidate, code: int) -> IntervalEstimate:
    return metrics.auroc_interval(
        tested.scores[:, code],
        tested.labels == code,
        tested.groups,
        tested.divisions,
        tested.width,
    )
