"""Recording in one's own loop: any call, batches, several calls, errors, what is set afterwards."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actstore
from actstore.errors import ConflictError, ExampleError, HookError, ModelError, UsageError
from actstore.storage.snapshot import open_snapshot
from tests.capturing import families
from tests.ingestion.storing import stored_rows
from tests.storage.stores import assert_sound

NAME = "tiny/llama"


@pytest.fixture(scope="module")
def model() -> Any:
    return families.build("llama")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return families.tokenizer()


def block_outputs(model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> np.ndarray:
    """Return what the blocks put out, ``[blocks, T, width]``, of one prompt alone."""
    seen: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(lambda _, __, out: seen.append(out[0].detach().clone()))
        for block in model.model.layers
    ]
    with torch.no_grad():
        model.model(input_ids=ids.reshape(1, -1), use_cache=False)
    for handle in handles:
        handle.remove()
    found: np.ndarray = torch.stack(seen).numpy()
    return found


def rows(store: Path, **equals: Any) -> list[dict[str, Any]]:
    return [
        row
        for row in stored_rows(store)
        if all(row[name] == value for name, value in equals.items())
    ]


def test_a_forward_call(model: Any, tmp_path: Path) -> None:
    ids = torch.tensor([[1, 20, 21, 22]])
    with actstore.record(model, tmp_path / "s", model_name=NAME, dataset="mine") as rec:
        with rec.example(id="a", question="What?", task="t", score=1.5), torch.no_grad():
            model(input_ids=ids)
        assert rec.last is not None
        assert rec.last.ids == ["a"]
    expected = block_outputs(model, ids)
    found = rows(tmp_path / "s")
    assert [row["layer"] for row in found] == [0, 1, 2]
    for row in found:
        np.testing.assert_allclose(row["activation"], expected[row["layer"], -1], rtol=1e-5)
        assert (row["example_id"], row["question"], row["task"]) == ("a", "What?", "t")
        assert (row["pooling"], row["region"], row["token_id"]) == ("last", "prompt", 22)
        assert (row["model"], row["dataset"], row["extra"]) == (NAME, "mine", '{"score": 1.5}')
        assert row["prediction"] is None
    assert rec.summary is not None
    assert (rec.summary.examples, rec.summary.rows_written, rec.summary.commit) == (1, 3, 1)
    (run,) = open_snapshot(tmp_path / "s").manifest.runs
    assert run.kind == "record"
    assert run.settings["hooks"] == {"resid_post": ["model.layers.{layer} (output)"]}
    assert run.settings["progress"] == {"examples": 1, "generated": False, "rows": 3}
    assert_sound(tmp_path / "s")


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch(model: Any, tmp_path: Path, side: str) -> None:
    prompts = [[1, 20, 21], [1, 30, 31, 32, 33]]
    ids, mask = torch.zeros((2, 5), dtype=torch.long), torch.zeros((2, 5), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        place = slice(5 - len(prompt), 5) if side == "left" else slice(0, len(prompt))
        ids[row, place], mask[row, place] = torch.tensor(prompt), 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    pools = ["prompt.last", "prompt.mean", "all.max"]
    with actstore.record(model, tmp_path / "s", layers=1, pool=pools, model_name=NAME) as rec:
        given: dict[str, Any] = {"label": ["yes", None], "split": "train"}
        with rec.example(["a", "b"], **given), torch.no_grad():
            model(input_ids=ids, attention_mask=mask, position_ids=positions)
    for name, label, prompt in (("a", "yes", prompts[0]), ("b", None, prompts[1])):
        states = block_outputs(model, torch.tensor(prompt))[1]
        # The beginning of the text is no part of means and maxima.
        expected = [states[-1], states[1:].mean(axis=0), states[1:].max(axis=0)]
        found = rows(tmp_path / "s", example_id=name)
        for each, vector in zip(found, expected, strict=True):
            np.testing.assert_allclose(each["activation"], vector, rtol=1e-4, atol=1e-5)
            assert (each["label"], each["split"]) == (label, "train")


@pytest.mark.parametrize("shared", [False, True], ids=["positional", "after-a-cache"])
def test_pads_are_told_wherever_the_mask_stands(model: Any, tmp_path: Path, shared: bool) -> None:
    before = [1, 40, 41] if shared else []
    prompts = [[20, 21], [30, 31, 32, 33]]
    ids, mask = torch.zeros((2, 4), dtype=torch.long), torch.zeros((2, 4), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)], mask[row, : len(prompt)] = torch.tensor(prompt), 1
    pools = "prompt.last,prompt.mean"
    with (
        torch.no_grad(),
        actstore.record(model, tmp_path / "s", layers=1, pool=pools, model_name=NAME) as rec,
    ):
        if shared:  # a beginning that all texts have in common is read once
            beginning = torch.tensor([before] * 2)
            cache = model(beginning, use_cache=True).past_key_values
            with rec.example(["a", "b"]):
                whole = torch.cat([torch.ones_like(beginning), mask], dim=1)
                model(ids, attention_mask=whole, past_key_values=cache)
        else:
            with rec.example(["a", "b"]):
                model(ids, mask)
    for name, prompt in zip("ab", prompts, strict=True):
        states = block_outputs(model, torch.tensor(before + prompt))[1][len(before) :]
        last, mean = rows(tmp_path / "s", example_id=name)
        np.testing.assert_allclose(last["activation"], states[-1], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(mean["activation"], states.mean(axis=0), rtol=1e-4, atol=1e-5)
        assert mean["token_count"] == len(prompt)


def test_one_token_after_a_copy_of_a_cache_is_a_call_of_its_own(model: Any, tmp_path: Path) -> None:
    question, answers = [1, 20, 21, 22], [30, 31]
    with (
        torch.no_grad(),
        actstore.record(model, tmp_path / "s", layers=1, model_name=NAME) as rec,
    ):
        cache = model(torch.tensor([question]), use_cache=True).past_key_values
        with rec.example("a"):
            for answer in answers:
                model(torch.tensor([[answer]]), past_key_values=copy.deepcopy(cache))
    for row, answer in zip(rows(tmp_path / "s"), answers, strict=True):
        states = block_outputs(model, torch.tensor([*question, answer]))[1]
        np.testing.assert_allclose(row["activation"], states[-1], rtol=1e-4, atol=1e-5)


def test_a_generation(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    inputs = tokenizer("which is larger : 3 or 5 ?", return_tensors="pt")
    pools = "prompt.last,response.mean,response.tokens,prompt.tokens"
    with (
        actstore.record(
            model, tmp_path / "s", layers="last", pool=pools, model_name=NAME, processor=tokenizer
        ) as rec,
        rec.example("a", question="which is larger : 3 or 5 ?"),
    ):
        output = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6)
    whole = output[0, :-1]  # the last generated token is never fed
    states = block_outputs(model, whole)[-1]
    start = inputs["input_ids"].shape[1]
    found = {(row["pooling"], row["region"]): row for row in rows(tmp_path / "s")}
    last, mean = found["last", "prompt"], found["mean", "response"]
    np.testing.assert_allclose(last["activation"], states[start - 1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean["activation"], states[start:].mean(0), rtol=1e-4, atol=1e-5)
    assert mean["token_count"] == len(whole) - start
    tokens = sorted(rows(tmp_path / "s", pooling="none"), key=lambda row: row["position"])
    assert [row["token_id"] for row in tokens] == whole.tolist()
    assert [row["position"] for row in tokens] == list(range(len(whole)))
    assert tokens[0]["token_role"] == "bos"
    assert {row["token_role"] for row in tokens[start:]} == {"generated"}
    expected = tokenizer.decode(output[0, start:], skip_special_tokens=True).strip()
    assert {row["prediction"] for row in tokens} == {expected}
    again = actstore.open(tmp_path / "s").rows
    from actstore.capturing.repooling import repool

    done = repool(tmp_path / "s", "response.mean,prompt.last")
    assert (done.rows_written, done.rows_present) == (0, 2)
    assert actstore.open(tmp_path / "s").rows == again


def test_one_s_own_decoding_loop_is_one_call(model: Any, tmp_path: Path) -> None:
    ids = torch.tensor([[1, 20, 21, 22]])
    options: Any = {"layers": 0, "pool": "prompt.last,response.mean", "model_name": NAME}
    with actstore.record(model, tmp_path / "loop", **options) as rec:
        with rec.example("a") as ex, torch.no_grad():
            cache, fed = None, ids
            for _ in range(4):
                out = model(input_ids=fed, past_key_values=cache, use_cache=True)
                cache, fed = out.past_key_values, out.logits[:, -1:].argmax(-1)
        assert len(ex.calls) == 1
    with actstore.record(model, tmp_path / "generate", **options) as rec, rec.example("a"):
        model.generate(ids, max_new_tokens=4, min_new_tokens=4)
    one, other = (rows(tmp_path / name) for name in ("loop", "generate"))
    assert len(one) == len(other) == 2
    for left, right in zip(one, other, strict=True):
        np.testing.assert_allclose(left["activation"], right["activation"], rtol=1e-4, atol=1e-5)
        assert left["token_count"] == right["token_count"]


def test_several_calls_in_one_block(model: Any, tmp_path: Path) -> None:
    prompts = [torch.tensor([[1, 20, 21]]), torch.tensor([[1, 22, 23, 24]])]
    with actstore.record(model, tmp_path / "s", layers=0, model_name=NAME) as rec:
        with rec.example("a") as ex:
            for ids in prompts:
                model.generate(ids, max_new_tokens=2)
        ex.prediction = "both"
        with rec.example("b", index=7), torch.no_grad():
            for ids in prompts:
                model(ids)
    found = rows(tmp_path / "s")
    assert [(row["example_id"], row["example_index"], row["variant"]) for row in found] == [
        ("a", 0, None),
        ("a", 1, None),
        ("b", 7, "call-0"),
        ("b", 7, "call-1"),
    ]
    for row, ids in zip(found, prompts * 2, strict=True):
        np.testing.assert_allclose(
            row["activation"], block_outputs(model, ids)[0, -1], rtol=1e-5, atol=1e-6
        )
    assert [row["prediction"] for row in found] == ["both", "both", None, None]


def test_what_is_set_after_the_block(model: Any, tmp_path: Path) -> None:
    ids = torch.tensor([[1, 20], [1, 21]])
    with actstore.record(model, tmp_path / "s", layers=0, model_name=NAME) as rec:
        with rec.example(id=["a", "b"]), torch.no_grad():
            model(ids)
        assert rec.last is not None
        rec.last.prediction = ["yes", None]
        rec.last.label = ["correct", "incorrect"]
        with rec.example("c") as ex, torch.no_grad():
            model(ids[:1])
        ex.prediction = "no"
    found = [(row["example_id"], row["prediction"], row["label"]) for row in rows(tmp_path / "s")]
    assert found == [("a", "yes", "correct"), ("b", None, "incorrect"), ("c", "no", None)]


def test_a_prediction_that_does_not_fit_the_batch(model: Any, tmp_path: Path) -> None:
    def run() -> None:
        with actstore.record(model, tmp_path / "s", layers=0, model_name=NAME) as rec:
            with rec.example("x"), torch.no_grad():
                model(torch.tensor([[1, 20]]))
            with rec.example(id=["a", "b"]) as ex, torch.no_grad():
                model(torch.tensor([[1, 20], [1, 21]]))
            ex.prediction = "yes"

    with pytest.raises(UsageError, match="prediction is one text for 2 examples"):
        run()
    assert [row["example_id"] for row in rows(tmp_path / "s")] == ["x"]


def test_blocks_without_a_call_and_calls_without_a_block(model: Any, tmp_path: Path) -> None:
    ids = torch.tensor([[1, 20, 21]])
    before = dict(model.__dict__)
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    with actstore.record(model, tmp_path / "s", layers=0, model_name=NAME) as rec:
        model.generate(ids, max_new_tokens=2)
        with rec.example("empty"):
            pass
        with rec.example("a"), torch.no_grad():
            model(ids)
        model.generate(ids, max_new_tokens=2)
        with torch.no_grad():
            model(ids)
    assert [row["example_id"] for row in rows(tmp_path / "s")] == ["a"]
    assert rec.summary is not None
    assert (rec.summary.examples, rec.summary.empty) == (1, 1)
    assert model.__dict__.keys() == before.keys()
    assert "generate" not in model.__dict__
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_nothing_recorded(model: Any, tmp_path: Path) -> None:
    with actstore.record(model, tmp_path / "s", model_name=NAME) as rec:
        pass
    assert rec.summary is not None
    assert (rec.summary.commit, rec.summary.rows_written) == (None, 0)
    assert actstore.open(tmp_path / "s", create=True).rows == 0


def test_an_error_drops_its_example_only(model: Any, tmp_path: Path) -> None:
    ids = torch.tensor([[1, 20, 21]])
    with actstore.record(model, tmp_path / "s", layers=0, model_name=NAME) as rec:
        for name in ("a", "bad", "c"):
            try:
                with rec.example(name), torch.no_grad():
                    model(ids)
                    if name == "bad":
                        raise RuntimeError("of one's own")
            except RuntimeError:
                continue
    assert [row["example_id"] for row in rows(tmp_path / "s")] == ["a", "c"]
    assert rec.summary is not None
    assert rec.summary.dropped == 1

    def interrupted() -> None:
        with actstore.record(model, tmp_path / "s", layers=0, model_name=NAME) as rec:
            for name in ("d", "e"):
                with rec.example(name), torch.no_grad():
                    model(ids)
                    if name == "e":
                        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [row["example_id"] for row in rows(tmp_path / "s")] == ["a", "c", "d"]
    assert_sound(tmp_path / "s")
    assert not any(module._forward_hooks for module in model.modules())


def test_a_call_that_failed_is_no_call(model: Any, tmp_path: Path) -> None:
    with (
        actstore.record(model, tmp_path / "s", layers=0, model_name=NAME) as rec,
        rec.example("a"),
        torch.no_grad(),
    ):
        with pytest.raises(IndexError):
            model(torch.tensor([[1, 9999]]))  # no such token
        with pytest.raises(IndexError):
            model.generate(torch.tensor([[1, 9999]]), max_new_tokens=2)
        model(torch.tensor([[1, 20]]))
    (row,) = rows(tmp_path / "s")
    assert (row["example_id"], row["example_index"], row["token_id"]) == ("a", None, 20)


def test_calls_that_cannot_be_told_apart(model: Any, tmp_path: Path) -> None:
    ids = torch.tensor([[1, 20, 21]])
    with actstore.record(model, tmp_path / "s", layers=0, model_name=NAME) as rec:
        with (
            pytest.raises(HookError, match="2 rows inside a block for 1 example"),
            rec.example("a"),
        ):
            model.generate(ids.repeat(2, 1), max_new_tokens=2)
        with pytest.raises(HookError, match="1 rows inside a block"), rec.example(id=["a", "b"]):
            model.generate(ids, max_new_tokens=2)
        with pytest.raises(HookError, match="num_beams=2: several sequences"), rec.example("c"):
            model.generate(ids, max_new_tokens=2, num_beams=2)
        with pytest.raises(UsageError, match="without input_ids"), rec.example("d"):
            model(inputs_embeds=model.get_input_embeddings()(ids))
        with rec.example("e"), torch.no_grad():
            model(ids)
    assert [row["example_id"] for row in rows(tmp_path / "s")] == ["e"]


def test_blocks_do_not_nest_and_need_a_beginning(model: Any, tmp_path: Path) -> None:
    rec = actstore.record(model, tmp_path / "s", model_name=NAME)
    with pytest.raises(UsageError, match="has not begun"), rec.example("a"):
        pass
    with rec, rec.example("a"), pytest.raises(UsageError, match="do not nest"), rec.example("b"):
        pass


def test_again_adds_nothing_and_another_vector_is_refused(model: Any, tmp_path: Path) -> None:
    def run(last: int, names: str = "ab") -> Any:
        with actstore.record(model, tmp_path / "s", layers=0, model_name=NAME) as rec:
            for name in names:
                with rec.example(name), torch.no_grad():
                    model(torch.tensor([[1, 20, last if name == "a" else 40]]))
        return rec.summary

    run(21)
    again = run(21)
    assert (again.rows_written, again.rows_present, again.commit) == (0, 2, None)
    with pytest.raises(ConflictError, match="example_id=a"):
        run(22, names="za")
    assert [row["example_id"] for row in rows(tmp_path / "s")] == ["a", "b", "z"]


def test_a_model_that_accelerate_wrapped(model: Any, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    other = families.build("llama")
    wrapped = accelerate.dispatch_model(other, device_map={"": "cpu"}, force_hooks=True)
    ids = torch.tensor([[1, 20, 21]])
    for name, each in (("plain", model), ("wrapped", wrapped)):
        with actstore.record(
            each, tmp_path / name, pool="prompt.last,response.mean", model_name=NAME
        ) as rec:
            with rec.example("a"):
                each.generate(ids, max_new_tokens=4, min_new_tokens=4)
            with rec.example("b"), torch.no_grad():
                each(ids)
    one, two = (rows(tmp_path / name) for name in ("plain", "wrapped"))
    assert len(one) == 9
    for left, right in zip(one, two, strict=True):
        assert left["activation"].tobytes() == right["activation"].tobytes()


def test_offloaded_weights(tmp_path: Path, model: Any) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    other = accelerate.cpu_offload(families.build("llama"), execution_device="cpu")
    ids = torch.tensor([[1, 20, 21]])
    with (
        actstore.record(other, tmp_path / "s", layers=2, model_name=NAME) as rec,
        rec.example("a"),
        torch.no_grad(),
    ):
        other(ids)
    (row,) = rows(tmp_path / "s")
    np.testing.assert_allclose(row["activation"], block_outputs(model, ids)[2, -1], rtol=1e-5)


def test_the_question_and_the_answer(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    text = "answer : which is larger : 3 or 5 ? be brief"
    inputs = tokenizer(text, return_tensors="pt")
    pools = "question.last,question.tokens,answer.mean"
    options = {"layers": 0, "model_name": NAME, "processor": tokenizer}
    with (
        actstore.record(model, tmp_path / "s", pool=pools, **options) as rec,
        rec.example("a", question="which is larger : 3 or 5 ?") as ex,
    ):
        output = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6)
        words = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :]).split()
        ex.answer = words[1]
    found = rows(tmp_path / "s")
    asked = [row for row in found if row["pooling"] == "none"]
    assert tokenizer.decode([row["token_id"] for row in asked]) == "which is larger : 3 or 5 ?"
    (last,) = [row for row in found if row["pooling"] == "last"]
    assert last["token_id"] == asked[-1]["token_id"]
    (answer,) = [row for row in found if row["region"] == "answer"]
    assert answer["token_count"] == 1
    for pool in ("question.last", "answer.mean"):
        with pytest.raises(UsageError, match="processor=tokenizer"):
            actstore.record(model, tmp_path / "s", pool=pool, model_name=NAME)


def test_grades_become_labels(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    ids = torch.tensor([[1, 20, 21]])
    with actstore.record(
        model,
        tmp_path / "s",
        layers=0,
        grade="contains",
        processor=tokenizer,
        model_name=NAME,
    ) as rec:
        for oracle in ("right", "wrong"):
            with rec.example(oracle, oracle=oracle) as ex, torch.no_grad():
                model(ids)
            ex.prediction = "it is right"
    found = {row["example_id"]: row["label"] for row in rows(tmp_path / "s")}
    assert found == {"right": "correct", "wrong": "incorrect"}


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({}, ExampleError, "no 'id'"),
        ({"id": ["a", "a"]}, UsageError, "must differ: a, a"),
        ({"id": []}, UsageError, "at least one id"),
        ({"id": ["a", "b"], "label": ["x"]}, UsageError, "label has 1 values for 2 ids"),
        ({"id": "a", "index": "x"}, ExampleError, "'index' is 'x'"),
    ],
)
def test_examples_that_are_malformed(
    model: Any, tmp_path: Path, fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    with (
        actstore.record(model, tmp_path / "s", model_name=NAME) as rec,
        pytest.raises(error, match=message),
        rec.example(**fields),
    ):
        pass


def test_models_that_cannot_be_recorded(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no list of decoder blocks"):
        actstore.record(torch.nn.Linear(2, 2), tmp_path / "s", model_name=NAME)
    with pytest.raises(UsageError, match="layer 9 does not exist"):
        actstore.record(model, tmp_path / "s", layers=9, model_name=NAME)


def test_compiled_code_is_refused_in_a_block_alone(model: Any, tmp_path: Path) -> None:
    compiled: Any = torch.compile(model, backend="eager")
    ids = torch.tensor([[1, 20, 21]])
    with torch.no_grad(), actstore.record(compiled, tmp_path / "s", model_name=NAME) as rec:
        compiled(ids)
        with pytest.raises(HookError, match="compiled LlamaForCausalLM"), rec.example("a"):
            compiled(ids)
        with rec.example("b"):
            compiled.generate(ids, **{"max_new_tokens": 2, "min_new_tokens": 2})
    assert {row["example_id"] for row in stored_rows(tmp_path / "s")} == {"b"}
