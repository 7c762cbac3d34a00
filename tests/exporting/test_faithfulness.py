"""Faithful and unfaithful tensors come back as they were, and the probe's loader reads them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

import actstore
from actstore.errors import ExportError
from actstore.ingestion.run import ingest
from tests.exporting.trips import assert_same_files, assert_same_rows, export, round_trip
from tests.layouts import faithfulness

MODEL = {"model": faithfulness.MODEL}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"older_scorer": True, "dtype": torch.float32},
        {"faithful": 33, "unfaithful": 22, "absent": ("num_003",), "without_q1": ("num_007",)},
        {"faithful": 33, "unfaithful": 22, "caps": (None, None)},
    ],
)
def test_the_first_writers_files_come_back(tmp_path: Path, options: dict[str, Any]) -> None:
    source = tmp_path / "project"
    faithfulness.write_v1(source, **options)
    out = round_trip(source, tmp_path, "faithfulness")
    assert_same_files(source, out)
    assert (out / "data/responses/model_1.5B_responses.jsonl").exists()


def test_the_refactored_writers_files_come_back(tmp_path: Path) -> None:
    faithfulness.write_v2(tmp_path / "project", unscored=("num_002",))
    out = round_trip(tmp_path / "project", tmp_path, "faithfulness", options=MODEL)
    assert_same_files(tmp_path / "project", out)


def test_the_probe_tests_files_come_back(tmp_path: Path) -> None:
    faithfulness.write_test(tmp_path / "project")
    out = round_trip(tmp_path / "project", tmp_path, "faithfulness", options=MODEL)
    assert_same_files(tmp_path / "project", out)


def test_two_writers_in_one_project_come_back(tmp_path: Path) -> None:
    faithfulness.write_v1(tmp_path / "project")
    faithfulness.write_test(tmp_path / "project")
    out = round_trip(tmp_path / "project", tmp_path, "faithfulness", options=MODEL)
    assert_same_files(tmp_path / "project", out)


def test_rows_without_tables_come_back(tmp_path: Path) -> None:
    faithfulness.write_v1(tmp_path / "project")
    source = tmp_path / "alone"
    (tmp_path / "project/data/activations").rename(source)
    out = round_trip(source, tmp_path, "faithfulness", options=MODEL)
    assert_same_files(source, out)
    assert not list(out.glob("*.csv"))


def test_rows_without_responses_come_back(tmp_path: Path) -> None:
    faithfulness.write_v1(tmp_path / "project")
    (tmp_path / "project/data/responses/model_1.5B_responses.jsonl").unlink()
    out = round_trip(tmp_path / "project", tmp_path, "faithfulness", options=MODEL)
    assert_same_files(tmp_path / "project", out)


def test_the_scores_keep_their_columns(tmp_path: Path) -> None:
    faithfulness.write_v1(tmp_path / "project")
    ingest(tmp_path / "project", tmp_path / "store", recipe="faithfulness")
    export(tmp_path / "store", "faithfulness", tmp_path / "out")
    name = "data/processed/faithfulness_scores.csv"
    ours, theirs = (
        list(csv.DictReader((tmp_path / each / name).read_text().splitlines()))
        for each in ("out", "project")
    )
    assert list(ours[0]) == list(theirs[0])
    assert sorted(map(str, ours)) == sorted(map(str, theirs))


def test_the_probes_loader_reads_it(tmp_path: Path) -> None:
    faithfulness.write_v1(tmp_path / "project", layers=(6, 12, 18, 24))
    ingest(tmp_path / "project", tmp_path / "store", recipe="faithfulness")
    export(tmp_path / "store", "faithfulness", tmp_path / "out")
    for layer in (6, 12, 18, 24):
        path = tmp_path / f"out/data/activations/layer_{layer}_activations.pt"
        cache = torch.load(path, weights_only=True)
        # What ActivationCache and the probe ask for.
        assert list(cache) == ["faithful", "unfaithful"]
        assert all(each.ndim == 2 and len(each) >= 10 for each in cache.values())
        features = torch.cat([cache["faithful"], cache["unfaithful"]]).float()
        labels = torch.cat(
            [torch.ones(len(cache["faithful"])), torch.zeros(len(cache["unfaithful"]))]
        )
        assert len(features) == len(labels) == 26


def test_a_missing_class_is_named(tmp_path: Path) -> None:
    faithfulness.write_v1(tmp_path / "project")
    ingest(tmp_path / "project", tmp_path / "store", recipe="faithfulness")
    with pytest.raises(ExportError, match="no unfaithful row"):
        export(tmp_path / "store", "faithfulness", tmp_path / "out", "label = 'faithful'")
    where = "layer = 6 OR example_id <> 'num_003'"
    with pytest.raises(ExportError, match="num_003"):
        export(tmp_path / "store", "faithfulness", tmp_path / "out", where)


def test_labels_of_another_origin_make_the_classes(tmp_path: Path) -> None:
    from tests.querying.stores import add, vectors

    labels = ["faithful", "unfaithful", None, "faithful"]
    matrix = vectors(4, 6, "float16", 0)
    add(tmp_path / "store", matrix, layer=6, label=labels, task=["t"] * 4)
    done = export(tmp_path / "store", "faithfulness", tmp_path / "out")
    cache = torch.load(tmp_path / "out/layer_6_activations.pt", weights_only=True)
    assert cache["faithful"].numpy().tobytes() == matrix[[0, 3]].tobytes()
    assert cache["unfaithful"].numpy().tobytes() == matrix[[1]].tobytes()
    assert any("left out" in note for note in done.notes)


def test_layers_that_were_renamed_are_in_files_of_their_new_numbers(tmp_path: Path) -> None:
    """The second writer says it in the file too."""
    model = faithfulness.MODEL
    faithfulness.write_v2(tmp_path / "project")
    ingest(tmp_path / "project", tmp_path / "store", recipe="faithfulness", model=model)
    with actstore.open(tmp_path / "store") as store:
        store.rename("layer = layer + 100")
    export(tmp_path / "store", "faithfulness", tmp_path / "out")
    again = ingest(tmp_path / "out", tmp_path / "again", recipe="faithfulness", model=model)
    assert not again.refused
    assert_same_rows(tmp_path / "store", tmp_path / "again", changed=("source",))
