"""Probes of several classes against scikit-learn, against chance, and against what is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import confusion_matrix, roc_auc_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import actstore
from actstore import analysis
from actstore.analysis.examples.place_rows import RowChoice
from actstore.analysis.probes import evaluating
from actstore.analysis.probes.results import ClassesReport, ProbeReport
from actstore.analysis.probes.splits import Job, ProbeSettings
from actstore.analysis.statistics.folds import Fold
from actstore.errors import TooFewRowsError, UsageError
from tests.analysis import labelled

NAMES = ("a", "b", "c")


def drawn(codes: np.ndarray, width: int, signal: float, seed: int) -> np.ndarray:
    """Return noise in which each class has a direction of its own."""
    found = np.random.default_rng(seed).standard_normal((len(codes), width))
    found[np.arange(len(codes)), codes] += signal
    return found.astype(np.float32)


def layered(
    root: Path,
    signals: dict[int, float],
    *,
    rows: int = 90,
    width: int = 24,
    seed: int = 0,
    **columns: Any,
) -> np.ndarray:
    """Make a store with three classes and a layer for each signal; return the rows' classes."""
    codes = np.random.default_rng([seed, 7]).permutation(np.arange(rows) % 3)
    labels = [NAMES[code] for code in codes]
    for layer, signal in signals.items():
        matrix = drawn(codes, width, signal, 100 * seed + layer)
        labelled.add(root, matrix, labels, layer=layer, **columns)
    return codes


def run(root: Path, label: str = "label", **options: Any) -> ClassesReport:
    names = ("method", "folds", "permutations", "seed")
    settings = {name: options.pop(name) for name in names if name in options}
    with actstore.open(root) as store:
        report = analysis.probe(store, label, settings=ProbeSettings(**settings), **options)
    assert isinstance(report, ClassesReport)
    return report


