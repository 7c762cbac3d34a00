"""Validation is document 002's own loop, run here with its own code."""

import glob
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actstore
from actstore.analysis.examples.place_rows import RowChoice
from actstore.analysis.steering import validation, vector_files, vectors
from actstore.errors import MismatchError, TooFewRowsError, UsageError
from tests.analysis import labelled


@pytest.fixture
def made(tmp_path: Path) -> Path:
    rows = 40
    kinds = ["deploy" if number % 2 else "test" for number in range(rows)]
    positive = np.array(kinds) == "deploy"
    for layer, signal in ((10, 0.2), (20, 2.0)):
        matrix = labelled.vectors(positive, 24, signal, layer)
        labelled.add(tmp_path / "train", matrix, kinds, layer=layer)
        types = ["deployment" if each else "testing" for each in positive[:30]]
        matrix = labelled.vectors(positive[:30], 24, signal, layer + 1)
        labelled.add(tmp_path / "val", matrix, types, layer=layer, first=rows)
    with actstore.open(tmp_path / "train") as store:
        vector_files.save(
            vectors.steer(store, positive="deploy", negative="test"), tmp_path / "run"
        )
    return tmp_path


def the_documents_loop(folder: Path) -> dict[str, float]:
    """Run the code of document 002, which prints what this returns."""
    import pandas as pd
    from sklearn.metrics import roc_auc_score

    found = {}
    for f in sorted(glob.glob(f"{folder}/probe_stats_layer*.csv")):
        df = pd.read_csv(f)
        if len(df[df["type"] == "testing"]) > 0 and len(df[df["type"] == "deployment"]) > 0:
            auroc = roc_auc_score((df["type"] == "deployment").astype(int), df["mean_score"])
            layer = f.split("layer")[1].split(".")[0]
            found[layer] = auroc
    return found


def test_it_gives_what_the_documents_own_code_gives(made: Path) -> None:
    with actstore.open(made / "val") as store:
        found = validation.validate(store, made / "run/normalized_vectors")
    assert found.classes.positive == ("deployment",)
    assert found.notes[0] == "deployment is taken for the vectors' deploy"
    # What is chosen among layers is not what an interval of one is for.
    assert found.notes[1:] == [
        note for note in found.notes if "of 2 layers that tell nothing" in note
    ]
    assert len(found.notes) == 2
    validation.save(found, made / "out")
    expected = the_documents_loop(made / "out")
    assert list(expected) == ["10", "20"]
    for one in found.layers:
        assert one.auroc.value == pytest.approx(expected[str(one.place.layer)])
        assert one.auroc.low <= one.auroc.value <= one.auroc.high
    assert expected["20"] > 0.95
    entries = json.loads((made / "out/report.json").read_text())
    assert [entry["rows"] for entry in entries] == [30, 30]


def test_tokens_of_an_example_are_averaged(tmp_path: Path) -> None:
    matrix = np.array([[1, 0], [3, 0], [0, 9], [-1, 0]], np.float32)
    labelled.add(
        tmp_path / "s",
        matrix,
        ["yes", "yes", "no", "no"],
        example_id=["a", "a", "b", "b"],
        position=[0, 1, 0, 1],
        pooling="none",
    )
    torch.save(torch.tensor([[1.0, 0.0]]), tmp_path / "layer_0.pt")
    with actstore.open(tmp_path / "s") as store:
        (one,) = validation.validate(store, tmp_path, positive="yes").layers
    assert [entry[3:] for entry in one.entries] == [
        pytest.approx((2, 3, 1, 1)),
        pytest.approx((-0.5, 0, -1, 0.5)),
    ]
    assert one.auroc.value == 1


