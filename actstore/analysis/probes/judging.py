"""Turns scores into results: intervals, baselines, p-values over all places, the best layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from actstore.analysis.examples import place_rows
from actstore.analysis.probes import p_values
from actstore.analysis.probes.evaluating import Evaluated
from actstore.analysis.probes.nested_choice import FEWEST
from actstore.analysis.probes.p_values import Best, Candidate
from actstore.analysis.probes.results import (
    CHANCE,
    Effect,
    Permuted,
    ProbeResult,
    TestedPlace,
    WordsBaseline,
)
from actstore.analysis.probes.splits import REFITS, Job, ProbeSettings
from actstore.analysis.probes.words_baseline import WordsFit
from actstore.analysis.statistics import metrics
from actstore.analysis.statistics.auroc_difference import auroc_difference
from actstore.analysis.statistics.paired import PairedDifference
from actstore.wording import counted

if TYPE_CHECKING:
    import pyarrow as pa

FAIR = 99
"""Shuffled runs from which on a p-value of 0.05 is known to a fifth or so of itself."""


def judge(
    jobs: Sequence[Job],
    evaluated: Sequence[Evaluated],
    words: Sequence[WordsFit | None],
    setting: ProbeSettings,
    notes: list[str],
) -> tuple[list[ProbeResult], Best | None]:
    """Return the result of each place, and the best of them.

    Args:
        jobs: the places.
        evaluated: what came of each.
        words: scores of the words baseline in each.
        setting: method, folds and seed.
        notes: takes what should be known of the figures.
    """
    widths = [each.probe.width for each in evaluated]
    aurocs = [
        metrics.auroc_interval(each.scores, job.positive, job.groups, job.divisions, width)
        for job, each, width in zip(jobs, evaluated, widths, strict=True)
    ]
    permuted = shuffled_figures(
        [each.areas for each in evaluated],
        [each.shuffled_accuracy for each in evaluated],
        alike(jobs, [job.positive for job in jobs]),
    )
    beyond = [
        None
        if told is None
        else auroc_difference(
            each.scores, told.scores, job.positive, job.groups, job.divisions, width
        )
        for job, each, told, width in zip(jobs, evaluated, words, widths, strict=True)
    ]
    alone = words_alone(words, beyond, setting.seed)
    results = [
        _result(job, each, len(jobs), setting, auroc, chance, told, difference)
        for job, each, auroc, chance, told, difference in zip(
            jobs, evaluated, aurocs, permuted, alone, beyond, strict=True
        )
    ]
    tested = [
        Candidate(
            job.rows.place,
            auroc,
            each.scores,
            job.positive,
            job.groups,
            job.divisions,
            each.probe.width,
            each.choosing,
        )
        for job, each, auroc in zip(jobs, evaluated, aurocs, strict=True)
    ]
    best = p_values.best(tested, no_choice(jobs, setting))
    remark(results, setting, notes)
    return results, best


def no_choice(jobs: Sequence[Job], setting: ProbeSettings) -> str | None:
    """Return why a choice among the places cannot be judged."""
    if setting.method == "mlp":
        return "a multilayer perceptron is too dear to train again for each choice"
    if len(jobs[0].divisions) > 1 and setting.folds < FEWEST:
        return f"that takes {FEWEST} folds at least"
    if not all(job.shared for job in jobs):
        return "the places have different rows and do not share their folds"
    return None


def alike(jobs: Sequence[Job], labels: Sequence[np.ndarray]) -> bool:
    """Whether all places test as many rows of each class."""
    parts = [
        [label, *(label[fold.test] for fold in job.divisions)]
        for job, label in zip(jobs, labels, strict=True)
    ]
    rows = {tuple(np.bincount(whole).tolist()) for whole, *_ in parts}
    sizes = {tuple(np.bincount(part).tolist()) for _, *folds in parts for part in folds}
    return len(rows) == 1 and len(sizes) <= len(jobs[0].divisions)


def shuffled_figures(
    areas: Sequence[np.ndarray | None], accuracies: Sequence[float | None], alike: bool
) -> list[Permuted | None]:
    """Return what shuffled labels come to in each place.

    Args:
        areas: AUROC of the real labels and of each shuffled run, ``[1 + runs]``.
        accuracies: mean accuracy of the shuffled runs.
        alike: whether all places test as many rows of each class.
    """
    known = [each for each in areas if each is not None]
    if len(known) < len(areas):
        return [None] * len(areas)
    whole = np.array(known)
    found = p_values.chance(whole, alike)
    drawn = whole[:, 1:]
    own = np.array([p_values.chance(each[None], True).above[0] for each in whole])
    return [
        Permuted(
            runs=drawn.shape[1],
            auroc_mean=float(drawn[number].mean()),
            auroc_95=float(np.quantile(drawn[number], 0.95)),
            accuracy_mean=accuracy,
            p_value=float(own[number]),
            p_family=float(found.above[number]),
            p_below=float(found.below[number]),
        )
        for number, accuracy in enumerate(accuracies)
    ]


def words_alone(
    words: Sequence[WordsFit | None], beyond: Sequence[PairedDifference | None], seed: int
) -> list[WordsBaseline | None]:
    """Return the words baseline of each place, held against the probes of all places."""
    return [
        None if each is None or chance is None else WordsBaseline(each.auroc, chance)
        for each, chance in zip(words, beyond_words(beyond, seed), strict=True)
    ]


def beyond_words(beyond: Sequence[PairedDifference | None], seed: int) -> list[float | None]:
    """Return for each place how often chance puts the largest of all differences as high."""
    known = [each for each in beyond if each is not None]
    if not known:
        return [None] * len(beyond)
    most = max(len(each.shares) for each in known)
    shares = np.zeros((most, len(known)))
    for number, each in enumerate(known):
        shares[: len(each.shares), number] = each.shares
    found = p_values.differences(
        np.array([each.value for each in known]),
        shares,
        np.array([each.error for each in known]),
        min(each.freedom for each in known),
        seed,
    )
    chances = iter(found.tolist())
    return [None if each is None else next(chances) for each in beyond]


def table_of(job: Job) -> pa.Table:
    """Return the metadata of a job's rows, the other store's included."""
    import pyarrow as pa

    return (
        job.rows.table if job.other is None else pa.concat_tables([job.rows.table, job.other.table])
    )


def rows_hash_of(job: Job) -> str:
    """Return the hashes of keys and labels of a job's rows, and of the other store's."""
    each = [job.rows] + ([job.other] if job.other is not None else [])
    return " ".join(map(place_rows.rows_hash, each))


def effect_of(
    auroc: metrics.IntervalEstimate, words: WordsBaseline | None, beyond: PairedDifference | None
) -> Effect:
    """Return how far an AUROC is above the words', or above chance where that is the stronger."""
    if words is not None and beyond is not None and words.auroc.value >= 0.5:
        return Effect("words", *beyond[:3])
    return Effect("chance", *(value - 0.5 for value in auroc))


