"""What is asked twice is computed once: the rows come back, in the order asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore.api.capture import CaptureResult
from actstore.errors import (
    ConflictError,
    ExampleError,
    NotInStoreError,
    StoreNotFoundError,
    UsageError,
)
from tests.capturing import families

QUESTIONS: list[dict[str, Any]] = [
    {"id": f"q{number}", "question": "which is larger " + "1 2 3 " * (1 + number * 5 % 7)}
    for number in range(8)
]


class Passes:
    """Counts the forward passes through a model's first block."""

    def __init__(self, model: Any) -> None:
        self.count = 0
        self.hook = model.model.layers[0].register_forward_pre_hook(self._one_more)

    def _one_more(self, *_: object) -> None:
        self.count += 1

    def since(self) -> int:
        """Return the passes since this was asked last."""
        found, self.count = self.count, 0
        return found


@pytest.fixture(scope="module")
def model() -> Any:
    return families.build("llama")


@pytest.fixture
def passes(model: Any) -> Iterator[Passes]:
    found = Passes(model)
    yield found
    found.hook.remove()


def capture(model: Any, store: Path, examples: Any = None, **options: Any) -> CaptureResult:
    return actstore.capture(
        model,
        None if model is None else families.tokenizer(),
        QUESTIONS if examples is None else examples,
        store=store,
        **{"model_name": "tiny/llama", "batch_size": 4, "layers": "0,-1", **options},
    )


def places(result: CaptureResult, *columns: str) -> list[tuple[Any, ...]]:
    """Return some columns of the result's rows, in its order."""
    table = result.selection().table(list(columns))
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))


def alone(store: Path, result: CaptureResult) -> np.ndarray:
    """Return the vectors of the result, each row read on its own by its key."""
    opened = actstore.open(store)
    vectors = []
    for example, layer, pooling in places(result, "example_id", "layer", "pooling"):
        (vector,) = opened.select(example_id=example, layer=layer, pooling=pooling).numpy()
        vectors.append(vector)
    return np.stack(vectors)


def test_rows_come_by_example_as_asked_then_layer_site_and_pool(tmp_path: Path, model: Any) -> None:
    result = capture(
        model,
        tmp_path / "s",
        QUESTIONS[::-1],
        sites="resid_pre,final_norm,resid_post",
        pool="prompt.mean,prompt.last",
    )
    assert places(result, "example_id", "layer", "site", "pooling") == [
        (example["id"], layer, site, pool)
        for example in QUESTIONS[::-1]
        for layer, site in (
            (0, "resid_pre"),
            (0, "resid_post"),
            (2, "resid_pre"),
            (2, "resid_post"),
            (None, "final_norm"),
        )
        for pool in ("mean", "last")
    ]


def test_asked_again_in_another_order_the_model_does_not_run(
    tmp_path: Path, model: Any, passes: Passes
) -> None:
    first = capture(model, tmp_path / "s", pool="prompt.last,prompt.mean")
    assert passes.since() > 0
    same = capture(model, tmp_path / "s", pool="prompt.last,prompt.mean")
    other = capture(model, tmp_path / "s", QUESTIONS[5:1:-1], pool="prompt.mean", layers="last")
    assert passes.since() == 0
    assert (same.examples, same.skipped, same.rows, same.commit) == (0, 8, 0, None)
    assert (other.examples, other.skipped, other.rows, other.commit) == (0, 4, 0, None)
    assert np.array_equal(same.row_ids, first.row_ids)
    assert same.row_ids.dtype == np.int64
    wanted = [(f"q{number}", 2, "mean") for number in (5, 4, 3, 2)]
    assert places(other, "example_id", "layer", "pooling") == wanted
    assert np.array_equal(other.selection().numpy(), alone(tmp_path / "s", other))
    assert actstore.open(tmp_path / "s").commit == first.commit


def test_of_old_and_new_prompts_only_the_new_ones_are_computed(
    tmp_path: Path, model: Any, passes: Passes
) -> None:
    capture(model, tmp_path / "s", QUESTIONS[:4], self_check=False)
    passes.since()
    asked = [QUESTIONS[6], QUESTIONS[1], QUESTIONS[7], QUESTIONS[3]]
    result = capture(model, tmp_path / "s", asked, layers="last", self_check=False)
    # One of padding, which is measured before the first batch, and one batch of two.
    assert (result.examples, result.skipped, result.batches) == (2, 2, 1)
    assert places(result, "example_id") == [(each["id"],) for each in asked]
    whole = capture(model, tmp_path / "whole", asked, layers="last", self_check=False)
    assert np.allclose(result.selection().numpy(), whole.selection().numpy(), atol=1e-5)


