"""Batches: ids, masks, regions and roles, against what the tokenizer itself says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from actstore.capturing.prompts.encode import PAD, ROLES, PromptBatch, Prompter, Side
from actstore.capturing.prompts.example import Example
from actstore.errors import ExampleError
from tests.capturing import vision_families
from tests.capturing.tokenizers import CHATML, SPOKEN, TURNS, tokenizer

QUESTION = "Which is larger: 847 or 839?"
EXAMPLES = [
    Example(id="a", question=QUESTION),
    Example(id="b", question="user"),
    Example(id="c", question="Hi \U0001f600 user?  ok", answer="839"),
]
SIDES: tuple[Side, Side] = ("left", "right")


class Plain:
    """As much of a text model as prompts look at."""

    def __init__(self, most: int = 1000) -> None:
        text = SimpleNamespace(max_position_embeddings=most)
        self.config = SimpleNamespace(get_text_config=lambda decoder: text)

    def forward(self, input_ids: Any = None, attention_mask: Any = None) -> None:
        """Take what a causal model takes."""


def text_of(prompter: Prompter, batch: PromptBatch, row: int, region: str) -> str:
    ids = batch.inputs["input_ids"][row][batch.regions[region][row]]
    return str(prompter.tokenizer.decode(ids))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("template", [CHATML, TURNS, SPOKEN, None])
@pytest.mark.parametrize("pad", [True, False])
def test_ids_are_those_of_the_tokenizer(template: str | None, side: Side, pad: bool) -> None:
    held = tokenizer(template, pad=pad)
    prompter = Prompter(Plain(), held)
    batch = prompter.batch(EXAMPLES, side)
    for row, example in enumerate(EXAMPLES):
        real = batch.inputs["attention_mask"][row].bool()
        ids = batch.inputs["input_ids"][row]
        if template is None:
            expected = held(batch.rendered[row])["input_ids"]
        elif example.answer is None:
            turns = [{"role": "user", "content": example.question}]
            expected = held.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        else:
            expected = held(batch.rendered[row], add_special_tokens=False)["input_ids"]
        assert ids[real].tolist() == expected
        assert prompter.length(example) == len(expected) == int(real.sum())
        edge = real.nonzero().flatten()
        assert edge[-1] == len(real) - 1 if side == "left" else edge[0] == 0
        assert edge[-1] - edge[0] + 1 == real.sum()
        assert ids[real].tolist().count(held.bos_token_id) == (template != CHATML)
    assert batch.tokens == int(batch.inputs["attention_mask"].sum())
    assert held.pad_token == ("<pad>" if pad else None)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("template", [CHATML, TURNS, SPOKEN, None])
def test_regions_cover_what_they_are_called(template: str | None, side: Side) -> None:
    prompter = Prompter(Plain(), tokenizer(template))
    batch = prompter.batch(EXAMPLES, side)
    assert set(batch.regions) == {"prompt", "question", "image", "answer", "all"}
    for row, example in enumerate(EXAMPLES):
        assert text_of(prompter, batch, row, "question").strip() == example.question
        assert text_of(prompter, batch, row, "answer").strip() == (example.answer or "")
    real = batch.inputs["attention_mask"].bool()
    for name in ("prompt", "all"):
        torch.testing.assert_close(batch.regions[name], real)
    assert not batch.regions["image"].any()


@pytest.mark.parametrize("template", [CHATML, SPOKEN, None])
@pytest.mark.parametrize("text", ["839 ", "839  ", "\U0001f600 "])
def test_spaces_at_an_end_are_of_the_text(template: str | None, text: str) -> None:
    """Tokenizers that trim their offsets give a space at the very end no width."""
    prompter = Prompter(Plain(), tokenizer(template))
    asked = [Example(id="a", question=QUESTION, answer=text)]
    assert text_of(prompter, prompter.batch(asked), 0, "answer").lstrip() == text
    raw = Prompter(Plain(), tokenizer(None)).batch([Example(id="b", question=text)])
    assert text_of(prompter, raw, 0, "question") == text


def test_no_answer_no_region() -> None:
    batch = Prompter(Plain(), tokenizer()).batch(EXAMPLES[:2])
    assert "answer" not in batch.regions


@pytest.mark.parametrize("side", SIDES)
def test_roles(side: Side) -> None:
    held = tokenizer(TURNS)
    held.chat_template = TURNS.replace("raise_exception('System role not supported')", "'S:'")
    prompter = Prompter(Plain(), held, system="Be brief.")
    batch = prompter.batch(EXAMPLES, side)
    for row, example in enumerate(EXAMPLES):
        ids, roles = batch.inputs["input_ids"][row], batch.roles[row]

        def said(role: str, ids: Any = ids, roles: Any = roles) -> str:
            chosen = torch.from_numpy(roles == ROLES.index(role))
            return str(prompter.tokenizer.decode(ids[chosen]))

        assert said("bos") == "<s>"
        assert said("system") == "Be brief."
        assert said("user") == example.question
        assert said("assistant") == (example.answer or "")
        assert "<|im_start|>" in said("special")
    np.testing.assert_array_equal(batch.roles == PAD, batch.inputs["attention_mask"] == 0)


def test_a_real_first_token_is_no_bos() -> None:
    batch = Prompter(Plain(), tokenizer(None, bos=False)).batch(EXAMPLES[:1])
    assert set(batch.roles[0]) == {ROLES.index("user")}


def test_a_bos_that_the_text_has_is_not_doubled() -> None:
    held = tokenizer(None)
    batch = Prompter(Plain(), held).batch([Example(id="a", question="<s>Hi")])
    assert batch.inputs["input_ids"][0].tolist().count(held.bos_token_id) == 1


@pytest.mark.parametrize("template", [CHATML, TURNS, SPOKEN, None])
def test_a_tokenizer_without_offsets_finds_the_same(
    template: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = tokenizer(template)
    expected = Prompter(Plain(), held).batch(EXAMPLES)
    slow = Prompter(Plain(), held)
    monkeypatch.setattr(slow, "_fast", False)
    found = slow.batch(EXAMPLES)
    for row, example in enumerate(EXAMPLES):
        for region, wanted in (("question", example.question), ("answer", example.answer)):
            assert text_of(slow, found, row, region).strip() == (wanted or "")
    torch.testing.assert_close(found.regions["question"][0], expected.regions["question"][0])


def test_the_last_of_several_places_is_the_question() -> None:
    turns = tuple(
        {"role": role, "content": "839"} for role in ("user", "assistant", "user", "assistant")
    )
    for fast in (True, False):
        prompter = Prompter(Plain(), tokenizer(TURNS))
        prompter._fast = fast
        batch = prompter.batch([Example(id="a", question="839", messages=turns)])
        places = batch.regions["question"][0].nonzero().flatten().tolist()
        answer = batch.regions["answer"][0].nonzero().flatten().tolist()
        assert max(places) < min(answer)
        users = np.flatnonzero(batch.roles[0] == ROLES.index("user"))
        if fast:
            assert places == users[-len(places) :].tolist()
            assert len(users) == 2 * len(places)


def test_lengths_are_kept_for_the_batch() -> None:
    prompter = Prompter(Plain(), tokenizer())
    lengths = prompter.lengths(EXAMPLES)
    assert len(prompter._ready) == 3
    batch = prompter.batch(EXAMPLES)
    assert batch.inputs["attention_mask"].sum(1).tolist() == lengths
    assert prompter._ready == {}


def test_prompts_that_cannot_be_run_are_refused() -> None:
    empty = Prompter(Plain(), tokenizer(None, bos=False))
    with pytest.raises(ExampleError, match="the prompt has no tokens"):
        empty.batch([Example(id="a", question="")])
    short = Prompter(Plain(most=5), tokenizer(None))
    with pytest.raises(ExampleError, match="the prompt has 9 tokens, the model takes 5"):
        short.lengths([Example(id="a", question=QUESTION)])


def test_responses_are_decoded_and_answers_found_in_them() -> None:
    held = tokenizer(None)
    prompter = Prompter(Plain(), held)
    ids = held(" \u03a9mega is 839.</s>", add_special_tokens=False)["input_ids"]
    text = prompter.decode(ids)
    assert text == "\u03a9mega is 839."
    for wanted in ("\u03a9mega", "839", "is", "."):
        start = text.index(wanted)
        mask = prompter.answer_mask(ids, (start, start + len(wanted)))
        chosen = [token for token, inside in zip(ids, mask, strict=True) if inside]
        assert held.decode(chosen).strip() == wanted
    assert not any(prompter.answer_mask(ids, None))
    assert prompter.answer_mask([], (0, 1)) == []


def test_settings_tell_prompts_apart() -> None:
    held = tokenizer(CHATML)
    assert Prompter(Plain(), held).settings != Prompter(Plain(), held, system="x").settings
    assert Prompter(Plain(), held).settings == Prompter(Plain(), held).settings


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", vision_families.VISION)
def test_images_are_expanded_and_texts_still_found(name: str, side: Side) -> None:
    model, processor = vision_families.build_vlm(name)
    prompter = Prompter(model, processor)
    asked = ["which is larger : 1 2 or 1 3 ?", "which is smaller : 4 or 5 ?"]
    examples = [
        Example(id="a", question=asked[0], image=vision_families.picture(0)),
        Example(
            id="b",
            question=asked[1],
            image=vision_families.picture(1, width=32, height=16),
            answer="4 or 5",
        ),
    ]
    batch = prompter.batch(examples, side)
    assert batch.images == 2
    tokens = batch.regions["image"].sum(1)
    assert (tokens >= 4).all()
    ids = batch.inputs["input_ids"][batch.regions["image"]]
    assert set(ids.tolist()) == {model.config.image_token_id}
    for row, example in enumerate(examples):
        assert text_of(prompter, batch, row, "question") == example.question
        assert text_of(prompter, batch, row, "answer") == (example.answer or "")
        roles = batch.roles[row]
        assert (roles == ROLES.index("image")).sum() == tokens[row]
        assert (roles == ROLES.index("bos")).sum() == 1
    real = batch.inputs["attention_mask"].bool()
    assert (real[:, -1] if side == "left" else real[:, 0]).all()
    if name.startswith("qwen"):
        assert "mm_token_type_ids" in batch.inputs
    assert "offset_mapping" not in batch.inputs
    assert "labels" not in batch.inputs
    with torch.no_grad():
        assert model(**batch.inputs).logits.shape[:2] == real.shape
    for example, exact in zip(examples, batch.inputs["attention_mask"].sum(1), strict=True):
        assert abs(prompter.length(example) - int(exact)) <= 12
