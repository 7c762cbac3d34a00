"""Every vision-language family, in batches with pads on either side, against each text alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from actstore.capturing.forward.hooks import Tap
from actstore.capturing.forward.pooling import PooledBatch, parse_pools
from actstore.models import blocks
from tests.capturing import comparing, families, recorded, references, vision_families

# PaliGemma's processor makes labels for training with an old way into NumPy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")
NEAR = 1e-5
KEYS = 64
NEW = 6
PROMPT = (
    "prompt.last,prompt.mean,prompt.max,prompt.tokens,image.mean,image.last,image.max,image.tokens"
)
RESPONSE = (
    "prompt.last,image.mean,response.mean,response.last,response.max,response.tokens,all.mean"
)
QUESTIONS = (
    ("what is larger, 12 or 345?", (16, 16)),
    ("yes or no?", (32, 16)),
    ("which of the two numbers is smaller: 9 or 10? answer a or b", (24, 40)),
)


def encode(processor: Any, which: Sequence[int], side: str) -> Any:
    """Return the processor's batch of these questions, each with a picture of its own."""
    processor.tokenizer.padding_side = side
    questions = [QUESTIONS[number] for number in which]
    pictures = [
        vision_families.picture(number, width=size[0], height=size[1])
        for number, (_, size) in zip(which, questions, strict=True)
    ]
    if processor.chat_template is None:
        batch = processor(
            images=[[picture] for picture in pictures],
            text=["<image>" + text for text, _ in questions],
            padding=True,
            return_tensors="pt",
        )
        batch.pop("labels")  # for training
        return batch
    chats = [
        [
            {
                "role": "user",
                "content": [{"type": "image", "image": picture}, {"type": "text", "text": text}],
            }
        ]
        for picture, (text, _) in zip(pictures, questions, strict=True)
    ]
    return processor.apply_chat_template(
        chats,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"padding": True},
    )


def regions(processor: Any, batch: Any) -> dict[str, torch.Tensor]:
    mask = batch["attention_mask"].bool()
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    return {"prompt": mask, "all": mask, "image": mask & (batch["input_ids"] == image)}


def spans(processor: Any, single: Any) -> dict[str, Any]:
    """Return where the regions of one unpadded text lie."""
    found = regions(processor, single)
    length = found["all"].shape[1]
    image = found["image"][0].nonzero().flatten().tolist()
    assert image
    return {"prompt": (0, length), "all": (0, length), "image": image}


def tapped(name: str, model: Any, pools: str) -> Tap:
    anatomy = blocks.find(model)
    return Tap(references.points(name, anatomy), parse_pools(pools), anatomy=anatomy)


def forward(name: str, model: Any, processor: Any, side: str) -> PooledBatch:
    batch = encode(processor, range(len(QUESTIONS)), side)
    with torch.inference_mode(), tapped(name, model, PROMPT) as tap:
        tap.begin(regions(processor, batch))
        tap.call(tap.anatomy.base, **batch.to(model.dtype), use_cache=False)
        return tap.end()


@pytest.mark.parametrize("name", vision_families.EVERY)
def test_pictures_and_questions_of_mixed_length_match_each_alone(name: str) -> None:
    model, processor = families.build_vlm(name)
    expected, places = [], []
    for number in range(len(QUESTIONS)):
        single = encode(processor, [number], "left")
        expected.append(references.alone(name, model, single, sees=True))
        places.append(spans(processor, single))
    assert len({place["prompt"][1] for place in places}) == len(places)
    for side in ("left", "right"):
        pooled = forward(name, model, processor, side)
        assert comparing.distances(pooled, expected, places).max() < NEAR, side
    recorded.hold(name, model, sites=recorded.sites(name), padding=["left", "right"])


