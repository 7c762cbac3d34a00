"""The words baseline: a classifier on the questions' words alone, in the folds of the probes.

A probe that does no better than a bag of words has found nothing that the model adds. The
words are those of ``question`` (where that holds a statement, the statement): TF-IDF of words
and pairs of neighbouring words, and a logistic regression, both learned from the training
rows of each fold alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from actstore.analysis.probes.splits import Job
from actstore.analysis.statistics import metrics
from actstore.analysis.statistics.folds import Fold
from actstore.analysis.statistics.metrics import IntervalEstimate

_WORD = r"(?u)\b\w+\b"
"""Words of one letter and digits count: they can be the answer."""
_STEPS = 1000


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
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=_WORD)
    try:
        features = vectorizer.fit_transform([texts.texts[code] for code in texts.codes[train]])
    except ValueError:  # not one word in all of these texts
        return np.zeros(len(division.test))
    model = LogisticRegression(max_iter=_STEPS).fit(features, positive[train])
    codes, rows = np.unique(texts.codes[division.test], return_inverse=True)
    found = model.decision_function(vectorizer.transform([texts.texts[code] for code in codes]))
    return np.asarray(found, np.float64)[rows]