def test_without_a_model_what_is_stored_is_given(tmp_path: Path, model: Any) -> None:
    first = capture(model, tmp_path / "s", pool="prompt.last,prompt.tokens", dataset="d")
    result = capture(None, tmp_path / "s", pool="prompt.last,prompt.tokens", dataset="d")
    assert np.array_equal(result.row_ids, first.row_ids)
    assert (result.run_id, result.skipped, result.layers) == (first.run_id, 8, (0, 2))
    part = capture(None, tmp_path / "s", QUESTIONS[3:1:-1], layers=2, dataset="d")
    assert places(part, "example_id", "layer") == [("q3", 2), ("q2", 2)]


def test_without_a_model_it_says_what_is_missing(tmp_path: Path, model: Any) -> None:
    capture(model, tmp_path / "s", QUESTIONS[:4], self_check=False)
    with pytest.raises(NotInStoreError, match=r"^4 of 8 examples .* 'q4', example 'q5'.* give the"):
        capture(None, tmp_path / "s")
    others = [{**one, "id": f"other {number}"} for number, one in enumerate(QUESTIONS)]
    with pytest.raises(NotInStoreError, match=r"^8 of 8 .* 'other 4' and 3 more; give the"):
        capture(None, tmp_path / "s", others)
    changed = [{**QUESTIONS[0], "question": "yes"}, *QUESTIONS[1:4]]
    with pytest.raises(NotInStoreError, match=r"1 of 4 .*'q0' \(was asked something else\)"):
        capture(None, tmp_path / "s", changed)
    with pytest.raises(NotInStoreError, match="not at all of these layers"):
        capture(None, tmp_path / "s", QUESTIONS[:4], layers="all")
    with pytest.raises(NotInStoreError, match=r"another way: system null → be brief"):
        capture(None, tmp_path / "s", QUESTIONS[:4], system="be brief")
    with pytest.raises(NotInStoreError, match=r"no capture of tiny/other; it has .* tiny/llama"):
        capture(None, tmp_path / "s", QUESTIONS[:4], model_name="tiny/other")
    with pytest.raises(NotInStoreError, match="revision None → abc"):
        capture(None, tmp_path / "s", QUESTIONS[:4], revision="abc")
    with pytest.raises(NotInStoreError, match="no capture of tiny/llama"):
        capture(None, tmp_path / "nothing")


def test_without_a_model_its_name_is_needed_and_no_work_can_be_asked_for(
    tmp_path: Path, model: Any
) -> None:
    with pytest.raises(UsageError, match="model_name"):
        capture(None, tmp_path / "s", model_name=None)
    for option in ({"dry_run": True}, {"resume": False}):
        with pytest.raises(UsageError, match="needs the model"):
            capture(None, tmp_path / "s", **option)
    capture(model, tmp_path / "s", self_check=False)
    with pytest.raises(ExampleError, match="no examples"):
        capture(None, tmp_path / "s", [])


def test_values_of_two_ways_are_not_told_apart_without_the_model(
    tmp_path: Path, model: Any
) -> None:
    capture(model, tmp_path / "s", QUESTIONS[:2], self_check=False)
    other = families.build("llama", seed=1)
    new = capture(other, tmp_path / "s", QUESTIONS[2:4], self_check=False, allow_mixed=True)
    assert places(new, "example_id", "layer") == [("q2", 0), ("q2", 2), ("q3", 0), ("q3", 2)]
    with pytest.raises(NotInStoreError, match="2 ways"):
        capture(None, tmp_path / "s", QUESTIONS[:2])


def test_another_question_under_a_stored_id_is_refused_before_anything_runs(
    tmp_path: Path, model: Any, passes: Passes
) -> None:
    capture(model, tmp_path / "s", self_check=False)
    passes.since()
    changed = [QUESTIONS[0], {**QUESTIONS[1], "question": "yes"}]
    for options in ({}, {"pool": "prompt.mean"}):
        with pytest.raises(ConflictError, match=r"'q1'.*asked something else"):
            capture(model, tmp_path / "s", changed, self_check=False, **options)
    spoken = [QUESTIONS[0], {**QUESTIONS[1], "answer": "a"}]
    with pytest.raises(ConflictError, match="'q1'"):
        capture(model, tmp_path / "s", spoken, self_check=False)
    assert passes.since() == 0


