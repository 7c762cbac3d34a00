"""CLT training pairs: what each tensor is, repeats stored once, padding left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from actstore.errors import UsageError
from actstore.ingestion.run import ingest
from tests.ingestion.storing import Row, assert_rows, round_trip, stored_rows
from tests.layouts import clt as layout

MODEL = "llava-hf/llava-1.5-7b-hf"


@pytest.mark.parametrize(
    ("write", "options"),
    [
        (layout.write_multi_target, {}),
        (layout.write_multi_target, {"targets": 16}),
        (layout.write_multi_target, {"batches": 11}),
        (layout.write_multi_target, {"batch_size": 2, "samples": 5}),
        (layout.write_multi_target, {"squeezable": True}),
        (layout.write_multi_target, {"tokens": 1}),
        (layout.write_multi_target, {"dtype": torch.float16}),
        (layout.write_single_target, {}),
        (layout.write_single_target, {"form": "data"}),
        (layout.write_single_target, {"form": "bare"}),
    ],
)
def test_round_trip(
    tmp_path: Path, write: Callable[..., list[Row]], options: dict[str, Any]
) -> None:
    expected = write(tmp_path / "activations", **options)
    summary = round_trip(tmp_path / "activations", tmp_path / "store", expected, model=MODEL)
    assert summary.recipe == "clt"
    assert summary.detected
    assert summary.sites == ("mlp_in", "mlp_out")


def test_repeats_and_padding_are_counted(tmp_path: Path) -> None:
    layout.write_multi_target(tmp_path / "source", layers=5, batches=2, targets=3)
    summary = ingest(tmp_path / "source", tmp_path / "store", model=MODEL)
    # Layer L's output stands in min(L, 3) files: 1 + 2 + 3 + 3, four of them first.
    assert "MLP outputs in more than one file, compared and stored once: 10" in summary.notes
    # Of layer L's three targets, those past layer 4: 0 + 0 + 1 + 2 + 3.
    assert "zero targets past the last layer, left out: 12" in summary.notes


def test_a_zero_output_of_a_layer_that_exists_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "source/L0"
    folder.mkdir(parents=True)
    zeros = torch.zeros(1, 2, 4)
    torch.save({"x": zeros}, folder / "batch_0_x.pt")
    torch.save({"y": zeros}, folder / "batch_0_y.pt")
    (tmp_path / "source/L1").mkdir()
    torch.save({"x": zeros}, tmp_path / "source/L1/batch_0_x.pt")
    ingest(tmp_path / "source", tmp_path / "store", model=MODEL)
    found = [(row["site"], row["layer"]) for row in stored_rows(tmp_path / "store")]
    assert found == [("mlp_in", 0)] * 2 + [("mlp_in", 1)] * 2 + [("mlp_out", 1)] * 2


def test_another_value_for_the_same_output_is_a_conflict(tmp_path: Path) -> None:
    layout.write_multi_target(tmp_path / "source", layers=4, batches=2, targets=2)
    path = tmp_path / "source/L1/batch_0_y.pt"
    document = torch.load(path, weights_only=True)
    changed = document["targets"][0].clone()
    changed[0, 1, 3] += 1
    torch.save({**document, "y": changed, "targets": [changed, document["targets"][1]]}, path)
    summary = ingest(tmp_path / "source", tmp_path / "store", model=MODEL)
    assert [refusal.path for refusal in summary.refused] == ["L1/batch_0_y.pt"]
    assert "targets.0: the MLP output of layer 2 differs" in summary.refused[0].reason
    assert "L0/batch_0_y.pt#targets.1" in summary.refused[0].reason
    # What that file alone would have brought comes from the next one that holds it.
    sources = {row["source"] for row in stored_rows(tmp_path / "store") if row["layer"] == 3}
    assert "L2/batch_0_y.pt#targets.0" in sources


def test_what_a_refused_file_held_comes_from_the_next(tmp_path: Path) -> None:
    expected = layout.write_multi_target(tmp_path / "source", layers=4, batches=1, targets=2)
    path = tmp_path / "source/L0/batch_0_y.pt"
    document = torch.load(path, weights_only=True)
    bad = document["targets"][1].clone()
    bad[0, 0, 0] = torch.nan  # found only after the rows of targets[0] were handed on
    torch.save({**document, "targets": [document["targets"][0], bad]}, path)
    summary = ingest(tmp_path / "source", tmp_path / "store", model=MODEL)
    assert [refusal.path for refusal in summary.refused] == ["L0/batch_0_y.pt"]
    kept = [row for row in expected if (row["site"], row["layer"]) != ("mlp_out", 1)]
    for row in kept:
        if (row["site"], row["layer"]) == ("mlp_out", 2):
            row["source"] = "L1/batch_0_y.pt#targets.0"
    assert_rows(stored_rows(tmp_path / "store"), kept)


def test_queries_bring_questions_images_and_ids(tmp_path: Path) -> None:
    expected = layout.write_multi_target(tmp_path / "source", batch_size=2, batches=2)
    queries = layout.write_queries(tmp_path / "source/queries.json", 4, ids=True)
    for row in expected:
        query = queries[row["example_index"]]
        row["example_id"], row["question"] = str(query["id"]), query["query"]
    summary = round_trip(tmp_path / "source", tmp_path / "store", expected, model=MODEL)
    assert summary.unmatched == ()
    extra = json.loads(stored_rows(tmp_path / "store")[0]["extra"])
    assert extra == {"image": "AMBER_1.jpg"}


def test_queries_without_ids_keep_the_number(tmp_path: Path) -> None:
    expected = layout.write_multi_target(tmp_path / "source", batches=2)
    queries = layout.write_queries(tmp_path / "asked.json", 2)
    for row in expected:
        row["question"] = queries[row["example_index"]]["query"]
    sidecars = {"queries": tmp_path / "asked.json"}
    round_trip(tmp_path / "source", tmp_path / "store", expected, model=MODEL, sidecars=sidecars)


def test_queries_of_another_capture_are_refused(tmp_path: Path) -> None:
    layout.write_multi_target(tmp_path / "source", layers=2, batches=3, targets=1)
    layout.write_queries(tmp_path / "source/queries.json", 2)
    summary = ingest(tmp_path / "source", tmp_path / "store", model=MODEL)
    assert {Path(refusal.path).name for refusal in summary.refused} == {
        "batch_2_x.pt",
        "batch_2_y.pt",
    }
    assert "sample 2" in summary.refused[0].reason


def test_without_a_model_it_says_so_once(tmp_path: Path) -> None:
    layout.write_multi_target(tmp_path / "source")
    with pytest.raises(UsageError, match="name it with --model"):
        ingest(tmp_path / "source", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_pooled_over_the_prompt(tmp_path: Path) -> None:
    tokens = layout.write_multi_target(tmp_path / "source", batch_size=2, batches=2)
    ingest(tmp_path / "source", tmp_path / "store", model=MODEL, pool="last")
    rows = stored_rows(tmp_path / "store")
    last = {
        (row["site"], row["layer"], row["example_id"]): row["activation"].tobytes()
        for row in tokens
    }
    assert len(rows) == len(last)
    for row in rows:
        assert (row["pooling"], row["region"], row["position"]) == ("last", "prompt", None)
        key = (row["site"], row["layer"], row["example_id"])
        assert row["activation"].tobytes() == last[key]


def test_batches_of_several_samples_warn_of_padding(tmp_path: Path) -> None:
    layout.write_multi_target(tmp_path / "source", batch_size=2)
    summary = ingest(tmp_path / "source", tmp_path / "store", model=MODEL)
    assert any("padding is among the tokens" in note for note in summary.notes)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_only_the_first_samples(tmp_path: Path, batch_size: int) -> None:
    layout.write_multi_target(tmp_path / "source", batch_size=batch_size)
    ingest(tmp_path / "source", tmp_path / "store", model=MODEL, first_k=2)
    assert {row["example_index"] for row in stored_rows(tmp_path / "store")} == {0, 1}


def test_one_layer_may_be_the_source(tmp_path: Path) -> None:
    layout.write_multi_target(tmp_path / "source", layers=4, batches=2, targets=2)
    summary = ingest(tmp_path / "source/L2", tmp_path / "store", model=MODEL)
    assert summary.refused == ()
    found = {(row["site"], row["layer"]) for row in stored_rows(tmp_path / "store")}
    assert found == {("mlp_in", 2), ("mlp_out", 3)}


def test_what_the_training_saved_is_unmatched(tmp_path: Path) -> None:
    expected = layout.write_multi_target(tmp_path / "source/activations", layers=2, batches=1)
    others = layout.write_consumer_output(tmp_path / "source/transcoders")
    summary = ingest(tmp_path / "source", tmp_path / "store", model=MODEL)
    assert sorted(summary.unmatched) == sorted(f"transcoders/{name}" for name in others)
    assert summary.refused == ()
    assert summary.rows_written == len(expected)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"y": torch.ones(1, 3, 16)}, "differs from targets[0]"),
        ({"n_targets": 5}, "n_targets says 5"),
        ({"targets": []}, "no list of tensors"),
        ({"targets": [torch.ones(1, 3, 16)], "y": torch.ones(1, 3, 16)}, "n_targets says 2"),
        ({"y": "text"}, "no tensor under 'y'"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    layout.write_multi_target(tmp_path / "source", layers=3, batches=1, targets=2)
    path = tmp_path / "source/L1/batch_0_y.pt"
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    summary = ingest(tmp_path / "source", tmp_path / "store", model=MODEL)
    assert [refusal.path for refusal in summary.refused] == ["L1/batch_0_y.pt"]
    assert named in summary.refused[0].reason


def test_a_short_batch_among_whole_ones_is_refused(tmp_path: Path) -> None:
    layout.write_multi_target(tmp_path / "source", layers=1, batches=3, batch_size=2)
    path = tmp_path / "source/L0/batch_1_x.pt"
    short = torch.load(path, weights_only=True)["x"][:1]
    torch.save({"x": short}, path)
    summary = ingest(tmp_path / "source", tmp_path / "store", model=MODEL)
    assert [refusal.path for refusal in summary.refused] == ["L0/batch_1_x.pt"]
    assert "1 samples, others 2" in summary.refused[0].reason