@pytest.mark.parametrize("name", vision_families.EVERY)
def test_attention_patterns_match_the_attentions_of_each_text_alone(name: str) -> None:
    model, processor = families.build_vlm(name, attn="eager")
    layers = references.sites(name)["head_out"]
    expected, places = [], []
    for number in range(len(QUESTIONS)):
        single = encode(processor, [number], "left")
        places.append(spans(processor, single))
        expected.append(references.patterns(name, model, single, KEYS))
    anatomy = blocks.find(model)
    wanted = blocks.points(anatomy, ["attn_pattern"], layers, pattern_length=KEYS)
    for side in ("left", "right"):
        batch = encode(processor, range(len(QUESTIONS)), side)
        pools = parse_pools("prompt.last,prompt.tokens,image.last,image.tokens")
        with torch.inference_mode(), Tap(wanted, pools, anatomy=anatomy) as tap:
            tap.begin(regions(processor, batch))
            tap.call(anatomy.base, **batch, use_cache=False)
            pooled = tap.end()
        assert comparing.distances(pooled, expected, places).max() < NEAR, side
    recorded.hold(name, model, patterns=list(layers))


@pytest.mark.parametrize("name", vision_families.EVERY)
def test_bfloat16_is_as_near_in_a_batch_as_alone(name: str) -> None:
    exact, processor = families.build_vlm(name)
    coarse = families.build_vlm(name, dtype=torch.bfloat16)[0]
    expected, places, noise = [], [], []
    for number in range(len(QUESTIONS)):
        single = encode(processor, [number], "left")
        true = references.alone(name, exact, single, sees=True)
        rough = references.alone(name, coarse, single.to(torch.bfloat16), sees=True)
        expected.append(true)
        places.append(spans(processor, single))
        noise.append(references.noise(rough, true))
    alone = np.concatenate(noise)
    assert 1e-3 < np.median(alone) < 5e-2
    for side in ("left", "right"):
        found = comparing.distances(forward(name, coarse, processor, side), expected, places)
        assert np.median(found) < 1.5 * np.median(alone), side
        assert found.max() < 2 * alone.max(), side


@pytest.mark.parametrize("name", vision_families.EVERY)
def test_responses_match_teacher_forced_passes(name: str) -> None:
    model, processor = families.build_vlm(name)
    batch = encode(processor, range(len(QUESTIONS)), "left")
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    with torch.inference_mode(), tapped(name, model, RESPONSE) as tap:
        tap.begin(regions(processor, batch), eos_ids=frozenset([families.EOS]))
        output = model.generate(
            **batch,
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=families.EOS,
            pad_token_id=families.PAD,
            suppress_tokens=[image],  # a picture that was never given could not be fed again
        )
        pooled = tap.end()
    expected, places = [], []
    for number, response in enumerate(output[:, batch["input_ids"].shape[1] :].tolist()):
        single = encode(processor, [number], "left")
        place = spans(processor, single)
        ends = [step for step, token in enumerate(response) if token == families.EOS]
        fed = response[: min([*ends, len(response) - 1])]
        start = place["prompt"][1]
        place |= {"response": (start, start + len(fed)), "all": (0, start + len(fed))}
        expected.append(references.alone(name, model, _extended(name, single, fed), sees=True))
        places.append(place)
    assert comparing.distances(pooled, expected, places).max() < NEAR
    recorded.hold(name, model, responses="padded")


def _extended(name: str, single: Any, fed: Sequence[int]) -> dict[str, Any]:
    """Return the inputs of one text with its response put behind the prompt."""
    found = dict(single)
    tail = torch.tensor([list(fed)], dtype=torch.long)
    found["input_ids"] = torch.cat([found["input_ids"], tail], dim=1)
    # 1 is an image for Gemma 3, and for PaliGemma what comes after the prompt
    suffix = int(name == "paligemma")
    for key, fill in (("attention_mask", 1), ("mm_token_type_ids", 0), ("token_type_ids", suffix)):
        if key in found:
            found[key] = torch.cat([found[key], torch.full_like(tail, fill)], dim=1)
    return found
