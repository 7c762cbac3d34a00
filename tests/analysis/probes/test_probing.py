"""Probes measured against scikit-learn, against chance, and against leaks."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import actstore
from actstore.analysis.examples import classes, place_rows
from actstore.analysis.examples.place_rows import RowChoice
from actstore.analysis.probes import evaluating, probing, splits
from actstore.analysis.probes.results import ProbeReport
from actstore.analysis.probes.splits import ProbeSettings
from actstore.analysis.statistics.folds import Fold
from actstore.errors import MismatchError, NotInStoreError, TooFewRowsError, UsageError
from tests.analysis import labelled

Probe = Callable[..., ProbeReport]


def run(path: Path, **options: object) -> ProbeReport:
    settings = {
        name: options.pop(name)
        for name in ("method", "folds", "permutations", "seed", "strength")
        if name in options
    }
    with actstore.open(path) as store:
        return probing.probe(
            store,
            settings=ProbeSettings(**settings),  # type: ignore[arg-type]
            **options,  # type: ignore[arg-type]
        )


def divisions(monkeypatch: pytest.MonkeyPatch) -> list[list[Fold]]:
    """Return a list that fills with the folds that are used."""
    seen: list[list[Fold]] = []
    real = evaluating.each_class

    def watched(jobs: list[splits.Job], setting: ProbeSettings) -> object:
        seen.extend(job.divisions for job in jobs)
        return real(jobs, setting)

    monkeypatch.setattr(evaluating, "each_class", watched)
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
        tmp_path / "b",
        {1: 2.0, 2: 0.0},
        rows=50,
        seed=5,
        questions=[f"new {n}" for n in range(50)],
        dataset=["other"] * 50,
    )
    with actstore.open(tmp_path / "b") as other:
        found = run(tmp_path / "a", test_store=other)
        assert [result.rows for result in found.results] == [50, 50]
        assert [result.trained_rows for result in found.results] == [60, 60]
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
        run(tmp_path / "s", choice=RowChoice(where="label = 'yes'"))
    with pytest.raises(TooFewRowsError, match="training part has 4 rows"):
        run(tmp_path / "s", train="label = 'yes'", test="label = 'no'")
    with pytest.raises(NotInStoreError, match="layer 5"):
        run(tmp_path / "s", choice=RowChoice(layers=[5]))
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
    assert result.verdict == "no better than shuffled labels"
    assert result.balanced_accuracy == 0.5


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "linear direction"),
        ({"low": 0.45}, "linear direction, accuracy no better than the majority"),
        ({"words": 0.3}, "no better than words"),
        ({"words": None}, "linear direction"),
        ({"p_family": 0.2}, "no better than the best of 10 on shuffled labels"),
        ({"p_family": 0.3, "p_value": 0.2}, "no better than shuffled labels"),
        ({"runs": 18}, "too few shuffles to tell"),
        ({"runs": 19}, "linear direction"),
        ({"runs": None}, "too few shuffles to tell"),
        ({"high": 0.3, "p_below": 0.01}, "suspicious: AUROC below chance"),
        ({"high": 0.3, "p_below": 0.2, "p_family": 1.0, "p_value": 0.9}, "no better than shuffled"),
        ({"high": 0.3, "runs": None}, "suspicious: AUROC below chance"),
    ],
)
def test_a_verdict_holds_each_figure_against_its_strongest_baseline(
    tmp_path: Path, changes: dict[str, float | None], expected: str
) -> None:
    labelled.layered(tmp_path / "s", {0: 0.5}, rows=20, width=8)
    (result,) = run(tmp_path / "s", permutations=3).results
    assert result.permuted is not None
    assert result.words is not None
    given: dict[str, Any] = {"low": 0.6, "words": 0.01, "p_family": 0.01, "p_value": 0.01}
    given |= {"high": 0.9, "p_below": 1.0, "runs": 99} | changes
    permuted = result.permuted._replace(
        **{name: given[name] for name in ("p_family", "p_value", "p_below", "runs")}
    )
    changed = dataclasses.replace(
        result,
        places=10,
        auroc=result.auroc._replace(high=given["high"]),
        accuracy=result.accuracy._replace(low=given["low"]),
        majority=0.5,
        permuted=None if given["runs"] is None else permuted,
        words=None if given["words"] is None else result.words._replace(p_family=given["words"]),
    )
    assert changed.verdict.startswith(expected)


def pairs(root: Path, seed: int, count: int = 40, effect: float = 2.0) -> None:
    """Store pairs of phrasings of one label each, whose vectors have much in common."""
    draw = np.random.default_rng(seed)
    side = draw.permutation(np.arange(count) % 2 == 0)
    own = effect * draw.standard_normal((count, 24))
    matrix = np.repeat(own, 2, 0) + draw.standard_normal((2 * count, 24))
    labelled.add(
        root,
        matrix.astype(np.float32),
        ["yes" if each else "no" for each in np.repeat(side, 2)],
        questions=[f"phrasing {number}?" for number in range(2 * count)],
        example_id=[f"pair {number // 2}" for number in range(2 * count)],
        variant=["q1", "q2"] * count,
    )


def test_pairs_that_mean_nothing_are_not_taken_for_a_signal(tmp_path: Path) -> None:
    p_values, leaking, areas = [], [], []
    for seed in range(24):
        pairs(tmp_path / str(seed), seed)
        given = {"permutations": 19, "seed": seed, "method": "mean-difference"}
        (result,) = run(tmp_path / str(seed), **given).results
        assert (result.grouped_by, result.groups) == ("example_id or question", 40)
        assert result.permuted is not None
        p_values.append(result.permuted.p_value)
        areas.append(result.auroc.value)
        (before,) = run(tmp_path / str(seed), group_by="question", **given).results
        assert before.permuted is not None
        assert before.groups == 80
        leaking.append(before.permuted.p_value)
    # By question alone, as folds went before, most of them are.
    assert np.mean(np.array(leaking) <= 0.05) > 0.4
    assert np.mean(np.array(p_values) <= 0.05) <= 0.2
    assert abs(np.mean(areas) - 0.5) < 0.06


def test_labels_balanced_within_a_split_group_are_called_suspicious(tmp_path: Path) -> None:
    # A true and a false statement of each city: what is learned from one is wrong of the other.
    draw = np.random.default_rng(0)
    city = draw.standard_normal((60, 32))
    matrix = np.repeat(city, 2, 0) + 0.1 * draw.standard_normal((120, 32))
    labelled.add(
        tmp_path / "s",
        matrix.astype(np.float32),
        ["yes", "no"] * 60,
        extra=[f'{{"city": "{number // 2}"}}' for number in range(120)],
    )
    report = run(tmp_path / "s")
    (result,) = report.results
    assert result.auroc.value < 0.3
    assert result.verdict == "suspicious: AUROC below chance"
    assert any("hidden group" in note and "--group-by" in note for note in report.notes)
    (together,) = run(tmp_path / "s", group_by="extra.city").results
    assert together.verdict != result.verdict
    assert together.groups == 60


def test_words_below_chance_make_every_layer_suspicious(tmp_path: Path) -> None:
    # The words split as the cities do; the vectors hold nothing but the answer.
    labels = ["yes", "no"] * 60
    matrix = np.random.default_rng(0).standard_normal((120, 8)) + np.tile([[3.0], [0.0]], (60, 1))
    labelled.add(
        tmp_path / "s",
        matrix.astype(np.float32),
        labels,
        questions=[f"town{n // 2} lies by river{n // 2}" for n in range(120)],
    )
    report = run(tmp_path / "s", group_by="row_id")
    assert any("words alone" in note and "--group-by" in note for note in report.notes)
    assert not any("words alone" in note for note in run(tmp_path / "s").notes)


def test_layers_share_folds_and_shuffles_even_where_rows_are_missing(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    labels = draw.permutation(["yes", "no"] * 40).tolist()
    for layer, rows in ((0, range(80)), (1, range(80)), (2, range(10, 75))):
        labelled.add(
            tmp_path / "s",
            draw.standard_normal((len(rows), 16)).astype(np.float32),
            [labels[row] for row in rows],
            layer=layer,
            example_id=[f"e{row}" for row in rows],
            questions=[f"number {row}?" for row in rows],
        )
    for group_by in (None, "row_id"):
        with actstore.open(tmp_path / "s") as store:
            sides = classes.find("label", labels)
            own = place_rows.by_place(store.select(), sides, group_by)
            jobs = splits.crossed(own, ProbeSettings(permutations=7))
        folds_of: dict[str, int] = {}
        rows_and_labels: dict[str, list[bool]] = {}
        for job in jobs:
            assert job.shared
            assert job.shuffled is not None
            names = job.rows.table["example_id"].to_pylist()
            for number, fold in enumerate(job.divisions):
                for row in fold.test.tolist():
                    assert folds_of.setdefault(names[row], number) == number
            for name, each in zip(names, job.shuffled.columns().tolist(), strict=True):
                assert rows_and_labels.setdefault(name, each) == each


def test_many_layers_are_held_against_their_best_and_the_best_is_judged_apart(
    tmp_path: Path,
) -> None:
    labelled.layered(tmp_path / "s", {0: 0.0, 1: 0.0, 2: 2.5, 3: 0.0}, rows=80)
    report = run(tmp_path / "s", permutations=39)
    for result in report.results:
        assert result.permuted is not None
        assert result.permuted.p_family >= result.permuted.p_value
        assert result.places == 4
    assert report.best is not None
    assert report.best.place.layer == 2
    assert report.best.nested is not None
    assert {place.layer for place in report.best.chosen} == {2}
    assert report.best.nested.value == pytest.approx(report.best.auroc.value)
    alone = run(tmp_path / "s", folds=2, permutations=19)
    assert alone.best is not None
    assert alone.best.optimistic
    # Within the rows that one part trains on, two folds are enough to choose by.
    split = run(tmp_path / "s", test="example_id < 'e4'", folds=2, permutations=19)
    assert split.best is not None
    assert split.best.nested is not None
    assert {place.layer for place in split.best.chosen} == {2}


def test_answers_that_words_give_away_are_no_finding(tmp_path: Path) -> None:
    draw = np.random.default_rng(6)
    count = 80
    side = draw.permutation(np.arange(count) % 2 == 0)
    told = np.where(draw.random(count) < 0.8, side, ~side)
    questions = [
        f"{'surely' if each else 'hardly'} number {draw.integers(1000)} of {number}?"
        for number, each in enumerate(told.tolist())
    ]
    matrix = draw.standard_normal((count, 20))
    matrix[:, 0] += np.where(told, 2, -2)
    labels = ["yes" if each else "no" for each in side]
    labelled.add(tmp_path / "s", matrix.astype(np.float32), labels, questions=questions)
    (result,) = run(tmp_path / "s").results
    assert result.permuted is not None
    assert result.permuted.p_family <= 0.05
    assert result.words is not None
    assert result.words.auroc.value > 0.65
    assert result.effect.baseline == "words"
    assert result.effect.low < 0 < result.effect.high
    assert result.verdict == "no better than words"
    matrix[:, 1] += np.where(side, 3, -3)
    labelled.add(tmp_path / "t", matrix.astype(np.float32), labels, questions=questions)
    (result,) = run(tmp_path / "t").results
    assert result.effect.low > 0
    assert result.verdict == "linear direction"


def test_near_copies_and_too_few_shuffles_are_told(tmp_path: Path) -> None:
    questions = [f"what about {number} and {number * 7}" for number in range(58)]
    questions += ["Who wrote the old book of songs?", "who wrote the old book of songs"]
    labelled.layered(tmp_path / "s", {0: 1.0}, rows=60, width=8, questions=questions)
    notes = run(tmp_path / "s", permutations=5).notes
    assert any("2 questions of 60 share almost all words" in note for note in notes)
    assert any("5 shuffles cannot show" in note for note in notes)
    assert any("steps of 0.025" in note for note in run(tmp_path / "s", permutations=39).notes)
    labelled.layered(tmp_path / "t", {0: 1.0}, rows=16, width=4)
    notes = run(tmp_path / "t", method="mlp", permutations=50, folds=2).notes
    assert any("there are 20 of 50" in note for note in notes)