def test_intervals_count_what_the_vectors_making_kept_together(tmp_path: Path) -> None:
    cities = np.repeat(np.arange(20), 8)
    kinds = ["yes" if city % 2 else "no" for city in cities]
    held = {"extra.city": 0, None: 0}
    for run in range(30):
        root = tmp_path / str(run)
        for first, name in enumerate(("train", "new", "bare")):
            draw = np.random.default_rng([run, first])
            matrix = draw.standard_normal((160, 4)) + 2 * draw.standard_normal((20, 4))[cities]
            named = [json.dumps({"city": f"{name} {city}"}) for city in cities]
            columns: dict[str, Any] = {} if name == "bare" else {"extra": named}
            if name != "bare" or run == 0:
                where = {"first": 1000 * first, **columns}
                labelled.add(root / name, matrix.astype(np.float32), kinds, **where)
        for group_by in held:
            with actstore.open(root / "train") as store:
                made = vectors.steer(store, positive="yes", group_by=group_by)
            vector_files.save(made, root / str(group_by))
            with actstore.open(root / "new") as store:
                found = validation.validate(store, root / str(group_by))
                again = validation.validate(store, root / str(group_by), group_by="extra.city")
            (one,) = found.layers
            held[group_by] += one.auroc.low <= 0.5 <= one.auroc.high
            assert (one == again.layers[0]) == (group_by is not None)
            assert found.notes == []
    # Vectors of noise on noise: half of it is the city's.
    assert held["extra.city"] >= 26
    assert held[None] <= 22
    with actstore.open(tmp_path / "0/bare") as store:
        bare = validation.validate(store, tmp_path / "0/extra.city")
        default = validation.validate(store, tmp_path / "0/None")
    assert bare.layers[0].auroc == default.layers[0].auroc
    assert any("extra.city" in note and "no row here has" in note for note in bare.notes)


def test_vectors_of_another_model_site_layer_or_width_are_refused(made: Path) -> None:
    matrix = np.random.default_rng(0).standard_normal((6, 24)).astype(np.float32)
    labels = ["deployment", "testing"] * 3
    for name, columns, said in (
        ("model", {"model": "b/other", "layer": 10}, r"org/model.*b/other"),
        ("site", {"site": "resid_pre", "layer": 10}, r"resid_post.*resid_pre"),
        ("layer", {"layer": 11}, r"layer 10.*layer 11"),
    ):
        labelled.add(made / name, matrix, labels, **columns)
        with actstore.open(made / name) as store, pytest.raises(MismatchError, match=said):
            validation.validate(store, made / "run")
    labelled.add(made / "width", matrix[:, :8], labels, layer=10, first=100)
    with actstore.open(made / "width") as store:
        with pytest.raises(MismatchError, match=r"24 values.*have 8"):
            validation.validate(store, made / "run", choice=RowChoice(layers=[10]))
        with pytest.raises(MismatchError, match="no vector for layer 7"):
            validation.validate(store, made / "run", choice=RowChoice(layers=[7]))


