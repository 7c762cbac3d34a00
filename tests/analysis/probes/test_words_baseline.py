"""Words alone are scikit-learn's pipeline in the same folds, and chance where they tell nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline

import actstore
from actstore.analysis.examples import classes, place_rows
from actstore.analysis.probes import splits, words_baseline
from actstore.analysis.probes.splits import Job, ProbeSettings
from tests.analysis import labelled

SIDES = classes.Classes(column="label", positive=("yes",), negative=("no",))


def jobs(root: Path, questions: list[str | None], seed: int, **columns: Any) -> list[Job]:
    draw = np.random.default_rng(seed)
    labels = draw.permutation(["yes", "no"] * (len(questions) // 2)).tolist()
    matrix = draw.standard_normal((len(questions), 4)).astype(np.float32)
    for layer in (0, 1):
        labelled.add(root, matrix, labels, questions=questions, layer=layer, **columns)
    with actstore.open(root) as store:
        return splits.crossed(
            place_rows.by_place(store.select(), SIDES), ProbeSettings(permutations=0)
        )


def random_questions(draw: np.random.Generator, count: int) -> list[str | None]:
    vocabulary = [f"word{number}" for number in range(30)] + ["a", "7"]
    return [
        " ".join(draw.choice(vocabulary, 6).tolist()) + f" unique{number}"
        for number in range(count)
    ]


def test_they_are_scikit_learns_pipeline_in_the_same_folds(tmp_path: Path) -> None:
    questions = random_questions(np.random.default_rng(0), 60)
    one, other = jobs(tmp_path / "s", questions, 0)
    texts, places = words_baseline.distinct([one, other])
    assert places == [0, 0]  # both layers have the same words
    assert texts[0] is not None
    found = words_baseline.fit(*texts[0])
    positive = one.positive
    areas = []
    for train, test in one.divisions:
        model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b"),
            LogisticRegression(max_iter=1000),
        )
        model.fit([questions[row] for row in train], positive[train])
        scores = model.decision_function([questions[row] for row in test])
        np.testing.assert_allclose(found.scores[test], scores, atol=1e-9)
        areas.append(roc_auc_score(positive[test], scores))
    assert found.auroc.value == pytest.approx(np.mean(areas))


def test_words_that_tell_nothing_are_chance(tmp_path: Path) -> None:
    areas = []
    for seed in range(12):
        questions = random_questions(np.random.default_rng(seed), 60)
        job = jobs(tmp_path / str(seed), questions, seed)[0]
        areas.append(words_baseline.fit(job, words_baseline.texts_of(job)).auroc.value)
    assert abs(np.mean(areas) - 0.5) < 0.09


def test_without_questions_or_words_there_is_nothing(tmp_path: Path) -> None:
    one, _ = jobs(tmp_path / "a", [None] * 20, 0)
    assert words_baseline.distinct([one]) == ([None], [0])
    signs: list[str | None] = [["?!", "...", None][number % 3] for number in range(30)]
    one, _ = jobs(tmp_path / "b", signs, 1, example_id=[f"e{number}" for number in range(30)])
    assert words_baseline.fit(one, words_baseline.texts_of(one)).auroc.value == 0.5
