"""Contrastive caches: stacked and individual files, validation, counts that must agree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actstore.ingestion.run import ingest
from tests.ingestion.storing import Row, assert_rows, round_trip, stored_rows
from tests.layouts import contrastive as layout

MODEL = "meta-llama/Llama-3.3-70B-Instruct"
Write = Callable[..., list[Row]]


@pytest.mark.parametrize(
    ("write", "options"),
    [
        (layout.write_stacked, {}),
        (layout.write_stacked, {"token_axis": False}),
        (layout.write_stacked, {"dtype": torch.float16}),
        (layout.write_stacked, {"dtype": torch.float32}),
        (layout.write_individual, {}),
        (layout.write_individual, {"batch_axis": False}),
        (layout.write_individual, {"tokens": 1}),
        (layout.write_individual, {"tokens": 1, "batch_axis": False}),
        (layout.write_validation_stacked, {}),
        (layout.write_validation_individual, {}),
        (layout.write_validation_individual, {"batch_axis": False}),
    ],
)
def test_round_trip(tmp_path: Path, write: Write, options: dict[str, Any]) -> None:
    expected = write(tmp_path / "cache", **options)
    summary = round_trip(tmp_path / "cache", tmp_path / "store", expected, model=MODEL)
    assert summary.recipe == "contrastive"
    assert summary.detected
    assert summary.unmatched == ()
    assert any("is assumed" in note and "--site" in note for note in summary.notes)


def test_validation_through_the_training_script_gets_types_by_index(tmp_path: Path) -> None:
    expected = layout.write_validation_through_training(tmp_path / "project")
    assert {row["label"] for row in expected} == {"testing", "deployment"}
    round_trip(tmp_path / "project", tmp_path / "store", expected, model=MODEL)


def test_types_of_other_data_are_not_taken(tmp_path: Path) -> None:
    expected = layout.write_stacked(tmp_path / "project/cache")
    layout.write_validation_dataset(tmp_path / "project", 6)
    ingest(tmp_path / "project/cache", tmp_path / "store", model=MODEL)
    assert_rows(stored_rows(tmp_path / "store"), expected)
    named = ingest(
        tmp_path / "project/cache",
        tmp_path / "other",
        model=MODEL,
        sidecars={"dataset": tmp_path / "project/datasets/validation_real.json"},
    )
    assert len(named.refused) == 4
    assert "another question" in named.refused[0].reason


def test_whole_questions_come_from_the_data_set(tmp_path: Path) -> None:
    layout.write_validation_stacked(tmp_path / "project/cache", layers=(10,))
    entries = layout.write_validation_dataset(tmp_path / "project", 6)
    ingest(tmp_path / "project", tmp_path / "store", model=MODEL)
    rows = stored_rows(tmp_path / "store")
    assert [row["question"] for row in rows] == [entry["question"] for entry in entries]
    assert [row["label"] for row in rows] == [entry["type"] for entry in entries]


def test_the_answer_of_each_side_is_kept(tmp_path: Path) -> None:
    layout.write_stacked(tmp_path / "cache", layers=(10,))
    ingest(tmp_path / "cache", tmp_path / "store", model=MODEL)
    answers = {
        (row["example_id"], row["variant"]): json.loads(row["extra"])
        for row in stored_rows(tmp_path / "store")
    }
    assert answers["0", "test"] == {"answer": "(A)", "token_type": "A"}
    assert answers["0", "deploy"] == {"answer": "(B)", "token_type": "B"}
    assert answers["1", "test"] == {"answer": "(B)", "token_type": "B"}


@pytest.mark.parametrize("pool", ["last", "first", "mean", "max"])
def test_sequences_may_be_pooled(tmp_path: Path, pool: Any) -> None:
    tokens = layout.write_individual(tmp_path / "cache", layers=(10,), examples=3)
    ingest(tmp_path / "cache", tmp_path / "store", model=MODEL, pool=pool)
    rows = stored_rows(tmp_path / "store")
    assert len(rows) == 6
    for row in rows:
        own = [
            token["activation"]
            for token in tokens
            if (token["example_id"], token["variant"]) == (row["example_id"], row["variant"])
        ]
        assert (row["pooling"], row["region"], row["position"]) == (pool, "all", None)
        assert row["token_count"] == len(own)
        whole = np.stack(own)
        wanted = {
            "last": whole[-1],
            "first": whole[0],
            "mean": whole.mean(axis=0, dtype=np.float32),
            "max": whole.max(axis=0),
        }[pool]
        assert row["activation"].tobytes() == wanted.tobytes()


def test_one_token_among_sequences_is_a_token(tmp_path: Path) -> None:
    layout.write_individual(tmp_path / "cache", layers=(10,), examples=3)
    torch.save(torch.ones(1, 1, 16, dtype=torch.bfloat16), tmp_path / "cache/layer_10/test/1.pt")
    ingest(tmp_path / "cache", tmp_path / "store", model=MODEL)
    rows = stored_rows(tmp_path / "store")
    own = [row for row in rows if row["source"] == "layer_10/test/1.pt"]
    assert [(row["pooling"], row["position"]) for row in own] == [("none", 0)]


def test_site_and_first_examples(tmp_path: Path) -> None:
    writers: list[Write] = [layout.write_stacked, layout.write_individual]
    for number, write in enumerate(writers):
        write(tmp_path / f"cache{number}")
        store = tmp_path / f"store{number}"
        ingest(
            tmp_path / f"cache{number}",
            store,
            model=MODEL,
            site="hook_resid_post",
            first_k=2,
            pool="last",
        )
        rows = stored_rows(store)
        assert {row["site"] for row in rows} == {"resid_post"}
        assert [(row["layer"], row["variant"], row["example_index"]) for row in rows] == [
            (layer, side, index)
            for layer in (10, 20)
            for side in ("test", "deploy")
            for index in (0, 1)
        ]


def test_missing_files_are_refused_and_left_over_ones_unmatched(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = layout.write_individual(cache)
    (cache / "layer_10/test/3.pt").unlink()
    (cache / "layer_20/deploy/0.pt").unlink()
    shutil.copy(cache / "layer_10/test/2.pt", cache / "layer_10/test/12.pt")
    summary = ingest(tmp_path, tmp_path / "store", model=MODEL)
    gone = ("cache/layer_10/test/3.pt", "cache/layer_20/deploy/0.pt")
    assert tuple(refusal.path for refusal in summary.refused) == gone
    assert "12 examples" in summary.refused[0].reason
    assert summary.unmatched == ("cache/layer_10/test/12.pt",)
    for row in expected:
        row["source"] = f"cache/{row['source']}"
    assert_rows(
        stored_rows(tmp_path / "store"), [row for row in expected if row["source"] not in gone]
    )


def test_files_of_an_earlier_form_are_left_over(tmp_path: Path) -> None:
    layout.write_stacked(tmp_path / "cache", layers=(10,))
    expected = layout.write_individual(tmp_path / "cache", layers=(10,), examples=3)
    summary = ingest(tmp_path / "cache", tmp_path / "store", model=MODEL)
    assert_rows(stored_rows(tmp_path / "store"), expected)
    assert summary.unmatched == (
        "layer_10/deploy_activations.pt",
        "layer_10/test_activations.pt",
    )


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("metadata.json", lambda entries: entries[:-1], "metadata.json 5"),
        ("layer_info.json", lambda info: {**info, "num_examples": 7}, "layer_info.json 7"),
        ("layer_info.json", lambda info: {**info, "activation_shape": [1, 8]}, "says 8"),
        ("metadata.json", lambda entries: [{**e, "idx": e["idx"] + 1} for e in entries], "idx 0"),
    ],
)
def test_numbers_that_disagree_are_refused(
    tmp_path: Path, name: str, change: Callable[[Any], Any], named: str
) -> None:
    layout.write_stacked(tmp_path / "cache")
    path = tmp_path / "cache" / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    summary = ingest(tmp_path / "cache", tmp_path / "store", model=MODEL)
    assert summary.rows_written == 0
    assert len(summary.refused) == 4
    assert all(named in refusal.reason for refusal in summary.refused)


def test_a_broken_table_refuses_its_own_cache_only(tmp_path: Path) -> None:
    layout.write_individual(tmp_path / "caches/a", layers=(10,), examples=2)
    layout.write_individual(tmp_path / "caches/b", layers=(10,), examples=2)
    (tmp_path / "caches/a/layer_info.json").write_text("{")
    summary = ingest(tmp_path / "caches", tmp_path / "store", model=MODEL)
    assert {refusal.path.split("/")[0] for refusal in summary.refused} == {"a"}
    assert {row["dataset"] for row in stored_rows(tmp_path / "store")} == {"b"}


@pytest.mark.parametrize(
    ("document", "named"),
    [
        (torch.ones(6, 2, 16), "batch axis"),
        ({"faithful": torch.ones(6, 16)}, "bare tensor"),
        (torch.ones(6), "expected"),
        (torch.full((6, 1, 16), torch.nan), "NaN"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, document: Any, named: str) -> None:
    layout.write_stacked(tmp_path / "cache")
    torch.save(document, tmp_path / "cache/layer_20/test_activations.pt")
    summary = ingest(tmp_path / "cache", tmp_path / "store", model=MODEL)
    assert summary.files_read == 3
    assert [refusal.path for refusal in summary.refused] == ["layer_20/test_activations.pt"]
    assert named in summary.refused[0].reason


def test_several_caches_become_data_sets_and_vectors_are_unmatched(tmp_path: Path) -> None:
    caches = tmp_path / "project/activations_cache"
    pairs = layout.write_stacked(caches / "llama70b_contrastive")
    validation = layout.write_validation_stacked(caches / "llama70b_validation")
    vectors = layout.write_vectors(tmp_path / "project")
    summary = ingest(tmp_path / "project", tmp_path / "store", model=MODEL)
    assert summary.refused == ()
    named = {"llama70b_contrastive": len(pairs), "llama70b_validation": len(validation)}
    assert summary.datasets == named
    information = vectors[0].split("/")[0] + "/experiment_info.txt"
    assert set(summary.unmatched) == {*vectors, information}
    labels = {row["label"] for row in stored_rows(tmp_path / "store")}
    assert labels == {"test", "deploy", "testing", "deployment"}


def test_without_metadata_rows_are_numbered(tmp_path: Path) -> None:
    expected = layout.write_stacked(tmp_path / "cache")
    (tmp_path / "cache/metadata.json").unlink()
    summary = ingest(tmp_path / "cache", tmp_path / "store", model=MODEL)
    for row in expected:
        row["question"] = None
    assert_rows(stored_rows(tmp_path / "store"), expected)
    assert any("no metadata.json" in note for note in summary.notes)


def test_a_layer_folder_may_be_the_source(tmp_path: Path) -> None:
    expected = layout.write_individual(tmp_path / "cache")
    ingest(
        tmp_path / "cache/layer_20",
        tmp_path / "store",
        model=MODEL,
        allow_parent=[tmp_path / "cache"],
    )
    below = [row for row in expected if row["layer"] == 20]
    for row in below:
        row["source"] = row["source"].removeprefix("layer_20/")
    assert_rows(stored_rows(tmp_path / "store"), below)