POOLED: dict[str, Any] = {"pooling": "last", "region": ["prompt"] * 30}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pooling": "mean"}, r"\(last over prompt\).*pooling mean.*--other-pooling"),
        ({"region": ["response"] * 30}, r"\(last over prompt\).*region response.*--other-pooling"),
        ({"region": [None] * 30}, r"\(last over prompt\).*region not recorded"),
    ],
)
def test_another_pooling_or_region_is_refused_unless_it_was_asked_for(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    labelled.layered(tmp_path / "a", {3: 2.0}, rows=30, width=16, **POOLED)
    other: dict[str, Any] = {**POOLED, **change}
    labelled.layered(tmp_path / "b", {3: 2.0}, rows=30, width=16, seed=1, first=30, **other)
    with actstore.open(tmp_path / "a") as store:
        vector_files.save(vectors.steer(store), tmp_path / "run")
    with actstore.open(tmp_path / "b") as store:
        with pytest.raises(MismatchError, match=said):
            validation.validate(store, tmp_path / "run")
        found = validation.validate(store, tmp_path / "run", other_pooling=True)
    assert any(note.startswith("OTHER POOLING: vectors made for last over") for note in found.notes)
    assert found.lineage["other_pooling"] is True
    (entry,) = validation.summary(found)
    assert entry["made_for"]["pooling"] == "last"
    assert entry["made_for"]["region"] == "prompt"
    assert entry["pooling"] == change.get("pooling", "last")


def test_of_several_poolings_the_vector_s_own_is_taken(tmp_path: Path) -> None:
    for pooling in ("last", "mean"):
        labelled.layered(tmp_path / "a", {3: 2.0}, rows=30, width=16, pooling=pooling)
        more: dict[str, Any] = {"seed": 1, "first": 30, "pooling": pooling}
        labelled.layered(tmp_path / "b", {3: 2.0}, rows=30, width=16, **more)
    with actstore.open(tmp_path / "a") as store:
        made = vectors.steer(store, choice=RowChoice(pooling="mean"))
        vector_files.save(made, tmp_path / "run")
    with actstore.open(tmp_path / "b") as store:
        (one,) = validation.validate(store, tmp_path / "run").layers
    assert one.place.pooling == "mean"


def test_vectors_of_others_are_used_with_a_note(tmp_path: Path) -> None:
    labelled.layered(tmp_path / "a", {3: 2.0}, rows=30, width=16, **POOLED)
    torch.save(torch.ones(16), tmp_path / "layer_3.pt")
    with actstore.open(tmp_path / "a") as store:
        found = validation.validate(store, tmp_path, positive="yes")
    assert found.layers[0].in_sample == (None, False)
    told = " ".join(found.notes)
    assert "do not say which model, site and pooling" in told
    assert "not known which rows" in told


def test_the_interval_counts_groups(tmp_path: Path) -> None:
    # Each of ten questions eight times with next to the same vector: ten examples, not eighty.
    rng = np.random.default_rng(0)
    own = np.repeat(rng.standard_normal((10, 8)), 8, axis=0)
    labels = np.repeat(["no", "yes"] * 5, 8).tolist()
    questions = np.repeat([f"q{number}" for number in range(10)], 8).tolist()
    matrix = (own + 0.01 * rng.standard_normal(own.shape)).astype(np.float32)
    labelled.add(tmp_path / "s", matrix, labels, questions=questions)
    torch.save(torch.ones(8), tmp_path / "layer_0.pt")
    with actstore.open(tmp_path / "s") as store:
        (grouped,) = validation.validate(store, tmp_path, positive="yes").layers
        (alone,) = validation.validate(store, tmp_path, positive="yes", group_by="row_id").layers
    assert (grouped.groups, alone.groups) == (10, 80)
    assert grouped.auroc.value == alone.auroc.value
    assert grouped.auroc.high - grouped.auroc.low > 1.5 * (alone.auroc.high - alone.auroc.low)


def test_classes_that_cannot_be_matched_are_asked_for(made: Path) -> None:
    matrix = np.random.default_rng(0).standard_normal((6, 24)).astype(np.float32)
    labelled.add(made / "other", matrix, ["a", "b"] * 3, layer=10, first=100)
    labelled.add(made / "one", matrix, ["deployment"] * 6, layer=10, first=100)
    only = RowChoice(layers=[10])
    with actstore.open(made / "other") as store:
        with pytest.raises(UsageError, match=r"towards deploy, and label has a, b.*--positive"):
            validation.validate(store, made / "run", choice=only)
        found = validation.validate(store, made / "run", choice=only, positive="b")
        assert found.layers[0].positives == 3
    with actstore.open(made / "one") as store, pytest.raises((TooFewRowsError, UsageError)):
        validation.validate(store, made / "run", choice=only, positive="deployment")


def test_a_class_that_begins_like_the_positive_one_is_not_taken_for_it(tmp_path: Path) -> None:
    kinds = ["harm" if number % 2 else "harmless" for number in range(40)]
    matrix = labelled.vectors(np.array(kinds) == "harm", 24, 2.0, 1)
    labelled.add(tmp_path / "train", matrix, kinds)
    labelled.add(tmp_path / "val", matrix[:20], ["harmless", "neutral"] * 10, first=40)
    with actstore.open(tmp_path / "train") as store:
        made = vectors.steer(store, positive="harm", negative="harmless")
    vector_files.save(made, tmp_path / "run")
    with actstore.open(tmp_path / "val") as store, pytest.raises(UsageError, match="--positive"):
        validation.validate(store, tmp_path / "run")
