"""Trains and tests the probes of cells: folds, scores, shuffled labels, the probe to keep."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import NamedTuple

import numpy as np

from actstore.analysis import cells, crossing, linear, metrics
from actstore.analysis.cells import Cell
from actstore.analysis.folds import Fold
from actstore.analysis.linear import Linear, Method, Perceptron, Space
from actstore.analysis.results import Permuted, Probe, Result
from actstore.analysis.standards import Standard, standards_of
from actstore.errors import MismatchError

Progress = Callable[[int, int, int], None]
"""Is told the bytes of vectors done, the rows done and the bytes there are."""

_LARGE = 1 << 30
"""Bytes of one matrix from which on one cell is worked on at a time."""
_PRECISE = 1e5
"""Width times strength from which on rows' weights cancel to more digits than float32 has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How probes are trained and tested."""

    method: Method = "logistic"
    strength: float = 1.0
    """Inverse of the L2 penalty: scikit-learn's ``C``, and ``1 / alpha`` of ridge and MLP."""
    folds: int = 5
    permutations: int = 100
    seed: int = 0


class Job(NamedTuple):
    """One cell with its divisions, ready to be worked on."""

    cell: Cell
    other: Cell | None
    """Rows of another store, tested on; they follow the cell's own."""
    divisions: list[Fold]
    shuffled: np.ndarray | None
    """Bool ``[rows, permutations]``."""
    stop: Event | None = None
    """Set when nobody waits for the result any more."""

    def check(self) -> None:
        """Go no further where nobody waits."""
        if self.stop is not None and self.stop.is_set():
            raise _Stopped


class _Stopped(Exception):
    """Ends the work on a cell; whoever set the event has the reason."""


def evaluate(jobs: Sequence[Job], setting: Settings, progress: Progress | None) -> list[Result]:
    """Work on all cells, several at a time where they are small."""
    sizes = [4 * len(job.cell) * job.cell.selection.shape[1] for job in jobs]
    workers = min(
        len(jobs), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    )
    if max(sizes, default=0) > _LARGE:
        workers = 1
    results = []
    done = rows = 0
    stop = Event()
    jobs = [job._replace(stop=stop) for job in jobs]
    # One thread of arithmetic for each cell: cells side by side use processors better.
    with (
        linear.threads(1 if workers > 1 else None),
        ThreadPoolExecutor(max(1, workers)) as pool,
    ):
        try:
            for job, size, result in zip(
                jobs, sizes, pool.map(lambda job: _evaluate(job, setting), jobs), strict=True
            ):
                results.append(result)
                done, rows = done + size, rows + len(job.cell)
                if progress is not None:
                    progress(done, rows, sum(sizes))
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return results


def _evaluate(job: Job, setting: Settings) -> Result:
    cell, other = job.cell, job.other
    vectors = cell.vectors()
    if other is not None:
        tested = other.vectors()
        if tested.shape[1] != vectors.shape[1]:
            raise MismatchError(
                f"{cell.place.text}: vectors of {vectors.shape[1]} values to train on, but of "
                f"{tested.shape[1]} in the other store"
            )
        vectors = np.concatenate([vectors, tested])
    positive = joined(cell.positive, None if other is None else other.positive)
    groups = numbers(joined(cell.groups, None if other is None else other.groups))
    parts = [division.train for division in job.divisions]
    if len(job.divisions) > 1:
        parts.append(np.arange(len(vectors)))
    found = standards_of(vectors, parts)
    trained = _train(job, setting, _Rows(vectors, positive, found))
    return _result(job, setting, positive, groups, trained, found)


class _Rows(NamedTuple):
    """The rows of a job."""

    vectors: np.ndarray
    """Float32 or float64 ``[rows, width]``."""
    positive: np.ndarray
    """Bool ``[rows]``."""
    standards: list[Standard]
    """Of each division's training rows, then of all rows where there are several divisions."""


class _Trained(NamedTuple):
    """What came of a cell's divisions."""

    scores: np.ndarray
    """Of each row, by a probe that did not see it; NaN where there is none. ``[rows]``."""
    shuffled: np.ndarray | None
    """The same for each column of labels, the first being the real ones."""
    model: np.ndarray | Perceptron
    """To be kept, in terms of dimensions."""
    intercept: float
    converged: bool
    """Whether all regressions did, those of the divisions and that of the probe to keep."""


