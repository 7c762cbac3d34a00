"""The words baseline: a classifier on the questions' words alone, in the folds of the probes.

A probe that does no better than a bag of words has found nothing that the model adds. The
words are those of ``question`` (where that holds a statement, the statement): TF-IDF of words
and pairs of neighbouring words, and a logistic regression, both learned from the training
rows of each fold alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore.analysis.probes.splits import Job
from actstore.analysis.statistics import folds, metrics
from actstore.analysis.statistics.folds import Fold
from actstore.analysis.statistics.metrics import IntervalEstimate

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_WORD = r"(?u)\b\w+\b"
"""Words of one letter and digits count: they can be the answer."""
_STEPS = 1000
_PARTS, _PENALTIES = 5, (0.01, 0.1, 1.0, 10.0, 100.0)
"""Of the training rows that a penalty is chosen on, and among which. Features have length 1."""


class WordsFit(NamedTuple):
    """Scores and AUROC of the words on the rows of a place."""

    scores: np.ndarray
    """Float64 ``[rows]``; NaN of rows that are not tested."""
    auroc: IntervalEstimate


class Texts(NamedTuple):
    """The questions of a place's rows."""

    texts: list[str]
    """The different ones; of rows without a question the empty text."""
    codes: np.ndarray
    """Which of them each row has, int64 ``[rows]``."""

    @property
    def some(self) -> bool:
        """Whether there is any question at all."""
        return any(self.texts)


def texts_of(job: Job) -> Texts:
    """Return the questions of a job's rows, those of the other store included."""
    import pyarrow as pa

    tables = [job.rows.table] + ([job.other.table] if job.other is not None else [])
    column = pa.concat_tables([table.select(["question"]) for table in tables])["question"]
    coded = column.fill_null("").combine_chunks().dictionary_encode()
    codes = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return Texts(coded.dictionary.to_pylist(), codes)


def distinct(jobs: Sequence[Job]) -> tuple[list[tuple[Job, Texts] | None], list[int]]:
    """Return what words must be fitted for, and which of these each job is; None has no words.

    Places with the same questions, classes and folds have the same words.
    """
    known: dict[object, int] = {}
    found: list[tuple[Job, Texts] | None] = []
    places = []
    for job in jobs:
        texts = texts_of(job)
        key: object = None
        if texts.some:
            parts = [texts.codes, job.positive, job.groups, job.units[:, 1]]
            parts += [each for each in (job.numbers, job.codes) if each is not None]
            parts += [rows for division in job.divisions for rows in division]
            key = (tuple(texts.texts), *(part.tobytes() for part in parts))
        if key not in known:
            known[key] = len(found)
            found.append((job, texts) if texts.some else None)
        places.append(known[key])
    return found, places


def fit(job: Job, texts: Texts) -> WordsFit:
    """Return what the words tell of a job's tested rows."""
    positive, versions = job.positive, job.units[:, 1]
    scores = np.full(len(positive), np.nan)
    for division in job.divisions:
        job.check()
        # Tokens of one text are no more than that text.
        train = division.train
        _, first = np.unique(versions[train] * 2 + positive[train], return_index=True)
        scores[division.test] = _scores(texts, train[np.sort(first)], positive, division)
    auroc = metrics.auroc_interval(scores, positive, job.groups, job.divisions)
    return WordsFit(scores, auroc)


def _scores(texts: Texts, train: np.ndarray, positive: np.ndarray, division: Fold) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    features = Features.of(texts, train, division.test)
    if features is None:
        return np.zeros(len(division.test))
    model = LogisticRegression(max_iter=_STEPS).fit(features.train, positive[train])
    found: np.ndarray = np.asarray(model.decision_function(features.test), np.float64)[
        features.rows
    ]
    return found


def fit_numbers(job: Job, texts: Texts) -> np.ndarray:
    """Return the number that the words predict for each tested row, float64 ``[rows]``.

    A ridge regression for each fold, whose penalty is chosen on parts of its training rows.
    Rows that are not tested have NaN.
    """
    numbers, versions = job.numbers, job.units[:, 1]
    assert numbers is not None
    found = np.full(len(numbers), np.nan)
    for division in job.divisions:
        job.check()
        train = division.train
        both = np.column_stack([versions[train].astype(np.float64), numbers[train]])
        _, first = np.unique(both, axis=0, return_index=True)
        found[division.test] = _numbers(texts, train[np.sort(first)], numbers, job.groups, division)
    return found


def _numbers(
    texts: Texts, train: np.ndarray, numbers: np.ndarray, groups: np.ndarray, division: Fold
) -> np.ndarray:
    from sklearn.linear_model import Ridge

    # A word of one training text says nothing of others, but makes its own words count less.
    features = Features.of(texts, train, division.test, 2)
    if features is None:
        return np.full(len(division.test), numbers[train].mean())
    _, codes, sizes = np.unique(groups[train], return_inverse=True, return_counts=True)
    errors = np.zeros(len(_PENALTIES))
    count = min(_PARTS, len(sizes))
    part = folds.dealt(sizes[:, None], count, 0)[codes]
    for inner, tested in folds.divisions(part, count) if count > 1 else []:
        # Words that only the tested rows have must be as unknown as they will be.
        own = Features.of(texts, train[inner], train[tested], 2)
        if own is not None:
            for number, penalty in enumerate(_PENALTIES):
                told = Ridge(penalty).fit(own.train, numbers[train[inner]]).predict(own.test)
                errors[number] += np.square(told[own.rows] - numbers[train[tested]]).sum()
    best = Ridge(_PENALTIES[int(errors.argmin())]).fit(features.train, numbers[train])
    found: np.ndarray = np.asarray(best.predict(features.test), np.float64)[features.rows]
    return found


class Features(NamedTuple):
    """TF-IDF of the words of training texts, and of those that are tested."""

    train: csr_matrix
    test: csr_matrix
    """Of the different texts among the tested rows."""
    rows: np.ndarray
    """Which of them each tested row has."""

    @classmethod
    def of(
        cls, texts: Texts, train: np.ndarray, test: np.ndarray, least: int = 1
    ) -> Features | None:
        """Return them; None where there is not one word in all of the training texts.

        Args:
            texts: all there are.
            train: the rows whose words count.
            test: the rows that are tested.
            least: training rows that a word must be in.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=_WORD, min_df=least)
        try:
            own = vectorizer.fit_transform([texts.texts[code] for code in texts.codes[train]])
        except ValueError:  # no word is left
            return None
        codes, rows = np.unique(texts.codes[test], return_inverse=True)
        return cls(own, vectorizer.transform([texts.texts[code] for code in codes]), rows)
