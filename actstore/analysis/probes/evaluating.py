"""Trains and tests the probes of places: scores, shuffled labels, the probe to keep."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from threading import Event
from typing import NamedTuple, TypeVar

import numpy as np

from actstore.analysis.probes import nested_choice, words_baseline
from actstore.analysis.probes.results import Probe
from actstore.analysis.probes.splits import Job, ProbeSettings
from actstore.analysis.probes.words_baseline import Texts, WordsFit
from actstore.analysis.solvers import cv_solver, linear
from actstore.analysis.solvers.cv_solver import CrossValidation
from actstore.analysis.solvers.linear import LinearModels, Perceptron, TrainTest
from actstore.analysis.solvers.standardise import Standard, standards_of
from actstore.analysis.statistics import folds, metrics
from actstore.analysis.statistics.folds import Fold
from actstore.errors import MismatchError, TooFewRowsError
from actstore.storage.threads import Pool

Progress = Callable[[int, int, int], None]
"""Is told the bytes of vectors done, the rows done and the bytes there are."""
Result = TypeVar("Result")
Told = TypeVar("Told")

_LARGE = 1 << 30
"""Bytes of one matrix from which on one place is worked on at a time."""
_PRECISE = 1e5
"""Width times strength from which on rows' weights cancel to more digits than float32 has."""


class Evaluated(NamedTuple):
    """The scores and the kept probe of one place."""

    probe: Probe
    scores: np.ndarray
    """Float64 ``[rows]``: of each by a probe that was not trained on it; NaN of untested rows."""
    areas: np.ndarray | None
    """AUROC of the real labels and of each shuffled run, float64 ``[1 + runs]``."""
    shuffled_accuracy: float
    """Mean accuracy of the shuffled runs."""
    choosing: np.ndarray | None
    """By what each fold's layer is chosen, float64 ``[folds]``."""
    converged: bool
    """Whether all regressions did, those of the divisions and that of the probe to keep."""


def evaluate(
    jobs: Sequence[Job], setting: ProbeSettings, progress: Progress | None
) -> tuple[list[Evaluated], list[WordsFit | None]]:
    """Work on all places, several at a time where they are small, and on the questions' words."""
    return side_by_side(
        jobs, lambda job: each_class([job], setting)[0], words_baseline.fit, progress
    )


def side_by_side(
    jobs: Sequence[Job],
    work: Callable[[Job], Result],
    words: Callable[[Job, Texts], Told],
    progress: Progress | None,
) -> tuple[list[Result], list[Told | None]]:
    """Return what work on each place comes to, and on its questions' words.

    Args:
        jobs: the places.
        work: on one of them.
        words: on its questions; once for places with the same ones.
        progress: is told how far it has come.
    """
    sizes = [4 * len(job.rows) * job.rows.width for job in jobs]
    workers = min(
        len(jobs), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    )
    if max(sizes, default=0) > _LARGE:
        workers = 1
    found = []
    done = rows = 0
    stop = Event()
    jobs = [job._replace(stop=stop, choose=len(jobs) > 1) for job in jobs]
    texts, places = words_baseline.distinct(jobs)
    # One thread of arithmetic for each place: places side by side use processors better.
    with (
        linear.threads(1 if workers > 1 else None),
        Pool(max(1, workers)) as pool,
    ):
        try:
            told = [None if each is None else pool.submit(words, *each) for each in texts]
            for job, size, result in zip(jobs, sizes, pool.map(work, jobs), strict=True):
                found.append(result)
                done, rows = done + size, rows + len(job.rows)
                if progress is not None:
                    progress(done, rows, sum(sizes))
            baselines = [None if each is None else each.result() for each in told]
        except BaseException:
            stop.set()
            raise
    return found, [baselines[place] for place in places]


def vectors_of(job: Job) -> np.ndarray:
    """Return a job's vectors, the other store's after its own, float32 ``[rows, width]``.

    Raises:
        MismatchError: they differ in width.
        TooFewRowsError: some are not finite.
    """
    rows, other = job.rows, job.other
    vectors = rows.vectors()
    if other is None:
        return vectors
    tested = other.vectors()
    if tested.shape[1] != vectors.shape[1]:
        raise MismatchError(
            f"{rows.place.text}: vectors of {vectors.shape[1]} values to train on, but of "
            f"{tested.shape[1]} in the other store"
        )
    return np.concatenate([vectors, tested])


def each_class(jobs: Sequence[Job], setting: ProbeSettings) -> list[Evaluated]:
    """Train and test the probes of one place's classes, whose products are made once for all.

    Args:
        jobs: the same rows and divisions, each with the labels of one class.
        setting: how.
    """
    first = jobs[0]
    vectors = vectors_of(first)
    parts = [division.train for division in first.divisions]
    if len(first.divisions) > 1:
        parts.append(np.arange(len(vectors)))
    standards = standards_of(vectors, parts)
    found = []
    for job, trained in zip(jobs, _train(jobs, setting, vectors, standards), strict=True):
        probe = Probe(
            place=job.rows.place,
            method=setting.method,
            standard=standards[-1],
            model=trained.model,
            intercept=trained.intercept,
        )
        areas, accuracy = None, 0.0
        if trained.shuffled is not None:
            areas, accuracy = _of_shuffled(job.divisions, _labels(job), trained.shuffled)
        found.append(
            Evaluated(probe, trained.scores, areas, accuracy, trained.choosing, trained.converged)
        )
    return found


