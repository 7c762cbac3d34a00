"""Probes of numbers: right where there is a signal, silent where there is none, groups whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import r2_score

import actstore
from actstore import analysis
from actstore.analysis.examples.place_rows import RowChoice
from actstore.analysis.probes import number_files, probe_files, scoring
from actstore.analysis.probes.number_results import NumberReport
from actstore.analysis.probes.results import ProbeReport
from actstore.analysis.probes.splits import ProbeSettings
from actstore.errors import TooFewRowsError, UsageError
from tests.analysis import labelled

COLUMN = "extra.level"


def drawn(numbers: np.ndarray, width: int, signal: float, seed: int) -> np.ndarray:
    """Return noise whose first dimension follows the numbers."""
    found = np.random.default_rng(seed).standard_normal((len(numbers), width))
    found[:, 0] += signal * (numbers - numbers.mean()) / numbers.std()
    return found.astype(np.float32)


def layered(
    root: Path,
    signals: dict[int, float],
    *,
    rows: int = 60,
    width: int = 12,
    numbers: np.ndarray | None = None,
    seed: int = 0,
    **columns: Any,
) -> np.ndarray:
    """Make a store with numbers in ``extra.level``, a layer for each signal; return the numbers."""
    if numbers is None:
        numbers = 1e6 + 10 * np.random.default_rng([seed, 7]).standard_normal(rows)
    extra = [json.dumps({"level": float(number)}) for number in numbers]
    for layer, signal in signals.items():
        matrix = drawn(numbers, width, signal, 100 * seed + layer)
        labelled.add(root, matrix, ["x"] * len(numbers), layer=layer, extra=extra, **columns)
    return numbers


def run(root: Path, label: str = COLUMN, **options: Any) -> NumberReport:
    names = ("method", "folds", "permutations", "seed", "strength")
    settings = {name: options.pop(name) for name in names if name in options}
    with actstore.open(root) as store:
        report = analysis.probe(store, label, settings=ProbeSettings(**settings), **options)
    assert isinstance(report, NumberReport)
    return report


def test_a_known_effect_comes_out_as_large_as_it_is(tmp_path: Path) -> None:
    numbers = layered(tmp_path / "s", {3: 1.0, 5: 0.0}, rows=400)
    report = run(tmp_path / "s", permutations=19)
    clear, none = report.results
    # Signal and noise have the same variance: half of the numbers' can be told.
    assert clear.r2.low < 0.5 < clear.r2.high
    assert clear.r2.value == pytest.approx(0.5, abs=0.08)
    assert clear.spearman.low < 6 / np.pi * np.arcsin(np.sqrt(0.5) / 2) < clear.spearman.high
    assert clear.verdict == "linear direction"
    assert none.verdict == "no better than shuffled numbers"
    assert none.r2.low < 0 < none.r2.high
    assert none.spearman.low < 0 < none.spearman.high
    for result in (clear, none):
        assert result.r2.value == pytest.approx(r2_score(result.numbers, result.predicted))
        assert result.spearman_pooled == pytest.approx(
            spearmanr(result.numbers, result.predicted).statistic
        )
    assert sorted(clear.numbers) == pytest.approx(sorted(numbers))
    assert clear.error == pytest.approx(np.sqrt(1 - clear.r2.value) * clear.deviation)
    assert report.best is not None
    assert report.best.place.layer == 3
    assert report.best.nested == clear.r2
    assert clear.strength > none.strength


def test_without_signal_p_values_are_even_and_nothing_is_claimed(tmp_path: Path) -> None:
    layered(tmp_path / "s", dict.fromkeys(range(24), 0.0), rows=40, width=60)
    report = run(tmp_path / "s", permutations=39)
    p_values = np.array([each.permuted.p_value for each in report.results if each.permuted])
    assert 0.34 < p_values.mean() < 0.66
    assert (p_values <= 0.1).mean() < 0.25
    assert min(each.permuted.p_family for each in report.results if each.permuted) > 0.05
    assert not any("direction" in each.verdict for each in report.results)
    held = np.mean([each.spearman.low <= 0 <= each.spearman.high for each in report.results])
    assert held >= 0.9
    # The largest of many is no estimate; chosen without the fold that judges it is none either.
    assert report.best is not None
    assert report.best.nested is not None
    assert report.best.nested.value < report.best.r2.value
    assert report.best.nested.low < 0


def test_no_group_is_on_both_sides_and_copies_claim_nothing(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    # Three rows of a question are nearly one vector: across a fold they would give it away.
    matrix = np.repeat(draw.standard_normal((30, 60)), 3, axis=0)
    matrix += 0.01 * draw.standard_normal(matrix.shape)
    numbers = np.repeat(draw.standard_normal(30), 3)
    extra = [json.dumps({"level": number}) for number in numbers.tolist()]
    questions = [f"what of {number // 3}?" for number in range(90)]
    labelled.add(
        tmp_path / "s",
        matrix.astype(np.float32),
        ["x"] * 90,
        questions=list(questions),
        extra=extra,
    )
    (kept,) = run(tmp_path / "s").results
    (apart,) = run(tmp_path / "s", group_by="row_id").results
    assert kept.groups == 30
    assert kept.permuted is not None
    assert kept.permuted.p_value > 0.05
    assert kept.r2.value < 0.2
    assert apart.r2.value > 0.8


def test_groups_with_several_numbers_exchange_them_as_a_whole(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    city = np.repeat(np.arange(40), 3)
    # The city's own level can be read, and what differs within it cannot.
    level = draw.standard_normal(40)[city]
    numbers = level + 0.3 * draw.standard_normal(120)
    matrix = draw.standard_normal((120, 8))
    matrix[:, 0] += 2 * level
    extra = [
        json.dumps({"level": number, "city": f"c{at}"})
        for number, at in zip(numbers.tolist(), city.tolist(), strict=True)
    ]
    labelled.add(tmp_path / "s", matrix.astype(np.float32), ["x"] * 120, extra=extra)
    (result,) = run(tmp_path / "s", group_by="extra.city").results
    assert result.groups == 40
    assert result.permuted is not None
    assert result.permuted.p_value <= 0.02
    assert result.permuted.r2_95 < 0.4
    assert result.verdict == "linear direction"


def test_words_that_give_the_number_away_are_the_baseline(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    words = draw.integers(0, 4, 100)
    numbers = words + 0.1 * draw.standard_normal(100)
    questions = [
        f"{('one', 'two', 'three', 'four')[word]} of {at}" for at, word in enumerate(words)
    ]
    layered(tmp_path / "s", {0: 1.5}, numbers=numbers, questions=list(questions))
    (result,) = run(tmp_path / "s").results
    assert result.words is not None
    assert result.words.r2.value > 0.9
    assert result.effect.baseline == "words"
    assert result.effect.high < 0
    assert result.verdict == "no better than words"


def test_the_question_is_decided_by_the_column(tmp_path: Path) -> None:
    numbers = np.arange(60.0) % 3
    layered(tmp_path / "s", {0: 2.0}, numbers=numbers)
    assert run(tmp_path / "s", permutations=0).column == COLUMN
    with actstore.open(tmp_path / "s") as store:
        one = analysis.probe(store, COLUMN, positive="2", settings=ProbeSettings(permutations=0))
        assert isinstance(one, ProbeReport)
        with pytest.raises(UsageError, match="numbers have no positive and no negative"):
            analysis.probe(store, COLUMN, task="number", positive="2.0")
        with pytest.raises(UsageError, match=r"label has values that are no numbers \('x'\)"):
            analysis.probe(store, "label", task="number")
        with pytest.raises(UsageError, match="by ridge regression, not by mean-difference"):
            analysis.probe(store, COLUMN, settings=ProbeSettings(method="mean-difference"))


def test_texts_are_numbers_where_they_are_called_so_and_others_are_left_out(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).standard_normal(60)
    labels: list[str | None] = [f"{number:.5f}" for number in numbers]
    labels[7], labels[9] = None, "nan"
    labelled.add(tmp_path / "s", drawn(numbers, 8, 2.0, 0), labels)
    report = run(tmp_path / "s", "label", task="number", permutations=19)
    (result,) = report.results
    assert result.rows == 58
    assert any(
        "2 of 60 rows have no number in label, and are left out" in note for note in report.notes
    )
    assert result.r2.value > 0.5
    binary = labelled.layered(tmp_path / "two", {0: 0.0}, rows=60, width=8)
    extra = [json.dumps({"level": int(each)}) for each in binary]
    labelled.add(tmp_path / "two", drawn(numbers, 8, 0.0, 1), ["x"] * 60, layer=9, extra=extra)
    with actstore.open(tmp_path / "two") as store:
        two = analysis.probe(
            store, COLUMN, choice=RowChoice(layers=[9]), settings=ProbeSettings(permutations=0)
        )
    assert isinstance(two, ProbeReport)


def test_what_is_too_little_is_refused(tmp_path: Path) -> None:
    layered(tmp_path / "s", {0: 1.0}, rows=12, split=["train"] * 8 + ["val"] * 4)
    with pytest.raises(TooFewRowsError, match=r"2 groups .* to test on in one part"):
        run(tmp_path / "s")
    (kept,) = run(tmp_path / "s", folds=2).results
    assert kept.rows == 12
    (tested,) = run(tmp_path / "s", train="split = 'train'", test="split = 'val'").results
    assert (tested.rows, tested.trained_rows, tested.folds) == (4, 8, 1)
    extra = ['{"level": 2.0}'] * 30
    labelled.add(tmp_path / "one", labelled.vectors_of_noise(30, 4), ["x"] * 30, extra=extra)
    with pytest.raises(TooFewRowsError, match="24 rows of the training part have the same number"):
        run(tmp_path / "one", task="number")


def test_other_stores_and_saved_probes_predict_the_same_numbers(tmp_path: Path) -> None:
    layered(tmp_path / "a", {0: 2.0, 1: 0.0}, rows=60)
    numbers = layered(
        tmp_path / "b",
        {0: 2.0, 1: 0.0},
        rows=40,
        seed=1,
        first=100,
        questions=[f"another {number}?" for number in range(40)],
    )
    with actstore.open(tmp_path / "b") as other:
        across = run(tmp_path / "a", test_store=other, permutations=19)
    report = run(tmp_path / "a", permutations=19)
    number_files.save(report, tmp_path / "out")
    saved = probe_files.load(tmp_path / "out")
    assert [each.of_numbers for each in saved] == [True, True]
    with actstore.open(tmp_path / "b") as other:
        first, _ = scoring.score(other, tmp_path / "out")
        with pytest.raises(UsageError, match="predicts numbers, not classes"):
            scoring.write_labels(other, [first], "class")
        table = scoring.table(other, [first])
    assert first.classes is None
    assert first.auroc is None
    assert first.r2 is not None
    assert first.r2.value == pytest.approx(r2_score(numbers, first.scores))
    assert first.spearman is not None
    assert first.spearman.value == pytest.approx(spearmanr(numbers, first.scores).statistic)
    # One training set, one probe: the same predictions, also of numbers about a million.
    assert first.scores == pytest.approx(across.results[0].predicted, abs=0.01)
    assert table["score"].to_pylist() == first.scores.tolist()
    assert table["class"].null_count == 40


def test_a_given_strength_is_the_only_one(tmp_path: Path) -> None:
    layered(tmp_path / "s", {0: 1.0, 1: 0.0})
    report = run(tmp_path / "s", strength=0.01, permutations=0)
    for result in report.results:
        assert result.strength == pytest.approx(0.01)
        assert result.strengths == pytest.approx([0.01] * 5)
    assert report.lineage["strength"] == 0.01
    assert report.best is not None
    assert report.best.nested is not None
    assert "chosen" in str(run(tmp_path / "s", permutations=0).lineage["strength"])


def test_reports_read_well_and_are_tables(tmp_path: Path) -> None:
    layered(tmp_path / "s", {0: 1.0, 1: 0.0})
    report = run(tmp_path / "s", permutations=19)
    assert repr(report).splitlines()[0] == "NumberReport: ridge probes of extra.level"
    assert "layer 0 of resid_post (last): R² 0." in repr(report)
    frame = report.to_polars()
    assert frame["layer"].to_list() == [0, 1]
    assert frame["r2"].to_list() == [each.r2.value for each in report.results]
    assert frame["spearman_low"].to_list() == [each.spearman.low for each in report.results]
