"""Rows captured again: equal where nothing changed, outside where weights, prompts or rows did."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actstore
from actstore.capturing.prompts.example import Example
from actstore.capturing.recompute import captured_runs, recompute, run_attention
from actstore.errors import DamageError, NotInStoreError, UsageError
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Run
from actstore.storage.rows import RowBatch
from actstore.storage.snapshot import open_snapshot
from actstore.storage.writer import StoreWriter
from tests.capturing import families
from tests.storage.undoing import flip

NAME = "tiny/llama"
QUESTIONS = [
    {"id": f"q{number}", "question": f"which is larger : {number} or 5 ?", "oracle": "5"}
    for number in range(8)
]


@pytest.fixture(scope="module")
def model() -> Any:
    return families.build("llama")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return families.tokenizer()


def captured(
    model: Any, tokenizer: Any, store: Path, *, examples: Any = QUESTIONS, **options: Any
) -> Path:
    actstore.capture(
        model, tokenizer, examples, store=store, model_name=NAME, self_check=False, **options
    )
    return store


def again(store: Path, model: Any, tokenizer: Any, count: int = 12, **options: Any) -> Any:
    snapshot = open_snapshot(store)
    try:
        return recompute(snapshot, count, model=model, processor=tokenizer, **options)
    finally:
        snapshot.close()


@pytest.mark.parametrize(
    "options",
    [
        {"pool": "prompt.last,prompt.mean,question.last,prompt.tokens", "batch_size": 3},
        {
            "pool": "prompt.last",
            "examples": [{**each, "extra": {"answer": ["5"]}} for each in QUESTIONS],
        },
        {"pool": "prompt.last,response.mean,all.max", "max_new_tokens": 5, "batch_size": "auto"},
        {"sites": "embeddings,mlp_out,final_norm", "chat_template": False, "system": None},
        {"storage_dtype": "float16", "system": "be brief", "exclude": ["bos", "special"]},
        {"storage_dtype": "int8"},
    ],
    ids=["prompt", "column", "response", "sites", "half", "int8"],
)
def test_what_was_captured_is_found_again(
    model: Any, tokenizer: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    store = captured(model, tokenizer, tmp_path / "s", dataset="larger", **options)
    done = again(store, model, tokenizer)
    assert len(done.rows) == 12
    assert done.outside == []
    assert done.differences == ()
    assert done.largest is not None
    assert done.largest < 2e-3
    assert {row.example_id for row in done.rows} <= {each["id"] for each in QUESTIONS}
    assert again(store, model, tokenizer).rows == done.rows
    assert len(again(store, model, tokenizer, count=10_000).rows) == actstore.open(store).rows


def test_heads_and_patterns_are_found_again_at_their_length(tokenizer: Any, tmp_path: Path) -> None:
    model = families.build("llama", attn="eager")
    sites = {"sites": "attn_pattern,head_out", "pool": "prompt.last,prompt.tokens"}
    store = captured(model, tokenizer, tmp_path / "s", **sites, pattern_length=40)
    (run,) = open_snapshot(store).manifest.runs
    assert run_attention([run]) == "eager"
    done = again(store, model, tokenizer, count=40)
    assert done.outside == []
    assert done.differences == ()


def test_other_weights_are_outside_and_named(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    store = captured(model, tokenizer, tmp_path / "s")
    other = families.build("llama", seed=1)
    done = again(store, other, tokenizer)
    assert len(done.outside) == 12
    assert any(text.startswith("weights_sha256") for text in done.differences)
    loose = again(store, other, tokenizer, tolerance=1e9)
    assert loose.outside == []


def test_a_row_that_is_not_the_model_s_is_found(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    store = captured(model, tokenizer, tmp_path / "s", layers=1)
    opened = open_snapshot(store)
    (run,) = opened.manifest.runs
    planted = Run(**dataclasses.asdict(run))
    with StoreWriter(store, run=planted) as writer:
        writer.add(
            RowBatch(
                vectors=np.ones((1, families.WIDTH), np.float32),
                constants={
                    "example_id": "planted",
                    "question": "which is larger : 1 or 5 ?",
                    "model": NAME,
                    "site": "resid_post",
                    "layer": 1,
                    "pooling": "last",
                    "region": "prompt",
                },
            )
        )
        writer.commit(operation="capture", message="planted")
    done = again(store, model, tokenizer, count=100)
    assert [row.example_id for row in done.outside] == ["planted"]


@pytest.mark.parametrize("from_end", [None, 2000], ids=["vectors", "metadata"])
def test_damage_is_named_and_never_compared(
    model: Any, tokenizer: Any, tmp_path: Path, from_end: int | None
) -> None:
    """It would look like a row that the model does not compute."""
    store = captured(model, tokenizer, tmp_path / "s", layers=1)
    (entry,) = manifests.latest(store).shards
    flip(store / entry.path, entry.pages[0][0] + 5 if from_end is None else entry.bytes - from_end)
    with pytest.raises(DamageError) as found:
        again(store, model, tokenizer, count=100)
    assert [path for path, _ in found.value.problems] == [entry.path]


def test_a_changed_answer_is_told(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    store = captured(model, tokenizer, tmp_path / "s", pool="response.last", max_new_tokens=4)
    done = again(store, families.build("llama", seed=3), tokenizer, count=50)
    reasons = {row.reason for row in done.outside}
    assert "the model answers otherwise now" in reasons


def test_drawn_responses_are_left_out(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    store = captured(
        model,
        tokenizer,
        tmp_path / "s",
        pool="prompt.last,response.mean",
        max_new_tokens=4,
        generation={"do_sample": True},
    )
    done = again(store, model, tokenizer, count=100)
    assert done.outside == []
    skipped = [row for row in done.rows if row.skipped]
    assert {row.pool for row in skipped} == {"response.mean"}
    assert {row.reason for row in skipped} == {"the response was drawn at random"}


def test_questions_come_from_the_data_where_rows_lack_them(
    model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    talks: list[dict[str, Any]] = [
        {"id": f"m{number}", "messages": [{"role": "user", "content": f"what is {number} ?"}]}
        for number in range(3)
    ]
    actstore.capture(
        model, tokenizer, talks, store=tmp_path / "s", model_name=NAME, self_check=False
    )
    with pytest.raises(UsageError, match="the conversation: give the questions with --data"):
        again(tmp_path / "s", model, tokenizer)
    examples = [Example(id=each["id"], messages=tuple(each["messages"])) for each in talks]
    assert again(tmp_path / "s", model, tokenizer, count=99, examples=examples).outside == []
    fewer = again(tmp_path / "s", model, tokenizer, count=99, examples=examples[:1])
    assert fewer.outside == []
    assert sum(row.skipped for row in fewer.rows) == 6


def test_a_model_in_another_type(tokenizer: Any, model: Any, tmp_path: Path) -> None:
    store = captured(model, tokenizer, tmp_path / "s")
    half = families.build("llama", dtype=torch.bfloat16)
    with pytest.raises(NotInStoreError, match="computed in float32, the model computes in bfl"):
        again(store, half, tokenizer)
    captured(half, tokenizer, tmp_path / "half", pool="prompt.mean", batch_size=3)
    done = again(tmp_path / "half", half, tokenizer)
    assert done.outside == []
    assert {row.tolerance for row in done.rows} == {5e-2}


def test_stores_without_captures(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    store = actstore.open(tmp_path / "s", create=True)
    store.write({("resid_post", 0): np.ones((1, 4), "f4")}, {"id": "a"}, model=NAME)
    with pytest.raises(NotInStoreError, match="no rows of `actstore capture`"):
        again(tmp_path / "s", model, tokenizer)
    captured(model, tokenizer, tmp_path / "t")
    actstore.capture(
        model, tokenizer, QUESTIONS, store=tmp_path / "t", model_name="b", self_check=False
    )
    snapshot = open_snapshot(tmp_path / "t")
    with pytest.raises(NotInStoreError, match="captures of b, tiny/llama: say which"):
        captured_runs(snapshot, "c")
    assert [run.settings["model"] for run in captured_runs(snapshot, "b")] == ["b"]
