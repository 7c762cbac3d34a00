"""SpatialEval caches: ranks, ids, views, folders as names, answers joined by id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from actstore.errors import UsageError
from actstore.ingestion.run import ingest
from tests.ingestion.storing import Row, assert_rows, round_trip, stored_rows
from tests.layouts import spatialeval as layout


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("ids", ["hub", "document"])
def test_round_trip(tmp_path: Path, rank: Any, ids: Any) -> None:
    expected = layout.write_cache(tmp_path / "cache", rank=rank, ids=ids, kinds=1)
    summary = round_trip(tmp_path / "cache", tmp_path / "store", expected)
    assert summary.recipe == "spatialeval"
    assert summary.detected
    assert summary.unmatched_count == 0
    assert summary.layers == (None,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_views_over_larger_storages_are_read_through_the_tensor(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    cache = tmp_path / "cache"
    expected = layout.write_cache(cache, view=True, model_dtype=dtype, width=512)
    assert min(path.stat().st_size for path in cache.rglob("*.pt")) > 7 * 512 * 4
    summary = round_trip(cache, tmp_path / "store", expected)
    assert summary.bytes == len(expected) * 512 * 4


@pytest.mark.parametrize(
    "inside",
    [
        "outputs",
        "outputs/residual_stream",
        "outputs/residual_stream/MilaWang__SpatialEval",
        "outputs/residual_stream/MilaWang__SpatialEval/meta-llama__Meta-Llama-3-8B-Instruct",
        "outputs/residual_stream/MilaWang__SpatialEval/meta-llama__Meta-Llama-3-8B-Instruct/tqa",
        "outputs/residual_stream/MilaWang__SpatialEval/meta-llama__Meta-Llama-3-8B-Instruct/tqa/"
        "mazenav",
    ],
)
def test_source_may_lie_at_any_depth(tmp_path: Path, inside: str) -> None:
    expected = layout.write_cache(tmp_path / "outputs/residual_stream")
    ingest(tmp_path / inside, tmp_path / "store")
    prefix = "outputs/residual_stream/"
    kept = [row for row in expected if (prefix + row["source"]).startswith(inside + "/")]
    assert kept
    for row in kept:
        row["source"] = (prefix + row["source"]).removeprefix(inside + "/")
    assert_rows(stored_rows(tmp_path / "store"), kept)


def test_a_task_folder_alone_needs_the_model(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = layout.write_cache(cache, modes=["vqa"], tasks=["mazenav"])
    folder = next(cache.rglob("mazenav"))
    moved = folder.rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="--model"):
        ingest(moved, tmp_path / "store")
    ingest(moved, tmp_path / "store", model="org/model")
    for row in expected:
        row["source"] = row["source"].rsplit("/", 1)[-1]
        row["model"], row["dataset"] = "org/model", None
    assert_rows(stored_rows(tmp_path / "store"), expected)


def test_several_models_in_one_store(tmp_path: Path) -> None:
    expected = layout.write_cache(tmp_path / "cache", width=16)
    expected += layout.write_cache(tmp_path / "cache", model="qwen/Qwen-7B", width=24, seed=1)
    summary = ingest(tmp_path / "cache", tmp_path / "store")
    assert summary.widths == (16, 24)
    expected.sort(key=lambda row: row["model"])
    assert_rows(stored_rows(tmp_path / "store"), expected)


def test_answers_are_joined_by_id(tmp_path: Path) -> None:
    rows = layout.write_cache(tmp_path / "out/residual_stream")
    lines = layout.write_answers(tmp_path / "out", rows)
    summary = ingest(tmp_path / "out", tmp_path / "store")
    assert _extra(tmp_path / "store") == {
        row["example_id"]: {
            "prompt": lines[row["example_id"]]["prompt"],
            "oracle_option": "A",
            "oracle_full_answer": lines[row["example_id"]]["oracle_full_answer"],
        }
        for row in rows
    }
    assert summary.unmatched_count == 0
    assert any("joined 16 of 16" in note for note in summary.notes)


def test_answers_of_another_prompt_style_are_not_joined(tmp_path: Path) -> None:
    rows = layout.write_cache(tmp_path / "out/residual_stream")
    layout.write_answers(tmp_path / "out", rows, style="w_reason", changed="Because.")
    ingest(tmp_path / "out/residual_stream", tmp_path / "store")
    assert set(_extra(tmp_path / "store").values()) == {None}


def test_the_style_whose_answers_were_cached_is_joined(tmp_path: Path) -> None:
    rows = layout.write_cache(tmp_path / "out/residual_stream")
    layout.write_answers(tmp_path / "out", rows, style="w_reason", changed="Because.")
    layout.write_answers(tmp_path / "out", rows, style="bare", one_file=True)
    ingest(tmp_path / "out/residual_stream", tmp_path / "store", allow_parent=tmp_path / "out")
    assert all(
        extra["prompt"].startswith("[bare]") for extra in _extra(tmp_path / "store").values()
    )


def test_the_same_answer_to_two_prompts_is_ambiguous(tmp_path: Path) -> None:
    rows = layout.write_cache(tmp_path / "out/residual_stream")
    layout.write_answers(tmp_path / "out", rows, style="w_reason")
    layout.write_answers(tmp_path / "out", rows, style="bare")
    ingest(tmp_path / "out", tmp_path / "store")
    assert set(_extra(tmp_path / "store").values()) == {None}


def test_answers_of_a_model_with_a_longer_name_are_not_taken(tmp_path: Path) -> None:
    rows = layout.write_cache(tmp_path / "out/residual_stream", model="org/Llama-3-8B")
    others = [row | {"model": "org/Llama-3-8B-Instruct"} for row in rows]
    layout.write_answers(tmp_path / "out", others)
    ingest(tmp_path / "out", tmp_path / "store")
    assert set(_extra(tmp_path / "store").values()) == {None}


def test_evaluations_carry_no_ids_and_that_is_said(tmp_path: Path) -> None:
    rows = layout.write_cache(tmp_path / "out/residual_stream")
    written = layout.write_evaluation(tmp_path / "out", rows)
    summary = ingest(tmp_path / "out", tmp_path / "store")
    names = {path.relative_to(tmp_path / "out").as_posix() for path in written}
    assert set(summary.unmatched) == names
    assert any("carry no ids" in note for note in summary.notes)
    assert not any(row["label"] for row in stored_rows(tmp_path / "store"))


def test_a_width_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    layout.write_cache(tmp_path / "cache", width=16)
    victim = sorted(tmp_path.rglob("*.pt"))[3]
    document = torch.load(victim, weights_only=True)
    torch.save({**document, "hidden_size": 4096}, victim)
    summary = ingest(tmp_path / "cache", tmp_path / "store")
    assert [refusal.path for refusal in summary.refused] == [
        victim.relative_to(tmp_path / "cache").as_posix()
    ]
    assert "16" in summary.refused[0].reason
    assert "4096" in summary.refused[0].reason
    assert summary.rows_written == 15


def test_other_tensors_in_the_project_are_unmatched(tmp_path: Path) -> None:
    expected = layout.write_cache(tmp_path / "cache")
    torch.save({"weights": torch.ones(3, 3)}, tmp_path / "cache/probe.pt")
    summary = ingest(tmp_path / "cache", tmp_path / "store")
    assert summary.unmatched == ("probe.pt",)
    assert not summary.refused
    assert summary.rows_written == len(expected)


def test_first_k_takes_the_first_of_each_task(tmp_path: Path) -> None:
    layout.write_cache(tmp_path / "cache", questions=5, kinds=2)
    summary = ingest(tmp_path / "cache", tmp_path / "store", first_k=3)
    assert summary.rows_written == 2 * 2 * 3


def _extra(store: Path) -> dict[str, Any]:
    rows: list[Row] = stored_rows(store)
    return {row["example_id"]: row["extra"] and json.loads(row["extra"]) for row in rows}