@pytest.fixture
def jobs_seen(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Every job that is trained, in the order of places and classes."""
    seen: list[Job] = []
    real = evaluating.each_class

    def watched(jobs: list[Job], *rest: Any) -> object:
        seen.extend(jobs)
        return real(jobs, *rest)

    monkeypatch.setattr(evaluating, "each_class", watched)
    return seen


@pytest.mark.parametrize("width", [24, 160])
@pytest.mark.parametrize("method", ["logistic", "ridge"])
def test_figures_are_those_of_plain_scikit_learn_on_the_same_folds(
    tmp_path: Path, jobs_seen: list[Job], method: str, width: int
) -> None:
    codes = layered(tmp_path / "s", {3: 1.5}, width=width)
    (result,) = run(tmp_path / "s", method=method, permutations=0).results
    vectors = drawn(codes, width, 1.5, 3).astype(np.float64)
    last = (
        LogisticRegression(max_iter=9000, tol=1e-9) if method == "logistic" else RidgeClassifier()
    )
    areas, named = np.zeros((5, 3)), np.zeros(90, int)
    for number, (train, test) in enumerate(jobs_seen[0].divisions):
        model = make_pipeline(StandardScaler(), OneVsRestClassifier(last))
        model.fit(vectors[train], codes[train])
        scores = model.decision_function(vectors[test])
        areas[number] = [roc_auc_score(codes[test] == k, scores[:, k]) for k in range(3)]
        named[test] = scores.argmax(1)
        assert result.scores[test] == pytest.approx(scores, rel=0.01, abs=0.01)
    assert [each.auroc.value for each in result.classes] == pytest.approx(areas.mean(0), abs=1e-3)
    assert result.auroc.value == pytest.approx(areas.mean(), abs=1e-3)
    assert np.abs(result.confusion - confusion_matrix(codes, named)).sum() <= 2
    assert result.accuracy.value == np.trace(result.confusion) / 90
    assert [each.rows for each in result.classes] == [30, 30, 30]


def test_a_known_effect_comes_out_as_large_as_it_is(tmp_path: Path) -> None:
    layered(tmp_path / "s", {0: 1.5, 1: 0.0}, rows=900, width=6)
    clear, none = run(tmp_path / "s").results
    # Bayes: the chance of each class, given what the means are.
    fresh = np.arange(30_000) % 3
    vectors = drawn(fresh, 6, 1.5, 99)
    logits = 1.5 * vectors[:, :3].astype(np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    best = np.mean([roc_auc_score(fresh == k, chances[:, k]) for k in range(3)])
    right = (logits.argmax(1) == fresh).mean()
    assert clear.auroc.value == pytest.approx(best, abs=0.02)
    # Straight lines cannot do quite as well; what they can do, the interval holds.
    lines = [LogisticRegression().fit(vectors, fresh == k) for k in range(3)]
    again = drawn(fresh, 6, 1.5, 98)
    limit = np.mean(
        [roc_auc_score(fresh == k, lines[k].decision_function(again)) for k in range(3)]
    )
    assert clear.auroc.low < limit < clear.auroc.high
    assert clear.accuracy.low < right < clear.accuracy.high
    assert clear.verdict == "linear directions"
    assert all(each.p_family is not None and each.p_family <= 0.02 for each in clear.classes)
    assert none.verdict == "no better than shuffled labels"
    assert none.accuracy.low < 1 / 3 < none.accuracy.high


def test_without_signal_p_values_are_even_and_intervals_hold_a_half(tmp_path: Path) -> None:
    layered(tmp_path / "s", dict.fromkeys(range(24), 0.0), rows=45, width=48)
    results = run(tmp_path / "s", permutations=39, method="ridge").results
    held = np.mean([result.auroc.low <= 0.5 <= result.auroc.high for result in results])
    assert held >= 0.9
    held = np.mean([result.accuracy.low <= 1 / 3 <= result.accuracy.high for result in results])
    assert held >= 0.9
    p_values = np.array([each.permuted.p_value for each in results if each.permuted])
    assert 0.34 < p_values.mean() < 0.68
    assert (p_values <= 0.1).mean() < 0.25
    assert min(each.permuted.p_family for each in results if each.permuted) > 0.05


def test_the_best_layer_is_judged_without_the_fold_that_judges(tmp_path: Path) -> None:
    layered(tmp_path / "s", {**dict.fromkeys(range(1, 9), 0.0), 12: 3.0}, rows=60)
    with_signal = run(tmp_path / "s", permutations=19)
    assert with_signal.best is not None
    assert with_signal.best.place.layer == 12
    assert {place.layer for place in with_signal.best.chosen} == {12}
    assert with_signal.best.nested == pytest.approx(with_signal.best.auroc, abs=1e-9)
    noise = run(tmp_path / "s", permutations=19, choice=RowChoice(layers=list(range(1, 9))))
    assert noise.best is not None
    assert noise.best.nested is not None
    assert noise.best.nested.value < noise.best.auroc.value
    assert noise.best.nested.low < 0.5


def test_no_question_is_on_both_sides_and_its_classes_are_shuffled_together(
    tmp_path: Path, jobs_seen: list[Job]
) -> None:
    draw = np.random.default_rng(0)
    codes = np.repeat(draw.permutation(np.arange(30) % 3), 3)
    # Three rows of a question are nearly one vector: across a fold they would give it away.
    matrix = np.repeat(draw.standard_normal((30, 60)), 3, axis=0)
    matrix += 0.01 * draw.standard_normal(matrix.shape)
    questions = [f"what of {number // 3}?" for number in range(90)]
    labels = [NAMES[code] for code in codes]
    labelled.add(tmp_path / "s", matrix.astype(np.float32), labels, questions=list(questions))
    (result,) = run(tmp_path / "s").results
    assert (result.groups, result.grouped_by) == (30, "example_id or question")
    assert result.permuted is not None
    assert result.permuted.p_value > 0.05
    folds = [Fold(*division) for division in jobs_seen[0].divisions]
    for train, test in folds:
        assert not np.isin(np.arange(90)[test] // 3, np.arange(90)[train] // 3).any()
    each = [job.shuffled.columns() for job in jobs_seen if job.shuffled is not None]
    # Each row is of one class in every run, a question as a whole, and folds keep their counts.
    assert (np.sum(each, axis=0) == 1).all()
    for code, drawn_labels in enumerate(each):
        assert (drawn_labels.reshape(30, 3, -1) == drawn_labels[::3][:, None]).all()
        for _, test in folds:
            assert (drawn_labels[test].sum(0) == (codes[test] == code).sum()).all()
    assert (each[0] != (codes == 0)[:, None]).any()


def test_two_values_are_the_binary_question_and_a_named_class_too(tmp_path: Path) -> None:
    labelled.layered(tmp_path / "two", {0: 1.0}, rows=60, width=16)
    layered(tmp_path / "three", {0: 1.0}, rows=60)
    with actstore.open(tmp_path / "two") as store:
        auto = analysis.probe(store)
        plain = analysis.probe(store, task="binary")
        both = analysis.probe(store, task="classes")
    assert isinstance(auto, ProbeReport)
    assert auto.lineage == plain.lineage
    assert (auto.results[0].scores == plain.results[0].scores).all()
    # Of two classes each one's AUROC is the other's, and so is their mean.
    assert both.results[0].auroc.value == pytest.approx(plain.results[0].auroc.value)
    assert both.results[0].auroc.low == pytest.approx(plain.results[0].auroc.low, abs=0.01)
    assert both.names == ("no", "yes")
    with actstore.open(tmp_path / "three") as store:
        named = analysis.probe(store, positive="b")
        assert isinstance(named, ProbeReport)
        assert named.classes.negative == ("a", "c")
        with pytest.raises(UsageError, match="more than two values"):
            analysis.probe(store, task="binary")
        with pytest.raises(UsageError, match="no positive and no negative"):
            analysis.probe(store, task="classes", positive="b")
        with pytest.raises(UsageError, match="no task 'multi'"):
            analysis.probe(store, task="multi")  # type: ignore[call-overload]


def test_numbers_are_classes_where_they_are_called_so(tmp_path: Path) -> None:
    codes = np.arange(60) % 3
    layered(tmp_path / "s", {0: 0.0}, rows=60, extra=[f'{{"level": {code}}}' for code in codes])
    report = run(tmp_path / "s", "extra.level", task="classes", permutations=0)
    assert report.names == ("0", "1", "2")
    assert [each.rows for each in report.results[0].classes] == [20, 20, 20]
    assert repr(report.results[0]).startswith("ClassesResult(layer 0 of resid_post (last): macro")
    assert report.to_polars()["macro_auroc"].to_list() == [report.results[0].auroc.value]


def test_classes_of_fractions_are_called_what_arrow_calls_them(tmp_path: Path) -> None:
    values = [(number % 2) * 0.5 + 1.5 for number in range(40)]
    layered(tmp_path / "s", {0: 0.0}, rows=40, extra=[f'{{"level": {each}}}' for each in values])
    with actstore.open(tmp_path / "s") as store:
        report = analysis.probe(store, "extra.level", settings=ProbeSettings(permutations=0))
    assert isinstance(report, ProbeReport)
    assert report.classes.names == ("2", "1.5")
    assert report.results[0].rows == 40


def test_truth_values_have_the_names_that_sql_gives_them(tmp_path: Path) -> None:
    flags = [f'{{"flag": {"true" if number % 2 else "false"}}}' for number in range(40)]
    layered(tmp_path / "s", {0: 0.0}, rows=40, extra=flags)
    with actstore.open(tmp_path / "s") as store:
        report = analysis.probe(store, "extra.flag", settings=ProbeSettings(permutations=0))
    assert isinstance(report, ProbeReport)
    assert report.classes.names == ("true", "false")


def test_a_rare_class_is_refused_by_name(tmp_path: Path) -> None:
    labels = ["a", "b"] * 20 + ["rare"] * 3
    matrix = np.random.default_rng(0).standard_normal((43, 8)).astype(np.float32)
    split = ["train"] * 20 + ["val"] * 23
    labelled.add(tmp_path / "s", matrix, labels, split=split)
    with pytest.raises(TooFewRowsError, match="the rare class has 3 rows in 3 groups, and 5 folds"):
        run(tmp_path / "s")
    with pytest.raises(TooFewRowsError, match="training part has 20 rows, none of them rare"):
        run(tmp_path / "s", train="split = 'train'", test="split = 'val'")
    kept = run(tmp_path / "s", folds=3, permutations=0)
    assert kept.results[0].confusion.sum() == 43


def test_conditions_and_other_stores_are_tested_on(tmp_path: Path) -> None:
    layered(tmp_path / "a", {0: 3.0}, rows=60, split=["train"] * 40 + ["val"] * 20)
    codes = layered(
        tmp_path / "b",
        {0: 3.0},
        rows=30,
        seed=1,
        first=100,
        questions=[f"another {number}?" for number in range(30)],
    )
    (result,) = run(tmp_path / "a", train="split = 'train'", test="split = 'val'").results
    assert (result.rows, result.trained_rows, result.folds) == (20, 40, 1)
    assert result.confusion.sum() == 20
    with actstore.open(tmp_path / "b") as other:
        report = run(tmp_path / "a", test_store=other)
    (result,) = report.results
    assert (result.rows, result.trained_rows) == (30, 60)
    assert result.confusion.sum(1).tolist() == np.bincount(codes).tolist()
    assert result.auroc.value > 0.9
    assert report.lineage["test_store"] == "b"


def test_words_that_give_the_class_away_are_the_baseline(tmp_path: Path) -> None:
    codes = np.random.default_rng([0, 7]).permutation(np.arange(90) % 3)
    colours = ("red", "green", "blue")
    questions = [f"{colours[code]} number {at}" for at, code in enumerate(codes)]
    layered(tmp_path / "s", {0: 1.0}, questions=list(questions))
    (result,) = run(tmp_path / "s").results
    assert result.words is not None
    assert result.words.auroc.value > 0.95
    assert result.effect.baseline == "words"
    assert result.verdict == "no better than words"


def test_one_perceptron_for_each_class(tmp_path: Path) -> None:
    layered(tmp_path / "s", {0: 4.0}, rows=45, width=6)
    report = run(tmp_path / "s", method="mlp", folds=3, permutations=0)
    assert report.results[0].auroc.value > 0.9
    assert report.results[0].verdict == "too few shuffles to tell"


def test_work_of_all_classes_is_told(tmp_path: Path) -> None:
    layered(tmp_path / "s", {0: 0.0, 1: 0.0}, rows=30, width=8)
    told: list[tuple[int, int, int]] = []
    run(tmp_path / "s", permutations=0, progress=lambda *each: told.append(each))
    done = [each[0] for each in told]
    assert done == sorted(done)
    assert done[-1] == told[-1][2] == 2 * 30 * 8 * 4


def test_shared_folds_spread_every_class(tmp_path: Path, jobs_seen: list[Job]) -> None:
    codes = layered(tmp_path / "s", {0: 0.0, 1: 0.0}, rows=60)
    run(tmp_path / "s", permutations=0)
    assert len(jobs_seen) == 6
    for job in jobs_seen:
        assert job.shared
        for one, two in zip(job.divisions, jobs_seen[0].divisions, strict=True):
            assert (one.test == two.test).all()
            assert np.bincount(codes[one.test]).tolist() == [4, 4, 4]
