"""AUROC along the difference of means: there where there is a signal, a half where not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore.analysis.statistics import separation
from actstore.errors import TooFewRowsError, UsageError
from tests.querying import stores


def labelled(root: Path, strengths: tuple[float, ...], rows: int = 120, width: int = 300) -> Path:
    rng = np.random.default_rng(0)
    labels = ["b" if number % 2 else "a" for number in range(rows)]
    direction = rng.standard_normal(width) / np.sqrt(width)
    for layer, strength in enumerate(strengths):
        matrix = rng.standard_normal((rows, width))
        matrix += np.outer([label == "b" for label in labels], strength * direction)
        stores.add(root, matrix.astype(np.float16), layer=layer, label=labels, task=[None] * rows)
    return root


def test_signal_and_none(tmp_path: Path) -> None:
    with actstore.open(labelled(tmp_path, (0, 30))) as store:
        found = separation.by_layer(store.select())
    assert (found.positive, found.negative) == ("b", "a")
    noise, signal = found.layers
    # More dimensions than rows: a direction that saw its own test rows would come near 1.
    assert noise.auroc.low < 0.5 < noise.auroc.high
    assert signal.auroc.value > 0.95
    assert (signal.layer, signal.rows, signal.positives) == (1, 120, 60)


def test_the_method_names_the_folds_that_there_were(tmp_path: Path) -> None:
    with actstore.open(labelled(tmp_path / "many", (3,))) as store:
        assert "5 folds" in separation.by_layer(store.select()).note
    with actstore.open(labelled(tmp_path / "few", (3,), rows=6)) as store:
        assert "3 folds" in separation.by_layer(store.select()).note


def test_rows_of_one_question_stay_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    own = np.repeat(rng.standard_normal((20, 50)), 6, axis=0)
    matrix = (own + 0.01 * rng.standard_normal(own.shape)).astype(np.float16)
    labels = np.repeat(rng.permutation(["a", "b"] * 10), 6).tolist()
    questions = np.repeat([f"q{number}" for number in range(20)], 6).tolist()
    plain: dict[str, Any] = {"label": labels, "task": [None] * 120}
    stores.add(tmp_path / "known", matrix, question=questions, **plain)
    stores.add(tmp_path / "unknown", matrix, **plain)
    with actstore.open(tmp_path / "known") as store:
        (honest,) = separation.by_layer(store.select()).layers
    with actstore.open(tmp_path / "unknown") as store:
        (leaking,) = separation.by_layer(store.select()).layers
    assert leaking.auroc.value > 0.9
    assert honest.auroc.value < 0.75


def test_classes_may_be_numbers_and_truth_values(tmp_path: Path) -> None:
    grades = [(0.5, 1.5, 2.0)[number % 3] for number in range(60)]
    matrix = np.random.default_rng(4).standard_normal((60, 8)).astype(np.float32)
    matrix[:, 0] += np.array(grades) > 1
    with actstore.open(tmp_path / "s", create=True) as store:
        store.write(
            {("resid_post", 1): matrix},
            {
                "example_id": [f"e{number}" for number in range(60)],
                "grade": grades,
                "passed": [grade > 1 for grade in grades],
            },
            model="org/model",
            pool="last",
        )
        graded = separation.by_layer(store.select(), "extra.grade", negative="0.5")
        passed = separation.by_layer(store.select(), "extra.passed")
    assert (graded.positive, passed.positive) == ("1.5 or 2", "true")
    assert [(one.rows, one.positives) for one in graded.layers] == [(60, 40)]
    assert graded.layers == passed.layers


def test_what_cannot_be_separated(tmp_path: Path) -> None:
    with actstore.open(labelled(tmp_path / "two", (1,), rows=6)) as store:
        with pytest.raises(TooFewRowsError, match="two classes"):
            separation.by_layer(store.select(label="a"))
        with pytest.raises(TooFewRowsError, match="two examples of each class"):
            separation.by_layer(store.select("example_id IN ('e0', 'e1')"))
    stores.layered(tmp_path / "three", rows=12)
    with actstore.open(tmp_path / "three") as store, pytest.raises(UsageError, match="more than"):
        separation.by_layer(store.select(), "example_id")


def test_folds_that_lack_a_class_are_no_folds(tmp_path: Path) -> None:
    """Of two folds one has the large question alone, and so nothing of the other class."""
    questions = ["large"] * 50 + ["one"] * 22 + ["two"] * 21
    labels = ["b"] * 50 + ["a"] * 10 + ["b"] * 12 + ["a"] + ["b"] * 20
    matrix = np.random.default_rng(0).standard_normal((93, 4)).astype(np.float32)
    stores.add(tmp_path / "s", matrix, question=questions, label=labels, task=[None] * 93)
    with actstore.open(tmp_path / "s") as store, pytest.raises(TooFewRowsError):
        separation.by_layer(store.select())


def test_a_sample_keeps_rows_and_labels_together(tmp_path: Path) -> None:
    with actstore.open(labelled(tmp_path, (40,), rows=400, width=20)) as store:
        (found,) = separation.by_layer(store.select(), most=100).layers
    assert found.rows == 100
    assert found.auroc.value > 0.99


@pytest.mark.parametrize("most", [100, 1000])
def test_rows_in_another_order_keep_their_labels(tmp_path: Path, most: int) -> None:
    with actstore.open(labelled(tmp_path, (40,), rows=400, width=20)) as store:
        halves = store.select()[[*range(201, 400), *range(201)]]
        (found,) = separation.by_layer(halves, most=most).layers
    assert found.auroc.value > 0.99


def test_scale_means_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = ["b" if number % 2 else "a" for number in range(60)]
    matrix = rng.standard_normal((60, 20)).clip(-3, 3).astype(np.float32)
    matrix[1::2, 0] += 0.3
    for layer, scale in ((0, 1.0), (1, 2.0**120)):
        stores.add(
            tmp_path,
            matrix * np.float32(scale),
            layer=layer,
            label=labels,
            task=[None] * 60,
        )
    with actstore.open(tmp_path) as store:
        small, large = separation.by_layer(store.select()).layers
    assert small.auroc == pytest.approx(large.auroc, abs=0.005)
