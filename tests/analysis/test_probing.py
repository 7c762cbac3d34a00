"""Probes measured against scikit-learn, against chance, and against leaks."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import actstore
from actstore.analysis import evaluating, probing
from actstore.analysis.cells import Choice
from actstore.analysis.evaluating import Settings
from actstore.analysis.folds import Fold
from actstore.analysis.results import Report
from actstore.errors import MismatchError, NotInStoreError, TooFewRowsError, UsageError
from tests.analysis import labelled

Probe = Callable[..., Report]


def run(path: Path, **options: object) -> Report:
    settings = {
        name: options.pop(name)
        for name in ("method", "folds", "permutations", "seed", "strength")
        if name in options
    }
    with actstore.open(path) as store:
        return probing.probe(
            store,
            settings=Settings(**settings),  # type: ignore[arg-type]
            **options,  # type: ignore[arg-type]
        )


def divisions(monkeypatch: pytest.MonkeyPatch) -> list[list[Fold]]:
    """Return a list that fills with the folds that are used."""
    seen: list[list[Fold]] = []
    real = evaluating._evaluate

    def watched(job: evaluating.Job, setting: Settings) -> object:
        seen.append(job.divisions)
        return real(job, setting)

    monkeypatch.setattr(evaluating, "_evaluate", watched)
    return seen


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("width", [24, 160])
@pytest.mark.parametrize("method", ["logistic", "ridge"])
def test_auroc_is_that_of_plain_scikit_learn_on_the_same_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, width: int, dtype: str
) -> None:
    positive = labelled.layered(tmp_path / "s", {3: 0.8}, rows=90, width=width, dtype=dtype)
    seen = divisions(monkeypatch)
    (result,) = run(tmp_path / "s", method=method).results
    with actstore.open(tmp_path / "s") as store:
        vectors = store.select(layer=3).numpy().astype(np.float64)
    last = LogisticRegression(max_iter=9000) if method == "logistic" else RidgeClassifier(alpha=1.0)
    areas, right = [], 0
    for fold in seen[0]:
        model = make_pipeline(StandardScaler(), last).fit(vectors[fold.train], positive[fold.train])
        areas.append(
            roc_auc_score(positive[fold.test], model.decision_function(vectors[fold.test]))
        )
        right += int((model.predict(vectors[fold.test]) == positive[fold.test]).sum())
    assert result.auroc.value == pytest.approx(np.mean(areas), abs=0.005)
    assert result.accuracy.value == pytest.approx(right / 90, abs=0.012)


def test_a_clear_direction_is_found_at_its_layer(tmp_path: Path) -> None:
    labelled.layered(tmp_path / "s", {0: 0.0, 1: 3.0}, rows=80)
    for method in ("logistic", "mean-difference", "ridge"):
        none, clear = run(tmp_path / "s", method=method).results
        assert clear.auroc.value > 0.95
        assert clear.verdict == "linear direction"
        assert clear.permuted is not None
        assert clear.permuted.p_value == pytest.approx(1 / 101)
        assert 0.4 < clear.permuted.auroc_mean < 0.6
        assert clear.majority == 0.5
        assert none.auroc.low < 0.5 < none.auroc.high
        assert none.verdict != "linear direction"
    assert isinstance(clear.probe.model, np.ndarray)
    cosine = clear.probe.model @ np.random.default_rng(99).standard_normal(96)
    assert cosine > 0


def test_without_signal_auroc_is_a_half_and_p_values_are_even(tmp_path: Path) -> None:
    labelled.layered(tmp_path / "s", dict.fromkeys(range(60), 0.0), rows=40, width=48)
    for method in ("logistic", "mean-difference"):
        results = run(tmp_path / "s", method=method, permutations=39).results
        areas = np.array([result.auroc.value for result in results])
        assert abs(areas.mean() - 0.5) < 4 * areas.std() / np.sqrt(len(areas)) + 0.01
        held = np.mean([result.auroc.low <= 0.5 <= result.auroc.high for result in results])
        assert held >= 0.9
        p_values = np.array([r.permuted.p_value for r in results if r.permuted])
        assert 0.38 < p_values.mean() < 0.64
        assert (p_values <= 0.1).mean() < 0.23


def test_no_question_is_on_both_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two rows of each question are nearly one vector: across a fold they would give it away.
    draw = np.random.default_rng(0)
    half = draw.standard_normal((40, 64))
    matrix = np.concatenate([half, half + 0.01 * draw.standard_normal((40, 64))])
    labels = np.array(["yes", "no"])[draw.integers(0, 2, 40)].tolist() * 2
    questions = [f"q{number}" for number in range(40)] * 2
    labelled.add(tmp_path / "s", matrix.astype(np.float32), labels, questions=questions)
    seen = divisions(monkeypatch)
    (kept,) = run(tmp_path / "s").results
    groups = np.array(questions)
    for fold in seen[0]:
        assert not set(groups[fold.train]) & set(groups[fold.test])
    (leaking,) = run(tmp_path / "s", group_by="row_id").results
    assert kept.auroc.low < 0.5 < kept.auroc.high
    assert leaking.auroc.value > 0.8
    assert kept.groups == 40


def test_conditions_divide_rows_and_shared_questions_leave_training(tmp_path: Path) -> None:
    positive = labelled.layered(
        tmp_path / "s",
        {2: 2.0},
        rows=60,
        split=["train"] * 40 + ["val"] * 20,
        questions=[f"q{number % 55}" for number in range(60)],
    )
    report = run(tmp_path / "s", train="split = 'train'", test="split = 'val'")
    (result,) = report.results
    assert (result.rows, result.folds) == (20, 1)
    assert result.trained_rows == 35  # q0 to q4 come again among the tested
    assert "5 training rows share their group" in report.notes[0]
    assert result.auroc.value > 0.9
    assert result.positives == int(positive[40:].sum())
    (rest,) = run(tmp_path / "s", test="split = 'val'").results
    assert rest.auroc.value == result.auroc.value


def test_another_store_is_tested_on(tmp_path: Path) -> None:
    labelled.layered(tmp_path / "a", {1: 2.0, 2: 2.0}, rows=60)
    labelled.layered(
        tmp_path / "b", {1: 2.0, 2: 0.0}, rows=50, seed=5, questions=[f"new {n}" for n in range(50)]
    )
    with actstore.open(tmp_path / "b") as other:
        found = run(tmp_path / "a", test_store=other)
        assert [result.rows for result in found.results] == [50, 50]
        assert found.results[0].auroc.value > 0.9
        assert found.results[1].auroc.value < 0.8
        assert found.lineage["test_store_fingerprint"] == other.fingerprint
    labelled.layered(tmp_path / "c", {1: 2.0}, rows=20, model="other/model")
    with (
        actstore.open(tmp_path / "c") as other,
        pytest.raises(MismatchError, match=r"layer 1.*org/model.*other/model"),
    ):
        run(tmp_path / "a", test_store=other)


def test_a_store_with_the_same_questions_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    for name in ("a", "b"):
        labelled.layered(tmp_path / name, {0: 1.0}, rows=20, width=8)
    with (
        actstore.open(tmp_path / "b") as other,
        pytest.raises(TooFewRowsError, match=r"every training row shares its group.*--group-by"),
    ):
        run(tmp_path / "a", test_store=other)


@pytest.mark.parametrize("setting", [{"seed": -1}, {"strength": 0.0}, {"strength": 1e300}])
def test_settings_that_are_no_settings_are_refused(tmp_path: Path, setting: object) -> None:
    labelled.layered(tmp_path / "s", {0: 1.0}, rows=20, width=8)
    with pytest.raises(UsageError, match=r"negative, got -1|between .* got"):
        run(tmp_path / "s", **setting)  # type: ignore[arg-type]


@pytest.mark.parametrize("strength", [1e-10, 1e10])
@pytest.mark.parametrize("width", [8, 40])
def test_the_ends_of_the_strengths_give_figures(
    tmp_path: Path, strength: float, width: int
) -> None:
    labelled.layered(tmp_path / "s", {0: 3.0}, rows=30, width=width)
    for method in ("logistic", "ridge"):
        (result,) = run(tmp_path / "s", method=method, strength=strength).results
        assert result.auroc.value > 0.9


def test_what_cannot_be_probed_is_said(tmp_path: Path) -> None:
    labelled.layered(tmp_path / "s", {0: 0, None: 0}, rows=8, width=4)
    with pytest.raises(TooFewRowsError, match=r"4 rows in 4 groups, and 5 folds"):
        run(tmp_path / "s")
    assert len(run(tmp_path / "s", folds=2).results) == 2
    with pytest.raises(TooFewRowsError, match=r"rows have yes \(8\)"):
        run(tmp_path / "s", choice=Choice(where="label = 'yes'"))
    with pytest.raises(TooFewRowsError, match="training part has 4 rows"):
        run(tmp_path / "s", train="label = 'yes'", test="label = 'no'")
    with pytest.raises(NotInStoreError, match="layer 5"):
        run(tmp_path / "s", choice=Choice(layers=[5]))
    with pytest.raises(UsageError, match="rows to test on"):
        run(tmp_path / "s", train="label = 'yes'")
    with pytest.raises(UsageError, match="no method"):
        run(tmp_path / "s", method="svm")
    matrix = np.full((20, 4), np.inf, np.float32)
    labelled.add(tmp_path / "nan", matrix, ["yes", "no"] * 10)
    with pytest.raises(TooFewRowsError, match="NaN or infinity"):
        run(tmp_path / "nan")


def test_a_network_finds_what_is_not_linear(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    matrix = 0.2 * draw.standard_normal((120, 16))
    matrix[:, :2] = draw.choice([-2.0, 2.0], (120, 2))
    labels = np.where(matrix[:, 0] * matrix[:, 1] > 0, "yes", "no").tolist()
    labelled.add(tmp_path / "s", matrix.astype(np.float32), labels)
    (network,) = run(tmp_path / "s", method="mlp", permutations=3, folds=3).results
    (line,) = run(tmp_path / "s", folds=3).results
    assert network.auroc.value > 0.9 > 0.8 > line.auroc.value
    assert network.permuted is not None
    assert network.permuted.runs == 3


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    labelled.layered(tmp_path / "s", {0: 0.5}, rows=50)
    one, again, other = (run(tmp_path / "s", seed=seed).results[0] for seed in (1, 1, 2))
    assert one.scores.tolist() == again.scores.tolist()
    assert one.permuted == again.permuted
    assert one.scores.tolist() != other.scores.tolist()


def test_verdicts_are_the_documents_bands_held_against_baselines(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    labels = ["yes"] * 70 + ["no"] * 20
    labelled.add(tmp_path / "s", draw.standard_normal((90, 40)).astype(np.float32), labels)
    (result,) = run(tmp_path / "s", strength=1e-5).results
    assert result.majority == pytest.approx(70 / 90)
    assert result.accuracy.value > 0.65
    assert result.band == "above 65 %"
    assert result.verdict == "no better than the majority"
    assert result.balanced_accuracy == 0.5


@pytest.mark.parametrize(
    ("accuracy", "balanced", "majority", "p_value", "expected"),
    [
        (0.84, 0.80, 0.81, 0.01, "linear direction"),
        (0.81, 0.62, 0.81, 0.01, "AUROC above chance, accuracy no better than the majority"),
        (0.82, 0.53, 0.81, 0.01, "AUROC above chance, balanced accuracy not"),
        (0.82, 0.60, 0.81, 0.01, "weak linear signal"),
        (0.60, 0.60, 0.50, 0.01, "weak linear signal"),
        (0.52, 0.52, 0.50, 0.01, "AUROC above chance, accuracy not"),
        (0.52, 0.52, 0.50, 0.40, "no linear direction"),
        (0.81, 0.50, 0.81, 0.40, "no better than the majority"),
        (0.70, 0.70, 0.50, 0.40, "no better than shuffled labels"),
        (0.70, 0.70, 0.50, None, "linear direction"),
    ],
)
def test_a_verdict_says_which_of_auroc_and_accuracy_it_is_of(
    tmp_path: Path,
    accuracy: float,
    balanced: float,
    majority: float,
    p_value: float | None,
    expected: str,
) -> None:
    labelled.layered(tmp_path / "s", {0: 0.5}, rows=20, width=8)
    (result,) = run(tmp_path / "s", permutations=3).results
    assert result.permuted is not None
    permuted = None if p_value is None else result.permuted._replace(p_value=p_value)
    changed = dataclasses.replace(
        result,
        accuracy=result.accuracy._replace(value=accuracy),
        balanced_accuracy=balanced,
        majority=majority,
        permuted=permuted,
    )
    assert changed.verdict == expected
