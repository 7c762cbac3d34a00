"""Rows come in places of one model, site, layer and pooling, with classes and groups."""

from pathlib import Path

import numpy as np
import pytest

import actstore
from actstore.analysis.examples import classes, place_rows
from actstore.analysis.examples.place_rows import RowChoice
from actstore.errors import NotInStoreError, TooFewRowsError, UsageError
from tests.analysis import labelled

YES = classes.Classes(column="label", positive=("yes",), negative=("no",))


def test_one_cell_for_each_place_layers_in_order(tmp_path: Path) -> None:
    labelled.layered(tmp_path / "s", {12: 0, None: 0, -1: 0, 6: 0}, rows=8, width=4)
    labelled.add(tmp_path / "s", np.ones((4, 3), np.float32), ["yes", "no"] * 2, site="mlp_out")
    with actstore.open(tmp_path / "s") as store:
        found = place_rows.by_place(place_rows.choose(store, RowChoice()), YES)
        assert [(rows.place.site, rows.place.layer) for rows in found] == [
            *[("mlp_out", 0), ("resid_post", -1), ("resid_post", 6)],
            *[("resid_post", 12), ("resid_post", None)],
        ]
        assert found[0].vectors().dtype == np.float32
        assert "unnumbered" in found[-1].place.text


def test_rows_without_a_class_are_left_out_and_counted(tmp_path: Path) -> None:
    labels = ["yes", "no", None, "other"]
    labelled.add(tmp_path / "s", np.ones((4, 3), np.float16), labels)
    notes: list[str] = []
    with actstore.open(tmp_path / "s") as store:
        (rows,) = place_rows.by_place(store.select(), YES, None, notes)
        assert rows.positive.tolist() == [True, False]
        assert notes == ["2 of 4 rows are of neither class and left out"]
        nothing = classes.Classes(column="task", positive=("yes",), negative=("no",))
        with pytest.raises(TooFewRowsError, match="no row here has task"):
            place_rows.by_place(store.select(), nothing)


def test_groups_go_by_question_then_example(tmp_path: Path) -> None:
    questions = ["same?", "same?", None, None]
    labelled.add(
        tmp_path / "s", np.ones((4, 3), np.float16), ["yes", "no"] * 2, questions=questions
    )
    with actstore.open(tmp_path / "s") as store:
        (rows,) = place_rows.by_place(store.select(), YES)
        groups = rows.groups.tolist()
        assert groups[0] == groups[1]
        assert len(set(groups)) == 3
        (apart,) = place_rows.by_place(store.select(), YES, "row_id")
        assert len(set(apart.groups.tolist())) == 4


def test_one_question_for_all_is_no_group(tmp_path: Path) -> None:
    labelled.add(
        tmp_path / "s", np.ones((4, 3), np.float16), ["yes", "no"] * 2, questions=["Describe."] * 4
    )
    notes: list[str] = []
    with actstore.open(tmp_path / "s") as store:
        (rows,) = place_rows.by_place(store.select(), YES, None, notes)
        assert len(set(rows.groups.tolist())) == 4
        assert "example_id" in notes[0]
        (told,) = place_rows.by_place(store.select(), YES, "question")
        assert len(set(told.groups.tolist())) == 1


def test_rows_of_several_models_are_refused(tmp_path: Path) -> None:
    for model in ("a/one", "b/two"):
        labelled.layered(tmp_path / "s", {0: 0}, rows=4, width=4, model=model)
    with actstore.open(tmp_path / "s") as store:
        with pytest.raises(UsageError, match=r"a/one, b/two.*--model"):
            place_rows.choose(store, RowChoice())
        assert len(place_rows.choose(store, RowChoice(model="b/two"))) == 4
        with pytest.raises(NotInStoreError, match="no row"):
            place_rows.choose(store, RowChoice(where="norm < 0"))


def test_vectors_that_are_not_finite_are_named(tmp_path: Path) -> None:
    matrix = np.ones((4, 3), np.float16)
    matrix[2, 1] = np.nan
    labelled.add(tmp_path / "s", matrix, ["yes", "no"] * 2)
    with actstore.open(tmp_path / "s") as store:
        (rows,) = place_rows.by_place(store.select(), YES)
        with pytest.raises(TooFewRowsError, match=r"layer 0.*1 of 4.*row_id 2.*isfinite"):
            rows.vectors()
        (finite,) = place_rows.by_place(store.select("isfinite(norm)"), YES)
        assert len(finite.vectors()) == 3


def test_conditions_are_joined_whatever_comments_they_hold() -> None:
    choice = RowChoice(where="a = 1 -- why").and_where("b = 2 OR c = 3")
    assert choice.where == "(a = 1 -- why\n) AND (b = 2 OR c = 3\n)"
    assert RowChoice().and_where(None).where is None


def test_the_hash_knows_keys_and_labels(tmp_path: Path) -> None:
    hashes = []
    for number, labels in enumerate((["yes", "no"], ["yes", "no"], ["no", "yes"])):
        labelled.add(tmp_path / f"{number}", np.ones((2, 3), np.float16), labels)
        with actstore.open(tmp_path / f"{number}") as store:
            hashes.append(place_rows.rows_hash(place_rows.by_place(store.select(), YES)[0]))
    assert hashes[0] == hashes[1] != hashes[2]
