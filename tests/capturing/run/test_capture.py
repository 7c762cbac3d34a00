"""A capture as a whole: what it stores, what it refuses, what it reports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import actstore
from actstore.capturing.forward.engine import Engine
from actstore.errors import DiskSpaceError, ExampleError, ModelError, UsageError
from actstore.storage.snapshot import open_snapshot
from tests.capturing import families
from tests.capturing.pictures import picture

QUESTIONS: list[dict[str, Any]] = [
    {
        "id": f"q{number}",
        "question": "which is larger " + "1 2 3 " * (1 + number * 5 % 7),
        "oracle": "a",
        "task": ("larger", "smaller")[number % 2],
        "label": ("x", "y", None)[number % 3],
        "hint": number,
    }
    for number in range(12)
]


@pytest.fixture(scope="module")
def model() -> Any:
    return families.build("llama")


def capture(model: Any, store: Path, examples: Any = None, **options: Any) -> Any:
    return actstore.capture(
        model,
        options.pop("processor", None) or families.tokenizer(),
        QUESTIONS if examples is None else examples,
        store=store,
        **{"model_name": "tiny/llama", "self_check": False, "batch_size": 4, **options},
    )


def rows(store: Path, **where: Any) -> list[dict[str, Any]]:
    """Return the metadata of rows, in row order."""
    snapshot = open_snapshot(store)
    try:
        found: list[dict[str, Any]] = pq.read_table(snapshot.metadata_file()).to_pylist()
    finally:
        snapshot.close()
    return [row for row in found if all(row[name] == value for name, value in where.items())]


def run_of(store: Path) -> Any:
    snapshot = open_snapshot(store)
    try:
        return snapshot.manifest.runs[-1]
    finally:
        snapshot.close()


def test_rows_come_in_the_order_of_the_source_with_all_their_columns(
    tmp_path: Path, model: Any
) -> None:
    summary = capture(model, tmp_path / "s", dataset="numbers", layers="0,-1")
    assert (summary.rows, summary.examples, summary.layers) == (24, 12, (0, 2))
    found = rows(tmp_path / "s", layer=2)
    assert [row["example_id"] for row in found] == [each["id"] for each in QUESTIONS]
    first = found[0]
    assert first["dataset"] == "numbers"
    assert first["model"] == "tiny/llama"
    assert first["task"] == "larger"
    assert first["label"] == "x"
    assert first["oracle"] == "a"
    assert first["prediction"] is None
    assert (first["region"], first["pooling"], first["position"]) == ("prompt", "last", None)
    assert first["token_role"] == "special"  # the template's <|assistant|>
    assert json.loads(first["extra"]) == {"hint": 0}
    assert first["captured_at"] == run_of(tmp_path / "s").started_at


def test_the_vectors_are_those_of_unbatched_passes(tmp_path: Path, model: Any) -> None:
    capture(model, tmp_path / "s", layers="1", pool="prompt.last,prompt.mean", exclude="bos")
    matrix = actstore.open(tmp_path / "s").select(pooling="mean").numpy()
    last = actstore.open(tmp_path / "s").select(pooling="last").numpy()
    tokenizer = families.tokenizer()
    for number, each in enumerate(QUESTIONS):
        turns = [{"role": "user", "content": each["question"]}]
        ids = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            states = model(**ids, output_hidden_states=True).hidden_states[2][0]
        assert np.allclose(last[number], states[-1], rtol=1e-4, atol=1e-5)
        assert np.allclose(matrix[number], states[1:].mean(0), rtol=1e-4, atol=1e-5)


def test_token_rows_keep_position_id_and_role(tmp_path: Path, model: Any) -> None:
    capture(
        model, tmp_path / "s", QUESTIONS[:3], layers="last", pool="all.tokens", max_new_tokens=4
    )
    found = rows(tmp_path / "s", example_id="q1")
    assert [row["position"] for row in found] == list(range(len(found)))
    roles = [row["token_role"] for row in found]
    assert roles[0] == "bos"
    assert set(roles) <= {"bos", "special", "user", "generated"}
    tokenizer = families.tokenizer()
    asked = [row["token_id"] for row in found if row["token_role"] == "user"]
    assert tokenizer.decode(asked) == QUESTIONS[1]["question"].strip()
    said = [row["token_id"] for row in found if row["token_role"] == "generated"]
    assert found[0]["prediction"].startswith(tokenizer.decode(said, skip_special_tokens=True))


def test_answers_are_generated_graded_and_counted(tmp_path: Path, model: Any) -> None:
    summary = capture(
        model,
        tmp_path / "s",
        layers="last",
        pool="prompt.last,response.mean",
        max_new_tokens=6,
        grade="contains",
    )
    found = rows(tmp_path / "s", pooling="last")
    for row in found:
        hit = "a" in row["prediction"].split()
        assert row["label"] == (
            None if not row["prediction"] else "correct" if hit else "incorrect"
        )
    assert sum(summary.labels.values()) == sum(row["label"] is not None for row in found)
    assert summary.rows == 24 - summary.empty.get("response.mean", 0)
    settings = run_of(tmp_path / "s").settings
    assert settings["values"]["generation"]["max_new_tokens"] == 6
    assert settings["values"]["generation"]["do_sample"] is False
    assert settings["padding_side"] == "left"


def test_an_empty_response_has_no_row_and_is_counted(tmp_path: Path) -> None:
    model = families.build("llama")
    with torch.no_grad():
        model.lm_head.weight.zero_()
    model.generation_config.eos_token_id = 0  # of equal logits the first token wins: the end
    summary = capture(
        model, tmp_path / "s", pool="response.mean,prompt.last", layers="0", max_new_tokens=3
    )
    assert summary.empty == {"response.mean": 12}
    assert summary.empty_responses == 12
    assert summary.rows == 12
    assert {row["prediction"] for row in rows(tmp_path / "s")} == {""}


def test_an_example_too_long_is_refused_and_the_others_go_on(tmp_path: Path, model: Any) -> None:
    given = [*QUESTIONS[:3], {"id": "long", "question": "1 2 3 " * 200}, *QUESTIONS[3:]]
    summary = capture(model, tmp_path / "s", given, layers="last")
    assert summary.rows == 12
    (refused,) = summary.refused
    assert "long" in refused.example
    assert "the model takes 256" in refused.reason
    assert refused.example not in refused.reason
    assert run_of(tmp_path / "s").settings["progress"]["refused_count"] == 1
    with pytest.raises(ExampleError, match="the model takes 256"):
        capture(model, tmp_path / "t", given, layers="last", strict=True)


def test_a_question_that_the_prompt_does_not_hold_has_no_row_and_is_told(
    tmp_path: Path, model: Any
) -> None:
    given = [{"id": "none", "question": ""}, *QUESTIONS[:3]]
    summary = capture(model, tmp_path / "s", given, pool=["prompt.last", "question.last"])
    assert summary.empty == {"question.last": 1}
    assert any("does not stand in the prompt" in note for note in summary.notes)
    other = capture(model, tmp_path / "t", given, pool="prompt.last")
    assert not any("question" in note for note in other.notes)


def test_room_for_the_response_counts(tmp_path: Path, model: Any) -> None:
    summary = capture(model, tmp_path / "s", QUESTIONS[:1], max_new_tokens=300, layers="0")
    assert "to generate are more than the model's 256" in summary.refused[0].reason
    assert summary.examples == 0


def test_values_that_are_not_finite_are_refused_by_name_with_advice(tmp_path: Path) -> None:
    model = families.build("llama", dtype=torch.float16)
    unlucky = families.tokenizer().convert_tokens_to_ids("yes")
    with torch.no_grad():
        model.model.embed_tokens.weight[unlucky] = 1000.0
        model.model.layers[1].mlp.down_proj.weight.mul_(20)
        for layer in model.model.layers:
            layer.mlp.gate_proj.weight.mul_(4)
    model.model.layers[1].register_forward_hook(
        lambda module, args, output: torch.where(output.abs() > 900, output * 1000, output)
    )
    given = [*QUESTIONS[:2], {"id": "big", "question": "yes"}, QUESTIONS[2]]
    summary = capture(model, tmp_path / "s", given, layers="all", pool="prompt.tokens")
    assert ["big" in each.example for each in summary.refused].count(True) == 1
    (refused,) = [each for each in summary.refused if "big" in each.example]
    assert "NaN or infinity" in refused.reason
    assert "bfloat16" in refused.reason
    assert not rows(tmp_path / "s", example_id="big")
    with pytest.raises(ModelError, match="NaN or infinity"):
        capture(model, tmp_path / "t", given, layers="all", pool="prompt.tokens", strict=True)


def test_float16_storage_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    model = families.build("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(1e5)
    summary = capture(model, tmp_path / "s", layers="0", storage_dtype="float16")
    # In the order of the source, whatever order the batches had.
    named = [each.example for each in summary.refused]
    assert named == [f"example 'q{number}'" for number in range(12)]
    assert summary.rows == 0


@pytest.mark.parametrize(
    ("dtype", "storage", "expected"),
    [
        (torch.float16, None, {"last": "float16", "mean": "float32"}),
        (torch.bfloat16, None, {"last": "float32", "mean": "float32"}),
        (torch.float32, "float16", {"last": "float16", "mean": "float16"}),
        (torch.float16, "float32", {"last": "float32", "mean": "float32"}),
    ],
)
def test_stored_types(tmp_path: Path, dtype: Any, storage: Any, expected: Any) -> None:
    model = families.build("llama", dtype=dtype)
    capture(
        model, tmp_path / "s", layers="0", pool="prompt.last,prompt.mean", storage_dtype=storage
    )
    store = actstore.open(tmp_path / "s")
    for pooling, name in expected.items():
        assert store.select(pooling=pooling).numpy().dtype == name


def test_examples_may_come_from_anything_that_can_be_iterated(tmp_path: Path, model: Any) -> None:
    import datasets
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    def generated() -> Iterator[dict[str, Any]]:
        yield from QUESTIONS

    plain = [{"id": each["id"], "question": each["question"]} for each in QUESTIONS]
    given = {
        "generator": generated(),
        "dataset": datasets.Dataset.from_list(plain),
        "iterable": datasets.Dataset.from_list(plain).to_iterable_dataset(),
        "tuple": tuple(plain),
        "pandas": pd.DataFrame(plain, index=range(100, 100 + len(plain))),
        "polars": pl.DataFrame(plain),
        "arrow": pa.Table.from_pylist(plain),
    }
    for name, examples in given.items():
        summary = capture(model, tmp_path / name, examples, layers="last", first_k=5)
        assert summary.rows == 5, name
        table = actstore.open(tmp_path / name).select().table(["extra"])
        assert name == "generator" or table["extra"].null_count == 5, name
    found = [actstore.open(tmp_path / name).select().numpy() for name in given]
    assert all(np.array_equal(found[0], each) for each in found[1:])


def test_no_examples_and_no_example(tmp_path: Path, model: Any) -> None:
    with pytest.raises(ExampleError, match="no examples"):
        capture(model, tmp_path / "s", [])
    with pytest.raises(ExampleError, match="neither 'question' nor"):
        capture(model, tmp_path / "s", [{"id": 1}])
    with pytest.raises(ExampleError, match="is that of"):
        capture(model, tmp_path / "s", [QUESTIONS[0], QUESTIONS[0]])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"pool": "response.mean"}, "give max_new_tokens"),
        ({"grade": "exact"}, "give max_new_tokens"),
        ({"pool": "prompt.middle"}, "REGION.POOL"),
        ({"layers": "9"}, "layer 9 does not exist"),
        ({"sites": ""}, "no site"),
        ({"first_k": 0}, "at least 1"),
        ({"batch_size": 0}, "batch size"),
        ({"max_new_tokens": 2, "padding_side": "right"}, "pads on the left"),
        ({"model_name": ""}, "has no name"),
        ({"padding_side": "middle"}, "padding_side 'middle' is unknown"),
        ({"storage_dtype": "int4"}, "use one of None, float16, float32, compact16, int8"),
        ({"examples": "questions.jsonl"}, "examples: got str"),
        ({"examples": {"id": 1, "question": "?"}}, "examples: got dict"),
        ({"examples": 5}, "examples: got int"),
        ({"chat_template": "{% for %}"}, "the chat template, line 1"),
        ({"max_new_tokens": 2, "generation": {"do_sample": "maybe"}}, "true or false"),
        ({"max_new_tokens": 2, "generation": {"temperature": 2.0}}, "add do_sample=true"),
    ],
)
def test_options_that_cannot_work(tmp_path: Path, model: Any, options: Any, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        capture(model, tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_a_store_takes_several_models(tmp_path: Path, model: Any) -> None:
    capture(model, tmp_path / "s", layers="last")
    capture(families.build("gpt2"), tmp_path / "s", layers="last", model_name="tiny/gpt2")
    assert {row["model"] for row in rows(tmp_path / "s")} == {"tiny/llama", "tiny/gpt2"}


class Small:
    """Runs out of memory on batches of more than some tokens, as a device would."""

    def __init__(self, patch: pytest.MonkeyPatch, most: int) -> None:
        self.shapes: list[tuple[int, ...]] = []
        plain = Engine.inputs

        def inputs(engine: Engine, batch: Any) -> dict[str, Any]:
            shape = tuple(batch.inputs["input_ids"].shape)
            self.shapes.append(shape)
            if shape[0] * shape[1] > most:
                raise torch.OutOfMemoryError("out of memory")
            return plain(engine, batch)

        patch.setattr(Engine, "inputs", inputs)


def test_when_memory_runs_out_batches_are_halved(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = capture(model, tmp_path / "whole", batch_size="auto", layers="last")
    assert whole.batches == 1
    with monkeypatch.context() as patch:
        small = Small(patch, 100)
        summary = capture(model, tmp_path / "s", batch_size="auto", layers="last")
    assert summary.rows == 12
    assert summary.batches > 1
    assert summary.batch_tokens is not None
    assert len(small.shapes) < 2 * summary.batches + 3
    assert run_of(tmp_path / "s").settings["progress"]["batch_tokens"] == summary.batch_tokens
    one, two = (actstore.open(tmp_path / name).select().numpy() for name in ("whole", "s"))
    assert np.allclose(one, two, rtol=1e-4, atol=1e-5)
    with monkeypatch.context() as patch:
        Small(patch, 20)
        summary = capture(model, tmp_path / "t", batch_size="auto", layers="last")
        assert 0 < len(summary.refused) < 12
        assert "memory does not hold its" in summary.refused[0].reason
        with pytest.raises(ModelError, match=r"does not hold a batch of 4 examples.*auto"):
            capture(model, tmp_path / "u", batch_size=4, layers="last")


def test_a_dry_run_estimates_and_stores_nothing(tmp_path: Path, model: Any) -> None:
    summary = capture(model, tmp_path / "s", dry_run=True, pool="prompt.last,prompt.tokens")
    assert not (tmp_path / "s").exists()
    assert summary.estimate is not None
    real = capture(model, tmp_path / "s", pool="prompt.last,prompt.tokens")
    assert summary.estimate.examples == 12
    assert abs(summary.estimate.rows / real.rows - 1) < 0.3
    shards = sum(
        path.stat().st_size for path in (tmp_path / "s" / "activations").rglob("*.parquet")
    )
    assert 0.5 < summary.estimate.bytes / shards < 2
    assert summary.estimate.peak_memory > 0
    assert summary.as_dict()["estimate"]["minutes"] >= 0
    json.dumps(summary.as_dict())


class Endless(list[dict[str, Any]]):
    """Says that it holds more examples than any disk."""

    def __len__(self) -> int:
        return 10**15


def test_a_run_that_the_disk_cannot_hold_is_refused(tmp_path: Path, model: Any) -> None:
    for dry in (True, False):
        with pytest.raises(DiskSpaceError, match="are free; capture fewer"):
            capture(model, tmp_path / "s", Endless(QUESTIONS), dry_run=dry)
    assert not (tmp_path / "s").exists()


def test_progress_counts_up_to_the_total(tmp_path: Path, model: Any) -> None:
    seen: list[Any] = []
    capture(model, tmp_path / "s", layers="last", progress=seen.append)
    assert [each.examples for each in seen] == [4, 8, 12]
    assert {each.total for each in seen} == {12}
    assert seen[-1].tokens > seen[0].tokens


def test_the_model_is_left_as_it_was(tmp_path: Path, model: Any) -> None:
    capture(model, tmp_path / "s", layers="last", self_check=True, max_new_tokens=2)
    for module in model.modules():
        assert not [hook for hook in module._forward_hooks.values() if "actstore" in repr(hook)]
        assert not module._forward_pre_hooks


def test_questions_with_and_without_images_are_captured_together(tmp_path: Path) -> None:
    model, processor = families.build_vlm("internvl")  # whose processor takes no such batch
    plain = {"id": "plain", "question": "what is 1 ?"}
    examples = [plain, {**plain, "id": "seen", "image": picture(tmp_path, "sky.png")}]
    done = actstore.capture(model, processor, examples, store=tmp_path / "s", model_name="m")  # type: ignore[arg-type]
    assert (done.examples, done.refused) == (2, ())
    assert done.self_check is not None