def _train(job: Job, setting: Settings, rows: _Rows) -> _Trained:
    """Train and test all divisions in the way that suits them."""
    vectors, _, standards = rows
    width = vectors.shape[1]
    dual = min(len(division.train) for division in job.divisions) <= width
    if dual and setting.method in ("logistic", "ridge") and setting.strength * width > _PRECISE:
        vectors = vectors.astype(np.float64)
        rows = rows._replace(vectors=vectors)
    if len(job.divisions) > 1 and len(vectors) <= width and setting.method != "mlp":
        ratios = crossing.ratios(vectors, standards[-1], standards[:-1], job.divisions)
        if ratios.max() <= crossing.MOST:
            return _together(job, setting, rows, ratios)
    return _one_by_one(job, setting, rows)


def _together(job: Job, setting: Settings, rows: _Rows, ratios: np.ndarray) -> _Trained:
    """Cross-validate linear probes where rows are no more than dimensions."""
    vectors, positive, standards = rows
    crossed = crossing.Crossed(vectors, standards[-1], standards[:-1], job.divisions, ratios)
    model = _linear(crossed.whole, positive, setting)
    fitted = crossed.whole.fitted(model.weights)[:, 0] + float(model.intercepts[0])
    scores, converged = crossed.scores(positive, setting.method, setting.strength, fitted)
    shuffled = None
    if job.shuffled is not None:
        labels = np.column_stack([positive, job.shuffled])
        shuffled = np.zeros(labels.shape, np.float32)
        for number, division in enumerate(job.divisions):
            space = crossed.space(number)
            shuffled[division.test] = _fit_shuffled(job, space, labels[division.train], setting)
    weights = crossed.whole.primal(model.weights[:, 0])
    converged = converged and model.converged
    return _Trained(scores, shuffled, weights, float(model.intercepts[0]), converged)


def _one_by_one(job: Job, setting: Settings, rows: _Rows) -> _Trained:
    """Train and test each division by itself, then the probe to keep."""
    vectors, positive, standards = rows
    scores = np.full(len(vectors), np.nan)
    shuffled = None
    if job.shuffled is not None:
        shuffled = np.zeros((len(vectors), job.shuffled.shape[1] + 1), np.float32)
    kept, converged = None, True
    for division, standard in zip(job.divisions, standards, strict=False):
        job.check()
        space = Space.of(vectors, division.train, division.test, standard)
        kept = _fit(space, positive[division.train], setting)
        scores[division.test] = kept.scores
        converged = converged and kept.converged
        if shuffled is not None and job.shuffled is not None:
            labels = np.column_stack([positive, job.shuffled])[division.train]
            shuffled[division.test] = _fit_shuffled(job, space, labels, setting, kept.scores)
    if len(job.divisions) > 1:
        every = np.arange(len(vectors))
        kept = _fit(Space.of(vectors, every, every[:0], standards[-1]), positive, setting)
    assert kept is not None
    converged = converged and kept.converged
    return _Trained(scores, shuffled, kept.model, kept.intercept, converged)


class _Fitted(NamedTuple):
    """What came of one division."""

    model: np.ndarray | Perceptron
    """In terms of dimensions."""
    intercept: float
    scores: np.ndarray
    """Of the test rows."""
    converged: bool


def _fit(space: Space, positive: np.ndarray, setting: Settings) -> _Fitted:
    if setting.method == "mlp":
        network = linear.perceptron(space, positive, setting.strength, setting.seed)
        return _Fitted(network, network.intercept, network.scores(space.test.ready()), True)
    model = _linear(space, positive, setting)
    offset = float(model.intercepts[0])
    scores = space.scores(model.weights)[:, 0] + offset
    return _Fitted(space.primal(model.weights[:, 0]), offset, scores, model.converged)


def _linear(space: Space, positive: np.ndarray, setting: Settings) -> Linear:
    if setting.method == "logistic":
        return linear.logistic(space, positive, setting.strength)
    if setting.method == "ridge":
        return linear.ridge(space, positive, setting.strength)
    return linear.mean_difference(space, positive[:, None])