def test_the_same_text_under_two_ids_is_two_examples(tmp_path: Path, model: Any) -> None:
    twice = [{"id": "a", "question": "yes"}, {"id": "b", "question": "yes"}]
    result = capture(model, tmp_path / "s", twice, layers="last", self_check=False)
    again = capture(None, tmp_path / "s", twice[::-1], layers="last")
    assert places(again, "example_id") == [("b",), ("a",)]
    assert np.array_equal(again.row_ids, result.row_ids[::-1])
    with pytest.raises(ExampleError, match="ids must differ"):
        capture(None, tmp_path / "s", [twice[0], twice[0]], layers="last")


def test_refused_prompts_have_no_rows_and_are_not_tried_again(
    tmp_path: Path, model: Any, passes: Passes
) -> None:
    asked = [QUESTIONS[0], {"id": "long", "question": "yes " * 5000}, QUESTIONS[1]]
    first = capture(model, tmp_path / "s", asked, self_check=False)
    assert [each.example for each in first.refused] == ["example 'long'"]
    assert first.without_rows == ("long",)
    assert places(first, "example_id", "layer") == [("q0", 0), ("q0", 2), ("q1", 0), ("q1", 2)]
    passes.since()
    for again in (capture(model, tmp_path / "s", asked), capture(None, tmp_path / "s", asked)):
        assert np.array_equal(again.row_ids, first.row_ids)
        assert again.without_rows == ("long",)
    assert passes.since() == 0


def test_where_every_prompt_is_refused_there_are_no_rows(tmp_path: Path, model: Any) -> None:
    asked = [{"id": "long", "question": "yes " * 5000}]
    result = capture(model, tmp_path / "s", asked, self_check=False)
    assert len(result.refused) == 1
    assert result.without_rows == ("long",)
    assert len(result.row_ids) == 0
    with pytest.raises(StoreNotFoundError):  # nothing was stored, so none was made
        result.selection()
    capture(model, tmp_path / "s", QUESTIONS[:1], self_check=False)
    assert len(capture(model, tmp_path / "s", asked, self_check=False).selection()) == 0


def test_an_empty_region_is_known_to_be_empty(tmp_path: Path, model: Any, passes: Passes) -> None:
    asked = [
        {"id": "plain", "question": "yes"},
        {"id": "answered", "question": "yes", "answer": "a a"},
    ]
    options = {"pool": "answer.mean,prompt.last", "layers": "last", "self_check": False}
    first = capture(model, tmp_path / "s", asked, **options)
    assert first.empty == {"answer.mean": 1}
    passes.since()
    again = capture(model, tmp_path / "s", asked[::-1], **options)
    assert passes.since() == 0
    assert places(again, "example_id", "region") == [
        ("answered", "answer"),
        ("answered", "prompt"),
        ("plain", "prompt"),
    ]


def test_conversations_are_known_in_the_order_of_their_run_alone(
    tmp_path: Path, model: Any, passes: Passes
) -> None:
    asked = [
        {"id": number, "messages": [{"role": "user", "content": f"yes {number}"}]}
        for number in range(3)
    ]
    first = capture(model, tmp_path / "s", asked, self_check=False)
    assert np.array_equal(capture(None, tmp_path / "s", asked).row_ids, first.row_ids)
    with pytest.raises(NotInStoreError, match="conversation or picture"):
        capture(None, tmp_path / "s", asked[::-1])
    passes.since()
    # With the model they are asked again, and what comes out is compared with what is there.
    again = capture(model, tmp_path / "s", asked[::-1], self_check=False)
    assert passes.since() > 0
    assert (again.rows, again.rows_present) == (0, 6)
    other = [{**each, "messages": asked[0]["messages"]} for each in asked[::-1]]
    with pytest.raises(ConflictError):
        capture(model, tmp_path / "s", other, self_check=False)