def _result(
    job: Job,
    evaluated: Evaluated,
    count: int,
    setting: ProbeSettings,
    auroc: metrics.IntervalEstimate,
    permuted: Permuted | None,
    words: WordsBaseline | None,
    beyond: PairedDifference | None,
) -> ProbeResult:
    import pyarrow as pa

    positive, groups, scores = job.positive, job.groups, evaluated.scores
    tested = np.sort(np.concatenate([division.test for division in job.divisions]))
    right = (scores > 0) == positive
    truth = positive[tested]
    crossed = len(job.divisions) > 1
    width = evaluated.probe.width
    return ProbeResult(
        place=job.rows.place,
        method=setting.method,
        width=width,
        rows=len(tested),
        trained_rows=len(positive) if crossed else len(job.divisions[0].train),
        positives=int(truth.sum()),
        grouped_by=job.rows.grouping.grouped_by,
        groups=len(np.unique(groups[tested])),
        places=count,
        folds=len(job.divisions),
        auroc=auroc,
        auroc_pooled=float(metrics.auroc(scores[tested], truth)),
        accuracy=metrics.accuracy_interval(right, groups, job.divisions, width, positive),
        balanced_accuracy=float((right[tested][truth].mean() + right[tested][~truth].mean()) / 2),
        majority=max(float(truth.mean()), 1 - float(truth.mean())),
        permuted=permuted,
        words=words,
        effect=effect_of(auroc, words, beyond),
        converged=evaluated.converged,
        probe=evaluated.probe,
        table=table_of(job).take(pa.array(tested)),
        scores=scores[tested],
        rows_hash=rows_hash_of(job),
        vectors_hash=place_rows.vectors_hash(job.rows.stored),
    )


def remark(results: Sequence[TestedPlace], setting: ProbeSettings, notes: list[str]) -> None:
    """Say what the figures cannot show, and which of them should be looked into."""
    remark_shuffles(setting, notes)
    told = [result.words.auroc for result in results if result.words is not None]
    worse = min(told, key=lambda each: each.high, default=None)
    if worse is not None and worse.high < 0.5:
        notes.append(
            f"the questions' words alone come to an AUROC of {worse.value:.3f}, below what chance "
            "gives: as a rule labels are balanced within a hidden group that the folds split, and "
            f"every figure here suffers from it. {results[0].grouped_by} keeps rows together: name "
            "what belongs together with --group-by"
        )
    below = [result for result in results if result.below_chance]
    if below:
        worst = min(below, key=lambda result: result.auroc.value)
        more = f" and {counted(len(below) - 1, 'more place')}" if len(below) > 1 else ""
        notes.append(
            f"{worst.place.text}{more}: an AUROC of {worst.auroc.value:.3f} is below what chance "
            "gives, and no probe learns to be wrong. As a rule labels are balanced within a "
            "hidden group (such as a true and a false statement of one city) that the folds "
            f"split; here {worst.grouped_by} keeps rows together: name what belongs together with "
            "--group-by. Or the training and the tested part contradict each other"
        )


def remark_shuffles(setting: ProbeSettings, notes: list[str]) -> None:
    """Say what so many shuffled runs cannot show."""
    runs = setting.runs
    if setting.method == "mlp" and runs < setting.permutations:
        notes.append(
            f"mlp is trained anew for each shuffle, so there are {REFITS} of "
            f"{setting.permutations}: no p-value can be below {1 / (1 + runs):.3f}"
        )
    elif 1 / (1 + runs) > CHANCE:
        notes.append(
            f"{counted(runs, 'shuffle')} cannot show a p-value below {1 / (1 + runs):.2f}: nothing "
            f"is claimed; take --permutations {FAIR} or more"
        )
    elif runs < FAIR:
        notes.append(
            f"{counted(runs, 'shuffle')} know p-values in steps of {1 / (1 + runs):.3f} only; take "
            f"--permutations {FAIR} or more"
        )
