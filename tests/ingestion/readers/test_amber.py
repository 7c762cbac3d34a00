"""AMBER samples: nested or flat, number or text keys, answers and classes by 1-based id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actstore.errors import UsageError
from actstore.ingestion.run import ingest
from actstore.storage.snapshot import open_snapshot
from tests.ingestion.storing import assert_rows, round_trip, stored_rows
from tests.layouts import amber as layout


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("keys", ["int", "str"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_round_trip(tmp_path: Path, nested: bool, keys: Any, dtype: torch.dtype) -> None:
    expected = layout.write_samples(
        tmp_path / "samples", samples=4, layers=5, nested=nested, keys=keys, dtype=dtype
    )
    summary = round_trip(tmp_path / "samples", tmp_path / "store", expected, model=layout.MODEL)
    assert summary.recipe == "amber"
    assert summary.layers == (0, 1, 2, 3, 4)


def test_a_batch_axis_is_dropped(tmp_path: Path) -> None:
    expected = layout.write_samples(tmp_path / "samples", layers=3, batch_axis=True)
    round_trip(tmp_path / "samples", tmp_path / "store", expected, model=layout.MODEL)


def test_one_layer_comes_back_as_a_matrix(tmp_path: Path) -> None:
    rows = layout.write_samples(tmp_path / "samples", samples=12, layers=3)
    ingest(tmp_path / "samples", tmp_path / "store", model=layout.MODEL)
    snapshot = open_snapshot(tmp_path / "store")
    matrix = snapshot.gather(np.arange(12, 24))
    assert matrix.tobytes() == layout.vectors(rows, 1).tobytes()


def test_the_model_must_be_named(tmp_path: Path) -> None:
    layout.write_samples(tmp_path / "samples", layers=2)
    with pytest.raises(UsageError, match="--model"):
        ingest(tmp_path / "samples", tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("inside", [".", "activations_amber"])
def test_answers_and_classes_are_joined_by_one_based_id(tmp_path: Path, inside: str) -> None:
    project = tmp_path / "project"
    expected = layout.write_samples(project / "activations_amber", samples=12, layers=2)
    answers = layout.write_responses(project, 12)
    classes = layout.write_classification(project, good=[1, 10, 11], bad=[2, 12])
    layout.write_queries(project, 12)
    for row in expected:
        row["prediction"] = answers[row["example_id"]]
        row["label"] = classes.get(row["example_id"], {}).get("class")
        row["question"] = "Describe this image."
        if inside == ".":
            row["source"] = "activations_amber/" + row["source"]
    summary = ingest(project / inside, tmp_path / "store", model=layout.MODEL, allow_parent=project)
    found = stored_rows(tmp_path / "store")
    assert_rows(found, expected)
    for row in found:
        extra = json.loads(row["extra"])
        assert extra.get("classification") == classes.get(row["example_id"])
        assert extra["image"] == f"AMBER_{row['example_id']}.jpg"
    assert summary.labels == {"BAD": 4, "GOOD": 6}
    assert any("joined 5 of 12" in note for note in summary.notes)
    if inside == ".":
        assert summary.unmatched == ("analysis/amber_good_features.json",)


def test_sidecars_can_be_named(tmp_path: Path) -> None:
    layout.write_samples(tmp_path / "samples", layers=1)
    layout.write_classification(tmp_path / "far/away/from/here", good=[1], bad=[2, 3])
    path = tmp_path / "far/away/from/here/analysis/amber_classification.json"
    summary = ingest(
        tmp_path / "samples",
        tmp_path / "store",
        model=layout.MODEL,
        sidecars={"classification": path},
    )
    assert summary.labels == {"BAD": 2, "GOOD": 1}
    with pytest.raises(UsageError, match="classification, responses, queries"):
        ingest(tmp_path / "samples", tmp_path / "s", model="m", sidecars={"typo": path})


def test_damaged_samples_are_named_and_the_others_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    layout.write_samples(folder, samples=20, layers=3, width=16)
    whole = (folder / "sample_0003.pt").read_bytes()
    (folder / "sample_0003.pt").write_bytes(whole[: len(whole) // 2])
    (folder / "sample_0004.pt").write_bytes(b"")
    torch.save({"activations": {0: torch.zeros(9).half()}}, folder / "sample_0000.pt")
    torch.save({"activations": {0: torch.full((16,), torch.nan)}}, folder / "sample_0007.pt")
    torch.save({"activations": {}}, folder / "sample_0008.pt")
    torch.save({"activations": {0: torch.ones(2, 16)}}, folder / "sample_0009.pt")
    summary = ingest(folder, tmp_path / "store", model=layout.MODEL)
    reasons = {refusal.path: refusal.reason for refusal in summary.refused}
    assert list(reasons) == [f"sample_000{number}.pt" for number in (0, 3, 4, 7, 8, 9)]
    assert "width 9" in reasons["sample_0000.pt"]
    assert "0 bytes" in reasons["sample_0004.pt"]
    assert "NaN" in reasons["sample_0007.pt"]
    assert "column 0" in reasons["sample_0007.pt"]
    assert "batch axis must be 1" in reasons["sample_0009.pt"]
    assert summary.rows_written == 14 * 3
    assert not any(str(tmp_path) in reason for reason in reasons.values())


def test_files_are_read_in_natural_order(tmp_path: Path) -> None:
    layout.write_samples(tmp_path / "samples", samples=3, first=9998, layers=1)
    ingest(tmp_path / "samples", tmp_path / "store", model=layout.MODEL)
    indexes = [row["example_index"] for row in stored_rows(tmp_path / "store")]
    assert indexes == [9998, 9999, 10000]