def _fit_shuffled(
    job: Job, space: Space, labels: np.ndarray, setting: Settings, own: np.ndarray | None = None
) -> np.ndarray:
    """Return the test rows' scores for each column of labels, the first being the real ones.

    Those of an MLP are given as ``own`` and not trained for again.
    """
    if setting.method == "mlp":
        assert own is not None
        columns = [own]
        for column in range(1, labels.shape[1]):
            job.check()
            network = linear.perceptron(space, labels[:, column], setting.strength, setting.seed)
            columns.append(network.scores(space.test.ready()))
        return np.column_stack(columns)
    model: Linear
    if setting.method == "logistic":
        model = linear.newton_step(space, labels, setting.strength)
    elif setting.method == "ridge":
        model = linear.ridges(space, labels, setting.strength)
    else:
        model = linear.mean_difference(space, labels)
    found: np.ndarray = space.many_scores(model.weights) + model.intercepts
    return found


def _result(
    job: Job,
    setting: Settings,
    positive: np.ndarray,
    groups: np.ndarray,
    trained: _Trained,
    standards: Sequence[Standard],
) -> Result:
    import pyarrow as pa

    scores = trained.scores
    tested = np.sort(np.concatenate([division.test for division in job.divisions]))
    right = (scores > 0) == positive
    truth = positive[tested]
    table = job.cell.table
    digest = cells.rows_hash(job.cell)
    if job.other is not None:
        table = pa.concat_tables([table, job.other.table])
        digest = f"{digest} {cells.rows_hash(job.other)}"
    crossed = len(job.divisions) > 1
    permuted = None
    if trained.shuffled is not None and job.shuffled is not None:
        permuted = _permuted(job.divisions, positive, job.shuffled, trained.shuffled)
    return Result(
        place=job.cell.place,
        method=setting.method,
        width=len(standards[0].mean),
        rows=len(tested),
        trained_rows=len(positive) if crossed else len(job.divisions[0].train),
        positives=int(truth.sum()),
        groups=len(np.unique(groups[tested])),
        folds=len(job.divisions),
        auroc=metrics.auroc_interval(scores, positive, groups, job.divisions),
        auroc_pooled=float(metrics.auroc(scores[tested], truth)),
        accuracy=metrics.accuracy_interval(right, groups, job.divisions),
        balanced_accuracy=float((right[tested][truth].mean() + right[tested][~truth].mean()) / 2),
        majority=max(float(truth.mean()), 1 - float(truth.mean())),
        permuted=permuted,
        converged=trained.converged,
        probe=Probe(
            place=job.cell.place,
            method=setting.method,
            standard=standards[-1],
            model=trained.model,
            intercept=trained.intercept,
        ),
        table=table.take(pa.array(tested)),
        scores=scores[tested],
        rows_hash=digest,
    )


def _permuted(
    divisions: Sequence[Fold], positive: np.ndarray, shuffled: np.ndarray, scores: np.ndarray
) -> Permuted:
    labels = np.column_stack([positive, shuffled])
    areas = np.zeros(labels.shape[1])
    right = 0
    for division in divisions:
        areas += metrics.auroc(scores[division.test], labels[division.test]) / len(divisions)
        right += ((scores[division.test] > 0) == labels[division.test]).sum(0)
    tested = sum(len(division.test) for division in divisions)
    drawn = areas[1:]
    return Permuted(
        runs=len(drawn),
        auroc_mean=float(np.nanmean(drawn)),
        auroc_95=float(np.nanquantile(drawn, 0.95)),
        accuracy_mean=float(np.mean(np.asarray(right)[1:]) / tested),
        p_value=float((1 + (drawn >= areas[0] - 1e-12).sum()) / (1 + len(drawn))),
    )


def joined(one: np.ndarray, other: np.ndarray | None) -> np.ndarray:
    return one if other is None else np.concatenate([one, other])


def numbers(groups: np.ndarray) -> np.ndarray:
    """Return texts as numbers."""
    known: dict[object, int] = {}
    return np.array([known.setdefault(group, len(known)) for group in groups.tolist()], np.int64)
