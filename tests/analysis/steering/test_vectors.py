"""Steering vectors: differences of means, as document 002's consumers read them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actstore
from actstore.analysis.examples.place_rows import RowChoice
from actstore.analysis.steering import vector_files, vectors
from actstore.errors import MismatchError, TooFewRowsError, UsageError
from tests.analysis import labelled


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_vector_is_the_difference_of_the_means(tmp_path: Path, dtype: str) -> None:
    positive = labelled.layered(tmp_path / "s", {2: 3.0, 5: 0.0}, dtype=dtype)
    with actstore.open(tmp_path / "s") as store:
        made = vectors.steer(store, positive="yes", negative="no")
        matrix = store.select(layer=2).numpy().astype(np.float64)
    strong, weak = made.vectors
    expected = matrix[positive].mean(0) - matrix[~positive].mean(0)
    np.testing.assert_allclose(strong.vector, expected, atol=1e-5)
    assert strong.norm == pytest.approx(np.linalg.norm(expected), rel=1e-5)
    assert np.linalg.norm(strong.normalized) == pytest.approx(1, rel=1e-5)
    assert strong.cosine_next == pytest.approx(float(strong.normalized @ weak.normalized), abs=1e-6)
    assert weak.cosine_next is None
    assert strong.separation is not None
    assert weak.separation is not None
    assert strong.auroc is not None
    assert weak.auroc is not None
    assert strong.separation > 3
    assert strong.auroc.value > 0.95
    assert abs(weak.separation) < 1  # on rows that it was not made of: noise separates nothing
    assert weak.auroc.low < 0.5 < weak.auroc.high
    assert strong.mean_norm == pytest.approx(np.linalg.norm(matrix, axis=1).mean(), rel=1e-4)


def test_files_are_bare_tensors_and_come_back(tmp_path: Path) -> None:
    labelled.layered(tmp_path / "s", {2: 1.0, None: 1.0}, rows=12, width=16)
    with actstore.open(tmp_path / "s") as store:
        made = vectors.steer(store, positive="yes")
        fingerprint = store.fingerprint
    vector_files.save(made, tmp_path / "out")
    raw = torch.load(tmp_path / "out/vectors/layer_2.pt", weights_only=True)
    assert raw.shape == (16,)
    assert raw.dtype == torch.float32
    unit = torch.load(tmp_path / "out/normalized_vectors/layer_unknown.pt", weights_only=True)
    assert torch.dot(unit, unit).item() == pytest.approx(1, rel=1e-5)
    for folder in (tmp_path / "out", tmp_path / "out/normalized_vectors"):
        found = vector_files.load(folder)
        assert [one.layer for one in found] == [2, None]
        np.testing.assert_array_equal(found[0].vector, made.vectors[0].normalized)
        assert found[0].place == made.vectors[0].place
        assert found[0].lineage["store_fingerprint"] == fingerprint
    entries = json.loads((tmp_path / "out/steering.json").read_text())
    assert [entry["layer"] for entry in entries] == [2, None]
    assert entries[0]["positives"] == 6


def test_an_example_counts_once_whatever_its_tokens(tmp_path: Path) -> None:
    matrix = np.array([[0, 0], [4, 0], [4, 0], [4, 0], [0, 0], [1, 1]], np.float32)
    labelled.add(
        tmp_path / "s",
        matrix,
        ["yes", "yes", "yes", "yes", "no", "no"],
        example_id=["a", "b", "b", "b", "c", "d"],
        position=[0, 0, 1, 2, 0, 0],
        pooling="none",
    )
    with actstore.open(tmp_path / "s") as store:
        (made,) = vectors.steer(store, positive="yes").vectors
    np.testing.assert_allclose(made.vector, [2 - 0.5, -0.5])


def test_answers_to_one_question_are_examples_of_their_own(tmp_path: Path) -> None:
    matrix = np.array([[0, 0], [4, 0], [4, 0], [4, 0], [0, 0], [1, 1]], np.float32)
    labels = ["yes", "yes", "yes", "yes", "no", "no"]
    ids = ["a", "b", "b", "b", "c", "d"]
    numbered: dict[str, Any] = {"example_index": [0, 0, 1, 2, 0, 0]}
    named: dict[str, Any] = {"variant": list("abcdef")}
    for layer, columns in enumerate((numbered, named)):
        labelled.add(tmp_path / "s", matrix, labels, layer=layer, example_id=ids, **columns)
    with actstore.open(tmp_path / "s") as store:
        for made in vectors.steer(store, positive="yes").vectors:
            np.testing.assert_allclose(made.vector, [3 - 0.5, -0.5])


def test_rows_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    labelled.layered(tmp_path / "s", {2: 1.0}, rows=8, width=4)
    labelled.layered(tmp_path / "s", {2: 1.0}, rows=8, width=4, site="mlp_out")
    with actstore.open(tmp_path / "s") as store:
        with pytest.raises(UsageError, match=r"mlp_out.*resid_post.*--site"):
            vectors.steer(store, positive="yes")
        assert len(vectors.steer(store, choice=RowChoice(site="mlp_out")).vectors) == 1
    labelled.add(tmp_path / "t", np.ones((4, 3), np.float32), ["yes", "no"] * 2, layer=0)
    labelled.add(tmp_path / "u", np.eye(2, 3, dtype=np.float32), ["yes", "no"], layer=0)
    labelled.add(tmp_path / "u", np.eye(2, 3, dtype=np.float32), ["yes", "yes"], layer=1)
    with (
        actstore.open(tmp_path / "t") as store,
        pytest.raises(TooFewRowsError, match="no direction"),
    ):
        vectors.steer(store)
    with (
        actstore.open(tmp_path / "u") as store,
        pytest.raises(TooFewRowsError, match=r"layer 1.*both"),
    ):
        vectors.steer(store)


def test_two_rows_are_enough_for_a_vector_but_not_to_judge_it(tmp_path: Path) -> None:
    labelled.add(tmp_path / "s", np.eye(2, 3, dtype=np.float32), ["yes", "no"])
    with actstore.open(tmp_path / "s") as store:
        (made,) = vectors.steer(store).vectors
    assert made.separation is None
    assert made.auroc is None


def test_files_of_others_are_read_and_wrong_ones_refused(tmp_path: Path) -> None:
    torch.save(torch.ones(1, 8, dtype=torch.bfloat16), tmp_path / "layer_10.pt")
    torch.save(torch.ones(8), tmp_path / "layer_9.pt")
    found = vector_files.load(tmp_path)
    assert [one.layer for one in found] == [9, 10]
    assert found[1].vector.shape == (8,)
    assert found[0].place is None
    with pytest.raises(MismatchError, match=r"8 values.*have 4"):
        vector_files.check_width(found[0], 4, "s")
    torch.save(torch.ones(2, 8), tmp_path / "layer_11.pt")
    with pytest.raises(UsageError, match=r"layer_11.pt.*\[2, 8\]"):
        vector_files.load(tmp_path)
    with pytest.raises(UsageError, match=r"no layer_L.pt"):
        vector_files.load(tmp_path / "nothing")


def test_a_fold_without_a_direction_says_nothing_of_its_rows(tmp_path: Path) -> None:
    # One example differs from all others: where it is left out there is no direction.
    matrix = np.ones((20, 4), np.float32)
    matrix[3, 1] = 9
    labelled.add(tmp_path / "s", matrix, ["yes", "no"] * 10)
    with actstore.open(tmp_path / "s") as store:
        (made,) = vectors.steer(store, positive="no").vectors
    assert made.auroc is not None
    assert made.auroc.value == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (b"hi\n", "cannot be read"),
        (b"", "cannot be read"),
        ({"a": 1}, "got dict"),
        (torch.tensor(1.0), r"got \[\]"),
        (torch.tensor([1.0, float("nan")]), "NaN or infinity"),
    ],
)
def test_what_is_no_vector_is_refused_by_name(tmp_path: Path, wrong: object, said: str) -> None:
    path = tmp_path / "layer_3.pt"
    if isinstance(wrong, bytes):
        path.write_bytes(wrong)
    else:
        torch.save(wrong, path)
    with pytest.raises(UsageError, match=f"layer_3.pt.*{said}"):
        vector_files.load(tmp_path)


def test_an_auroc_below_chance_is_pointed_at(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    towns = np.repeat(draw.standard_normal((60, 16)), 2, axis=0)
    rows = (towns + 0.05 * draw.standard_normal(towns.shape)).astype(np.float32)
    tasks = [f"t{number // 2}" for number in range(120)]
    labelled.add(tmp_path / "s", rows, ["yes", "no"] * 60, task=tasks)
    with actstore.open(tmp_path / "s") as store:
        made = vectors.steer(store, positive="yes")
        (one,) = made.vectors
        assert one.auroc is not None
        assert one.auroc.high < 0.5
        assert any("below what chance gives" in note for note in made.notes)
        together = vectors.steer(store, positive="yes", group_by="task")
        assert not any("below what chance" in note for note in together.notes)
