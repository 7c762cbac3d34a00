"""Generation settings as they are settled: what is capture's own, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from actstore.capturing.forward.generation import Generation, seeded, settle
from actstore.errors import ModelError, UsageError
from tests.capturing import families


@pytest.fixture
def model() -> Any:
    return families.build("llama")


def settled(model: Any, **options: Any) -> Generation:
    found = settle(model, families.PAD, 8, options)
    assert found is not None
    return found


def test_what_a_checkpoint_says_of_drawing_is_put_aside_unless_tokens_are_drawn(
    model: Any,
) -> None:
    model.generation_config.update(do_sample=True, temperature=0.3, top_p=0.5, top_k=7)
    greedy = settled(model)
    assert not greedy.samples
    assert greedy.config.do_sample is False
    assert (greedy.config.temperature, greedy.config.top_p, greedy.config.top_k) == (1.0, 1.0, 50)
    assert not {"temperature", "top_p", "top_k"} & greedy.settings.keys()
    drawn = settled(model, do_sample=True)
    assert drawn.samples
    assert (drawn.config.temperature, drawn.config.top_p, drawn.config.top_k) == (0.3, 0.5, 7)
    assert drawn.settings["do_sample"] is True
    assert drawn.settings["temperature"] == 0.3


def test_the_checkpoint_s_other_settings_hold_and_its_beams_and_lengths_do_not(
    model: Any,
) -> None:
    model.generation_config.update(
        num_beams=4,
        num_return_sequences=3,
        max_length=5,
        return_dict_in_generate=True,
        repetition_penalty=1.5,
        penalty_alpha=0.6,
    )
    before = model.generation_config.to_dict()
    found = settled(model)
    config = found.config
    assert (config.num_beams, config.num_return_sequences) == (1, 1)
    assert (config.max_new_tokens, config.max_length) == (8, None)
    assert config.return_dict_in_generate is False
    assert config.disable_compile is True
    assert config.penalty_alpha is None
    assert config.repetition_penalty == found.settings["repetition_penalty"] == 1.5
    assert found.max_new_tokens == found.settings["max_new_tokens"] == 8
    assert "disable_compile" not in found.settings
    assert model.generation_config.to_dict() == before


@pytest.mark.parametrize(
    ("ends", "pad", "eos", "filled"),
    [
        (2, 0, {2}, 0),
        ([5, 2], None, {2, 5}, 2),
        (7, None, {7}, 7),
        (None, None, set(), families.PAD),
        (None, 4, set(), 4),
    ],
)
def test_ends_and_pads(model: Any, ends: Any, pad: Any, eos: set[int], filled: int) -> None:
    model.generation_config.eos_token_id = ends
    model.generation_config.pad_token_id = pad
    found = settled(model)
    assert found.eos_ids == eos
    assert found.config.pad_token_id == filled


def test_stop_strings_are_told(model: Any) -> None:
    assert not settled(model).stops_at_text
    assert settled(model, stop_strings=["x"]).stops_at_text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_beams": 2}, "num_beams=2: several sequences"),
        ({"num_return_sequences": 3}, "num_return_sequences=3: several sequences"),
        ({"penalty_alpha": 0.5}, "penalty_alpha cannot be captured: contrastive"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens cannot be captured"),
        ({"guidance_scale": 1.5}, "guidance_scale cannot be captured: the model runs a second"),
        ({"token_healing": True}, "token_healing cannot be captured: the prompt's last token"),
        ({"use_mtp": True}, "use_mtp cannot be captured: assisted decoding"),
        ({"max_length": 9}, "max_length is capture's own to set"),
        ({"max_new_tokens": 9, "disable_compile": False}, "max_new_tokens, disable_compile"),
        ({"temprature": 1}, "no option temprature"),
        ({"do_sample": "yes"}, "do_sample=yes: expected true or false"),
        ({"temperature": 0.5}, "temperature changes nothing unless tokens are drawn"),
        ({"top_k": 5, "do_sample": False}, "top_k changes nothing unless"),
    ],
)
def test_what_hooks_could_not_follow_or_means_nothing_is_refused(
    model: Any, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        settle(model, families.PAD, 8, options)


def test_options_that_say_what_holds_anyway_are_taken(model: Any) -> None:
    found = settled(model, num_beams=1, num_return_sequences=None, temperature=1.0, top_p=None)
    assert not found.samples


def test_no_generation(model: Any) -> None:
    assert settle(model, families.PAD, 0) is None
    with pytest.raises(UsageError, match=r"\(top_k\) without generation: give max_new_tokens"):
        settle(model, families.PAD, 0, {"top_k": 3})
    with pytest.raises(UsageError, match="max_new_tokens -1: 0 for no generation"):
        settle(model, families.PAD, -1)
    with pytest.raises(ModelError, match=r"LlamaModel cannot generate.*max_new_tokens=0"):
        settle(model.model, families.PAD, 8)


def test_a_seed_is_the_block_s_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    drawn = []
    for _ in range(2):
        with seeded(torch.device("cpu"), 11):
            drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
    assert torch.equal(torch.rand(2), expected)