def test_single_tokens_come_by_position_and_by_offset(
    tmp_path: Path, model: Any, passes: Passes
) -> None:
    pools = ("prompt.-2", "prompt.1", "prompt.last")
    capture(model, tmp_path / "s", pool=pools, layers="last", self_check=False)
    capture(model, tmp_path / "t", pool="prompt.tokens", layers="last", self_check=False)
    every = capture(None, tmp_path / "t", QUESTIONS[:3], pool="prompt.tokens", layers="last")
    found = places(every, "example_id", "position")
    assert found == sorted(found)
    assert len(found) > 30
    for store in ("s", "t"):
        passes.since()
        wanted = [pool for pool in pools if store == "s" or pool != "prompt.last"]
        capture(model, tmp_path / store, pool=wanted, layers="last", self_check=False)
        again = capture(model, tmp_path / store, QUESTIONS[::-1], pool=wanted, layers="last")
        assert (passes.since() > 0) is (store == "t")
        lengths = dict(found)
        positions = places(again, "example_id", "position")
        for number in range(3):
            last = lengths[f"q{number}"]
            mine = [at for example, at in positions if example == f"q{number}"]
            assert mine == ([last - 1, 1, None] if store == "s" else [last - 1, 1])


def test_what_was_dropped_is_captured_again(tmp_path: Path, model: Any, passes: Passes) -> None:
    first = capture(model, tmp_path / "s", self_check=False)
    before = first.selection().numpy(mixed=True)
    actstore.open(tmp_path / "s").drop("example_id = 'q3' AND layer = 2")
    with pytest.raises(NotInStoreError, match=r"1 of 8 .*'q3'"):
        capture(None, tmp_path / "s")
    passes.since()
    again = capture(model, tmp_path / "s", self_check=False)
    assert passes.since() > 0
    assert (again.examples, again.rows, again.skipped) == (1, 1, 7)
    assert any("dropped since" in note for note in again.notes)
    assert np.allclose(again.selection().numpy(mixed=True), before, atol=1e-5)
    # The commit before is as it was.
    assert np.array_equal(first.selection().numpy(mixed=True), before)


def test_rows_are_those_of_the_capture_though_others_write_later(
    tmp_path: Path, model: Any
) -> None:
    result = capture(model, tmp_path / "s", layers="last", self_check=False)
    capture(model, tmp_path / "s", dataset="a", layers="0", self_check=False)
    later = actstore.open(tmp_path / "s").rows_at(result.row_ids)
    assert later.table(["layer"])["layer"].to_pylist() == [0] * 8  # numbers are of one commit
    assert places(result, "layer") == [(2,)] * 8


def test_the_result_reads_well_and_is_a_frame(tmp_path: Path, model: Any) -> None:
    result = capture(model, tmp_path / "s", pool="prompt.last,prompt.mean", self_check=False)
    assert repr(result) == (
        "CaptureResult('tiny/llama', 8 examples: 8 captured, 0 there before; 2 layers of "
        "resid_post, prompt.last, prompt.mean; 32 rows new, commit 1)"
    )
    frame = result.to_polars(["example_id", "layer", "pooling"])
    assert frame.columns == ["example_id", "layer", "pooling", "activation"]
    assert frame.height == 32
    assert "asked" not in result.as_dict()
    assert result.selected().shape == result.selection().shape
    dry = capture(model, tmp_path / "s2", dry_run=True, self_check=False)
    assert "a dry run, 16 rows to come" in repr(dry)
    with pytest.raises(UsageError, match="dry_run"):
        dry.selection()


def test_a_column_that_is_called_answer_is_no_answer_that_was_appended(
    model: Any, tmp_path: Path
) -> None:
    """`--answer` is what appends one; else the column is the source's own: often the right one."""
    beside = [{**each, "extra": {"answer": "1 2"}} for each in QUESTIONS]
    appended = [{**each, "answer": "1 2"} for each in QUESTIONS]
    first = capture(model, tmp_path / "s", beside)
    again = capture(model, tmp_path / "s", beside[::-1])
    assert (first.examples, again.examples, again.skipped) == (8, 0, 8)
    with pytest.raises(ConflictError, match="asked something else"):
        capture(model, tmp_path / "s", appended)
    kept = first.selection().table(["extra"])["extra"].to_pylist()
    assert all('"answer": "1 2"' in each for each in kept)
    second = capture(model, tmp_path / "t", appended)
    assert capture(model, tmp_path / "t", appended[::-1]).skipped == 8
    assert not np.allclose(alone(tmp_path / "t", second), alone(tmp_path / "s", first))
    with pytest.raises(ConflictError, match="asked something else"):
        capture(model, tmp_path / "t", beside)