def _labels(job: Job) -> np.ndarray:
    """Return the real labels and the shuffled ones, ``[rows, 1 + runs]``."""
    if job.shuffled is None:
        return job.positive[:, None]
    return np.column_stack([job.positive, job.shuffled.columns()])


def _of_shuffled(
    divisions: Sequence[Fold], labels: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return the AUROC for each column of labels, and the mean accuracy of all but the first."""
    areas = np.zeros(labels.shape[1])
    right = np.zeros(labels.shape[1])
    for division in divisions:
        found = metrics.auroc(scores[division.test], labels[division.test])
        # Where labels shared with other places leave one class here, nothing can be told.
        areas += np.where(np.isnan(found), 0.5, found) / len(divisions)
        right += ((scores[division.test] > 0) == labels[division.test]).sum(0)
    tested = sum(len(division.test) for division in divisions)
    return areas, float(right[1:].mean() / tested)


class _Trained(NamedTuple):
    """The scores of all divisions of a place, and the model to keep."""

    scores: np.ndarray
    """Of each row, by a probe that did not see it; NaN where there is none. ``[rows]``."""
    shuffled: np.ndarray | None
    """The same for each column of labels, the first being the real ones."""
    model: np.ndarray | Perceptron
    """To be kept, in terms of dimensions."""
    intercept: float
    converged: bool
    """Whether all regressions did, those of the divisions and that of the probe to keep."""
    choosing: np.ndarray | None = None
    """By what each fold's layer is chosen, where one is to be chosen."""


def _train(
    jobs: Sequence[Job],
    setting: ProbeSettings,
    vectors: np.ndarray,
    standards: Sequence[Standard],
) -> list[_Trained]:
    """Train and test all divisions in the way that suits them.

    Args:
        jobs: the classes of one place.
        setting: how.
        vectors: float32 ``[rows, width]``.
        standards: of each division's training rows, then of all rows where there are several
            divisions.
    """
    divisions, width = jobs[0].divisions, vectors.shape[1]
    dual = min(len(division.train) for division in divisions) <= width
    if dual and setting.method in ("logistic", "ridge") and setting.inverse * width > _PRECISE:
        vectors = vectors.astype(np.float64)
    if len(divisions) > 1 and len(vectors) <= width and setting.method != "mlp":
        ratios = cv_solver.variance_ratios(vectors, standards[-1], standards[:-1], divisions)
        if ratios.max() <= cv_solver.LARGEST_RATIO:
            crossed = cv_solver.CrossValidation(
                vectors, standards[-1], standards[:-1], divisions, ratios
            )
            trained = [_together(job, setting, crossed) for job in jobs]
            return _with_choice(trained, jobs, setting, vectors, standards, crossed.whole)
    trained = _one_by_one(jobs, setting, vectors, standards)
    return _with_choice(trained, jobs, setting, vectors, standards, None)


def _together(job: Job, setting: ProbeSettings, crossed: CrossValidation) -> _Trained:
    """Cross-validate linear probes where rows are no more than dimensions."""
    job.check()
    positive = job.positive
    model = _linear(crossed.whole, positive, setting)
    fitted = crossed.whole.fitted(model.weights)[:, 0] + float(model.intercepts[0])
    scores, converged = crossed.scores(positive, setting.method, setting.inverse, fitted)
    shuffled = None
    if job.shuffled is not None:
        labels = _labels(job)
        shuffled = np.zeros(labels.shape, np.float32)
        for number, division in enumerate(job.divisions):
            data = crossed.fold(number)
            shuffled[division.test] = _fit_shuffled(job, data, labels[division.train], setting)
    weights = crossed.whole.primal(model.weights[:, 0])
    converged = converged and model.converged
    return _Trained(scores, shuffled, weights, float(model.intercepts[0]), converged)


def _one_by_one(
    jobs: Sequence[Job],
    setting: ProbeSettings,
    vectors: np.ndarray,
    standards: Sequence[Standard],
) -> list[_Trained]:
    """Train and test each division by itself, then the probes to keep."""
    divisions, count = jobs[0].divisions, len(vectors)
    labels = [None if job.shuffled is None else _labels(job) for job in jobs]
    scores = [np.full(count, np.nan) for _ in jobs]
    shuffled = [None if each is None else np.zeros(each.shape, np.float32) for each in labels]
    converged = [True] * len(jobs)
    kept: list[_Fitted] = []
    for division, standard in zip(divisions, standards, strict=False):
        data = TrainTest.of(vectors, division.train, division.test, standard)
        kept = []
        for number, job in enumerate(jobs):
            job.check()
            fitted = _fit(data, job.positive[division.train], setting)
            kept.append(fitted)
            scores[number][division.test] = fitted.scores
            converged[number] = converged[number] and fitted.converged
            given, drawn = labels[number], shuffled[number]
            if given is not None and drawn is not None:
                part = given[division.train]
                drawn[division.test] = _fit_shuffled(job, data, part, setting, fitted.scores)
    if len(divisions) > 1:
        every = np.arange(count)
        data = TrainTest.of(vectors, every, every[:0], standards[-1])
        kept = [_fit(data, job.positive, setting) for job in jobs]
    return [
        _Trained(
            scores[number],
            shuffled[number],
            fitted.model,
            fitted.intercept,
            converged[number] and fitted.converged,
        )
        for number, fitted in enumerate(kept)
    ]


def _with_choice(
    trained: list[_Trained],
    jobs: Sequence[Job],
    setting: ProbeSettings,
    vectors: np.ndarray,
    standards: Sequence[Standard],
    products: TrainTest | None,
) -> list[_Trained]:
    """Add by what the layer of each fold is chosen, where one is to be chosen and that can be told.

    Args:
        trained: what came of each class's probes.
        jobs: the classes of one place.
        setting: method and penalty.
        vectors: float32 or float64 ``[rows, width]``.
        standards: the last is of all rows of a cross-validation, or of the training rows of one
            division.
        products: of all rows, where they are known.
    """
    first = jobs[0]
    if not first.choose or setting.method == "mlp":
        return trained
    if len(first.divisions) > 1:
        if len(first.divisions) < nested_choice.FEWEST or not first.shared:
            return trained
        rows, assigned = np.arange(len(vectors)), _assigned(first.divisions, len(vectors))
        left = nested_choice.pairs(assigned)
    else:
        rows = first.divisions[0].train
        labels = first.positive if first.codes is None else first.codes
        names = [str(code) for code in range(int(labels.max()) + 1)]
        try:
            inner = folds.grouped(
                labels[rows], first.groups[rows], setting.folds, setting.seed, names
            )
        except TooFewRowsError:
            return trained
        assigned = _assigned(inner, len(rows))
        left = [(fold,) for fold in range(len(inner))]
    own = vectors if len(rows) == len(vectors) else vectors[rows]
    outside = nested_choice.LeftOut(own, assigned, left, standards[-1], products)
    found = []
    for one, job in zip(trained, jobs, strict=True):
        job.check()
        how = job.positive[rows], setting.method, setting.inverse
        if len(first.divisions) > 1:
            choosing = nested_choice.crossed(outside, left, *how)
        else:
            choosing = np.array([np.mean(outside.areas(*how))])
        found.append(one._replace(choosing=choosing))
    return found


def _assigned(divisions: Sequence[Fold], count: int) -> np.ndarray:
    """Return in which fold each row is tested, int64 ``[rows]``."""
    assigned = np.empty(count, np.int64)
    for number, division in enumerate(divisions):
        assigned[division.test] = number
    return assigned


class _Fitted(NamedTuple):
    """The model and test scores of one division."""

    model: np.ndarray | Perceptron
    """In terms of dimensions."""
    intercept: float
    scores: np.ndarray
    """Of the test rows."""
    converged: bool


def _fit(data: TrainTest, positive: np.ndarray, setting: ProbeSettings) -> _Fitted:
    if setting.method == "mlp":
        network = linear.perceptron(data, positive, setting.inverse, setting.seed)
        return _Fitted(network, network.intercept, network.scores(data.test.ready()), True)
    model = _linear(data, positive, setting)
    offset = float(model.intercepts[0])
    scores = data.scores(model.weights)[:, 0] + offset
    return _Fitted(data.primal(model.weights[:, 0]), offset, scores, model.converged)


def _linear(data: TrainTest, positive: np.ndarray, setting: ProbeSettings) -> LinearModels:
    if setting.method == "logistic":
        return linear.logistic(data, positive, setting.inverse)
    if setting.method == "ridge":
        return linear.ridge(data, positive, setting.inverse)
    return linear.mean_difference(data, positive[:, None])


def _fit_shuffled(
    job: Job,
    data: TrainTest,
    labels: np.ndarray,
    setting: ProbeSettings,
    own: np.ndarray | None = None,
) -> np.ndarray:
    """Return the test rows' scores for each column of labels, the first being the real ones.

    Those of an MLP are given as ``own`` and not trained for again. Where shuffled labels are
    all of one class, scores are 0.
    """
    lone = labels.all(0) | ~labels.any(0)
    if lone.any():
        found = _fit_shuffled(job, data, np.where(lone, labels[:, :1], labels), setting, own)
        found[:, lone] = 0
        return found
    if setting.method == "mlp":
        assert own is not None
        columns = [own]
        for column in range(1, labels.shape[1]):
            job.check()
            network = linear.perceptron(data, labels[:, column], setting.inverse, setting.seed)
            columns.append(network.scores(data.test.ready()))
        return np.column_stack(columns)
    model: LinearModels
    if setting.method == "logistic":
        model = linear.newton_step(data, labels, setting.inverse)
    elif setting.method == "ridge":
        model = linear.ridges(data, labels, setting.inverse)
    else:
        model = linear.mean_difference(data, labels)
    scores: np.ndarray = data.many_scores(model.weights) + model.intercepts
    return scores
