"""States put back in their place give the model's own logits, whatever it does to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from actstore.errors import MismatchError, ModelError
from actstore.models import head
from actstore.models.blocks import find
from tests.capturing import families

IDS = torch.tensor([[5, 9, 33, 17, 60, 21, 8]])


def states_and_logits(model: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the last block and the final norm returned, and the logits of the same pass."""
    anatomy, seen = find(model), []
    hooks = [
        module.register_forward_hook(
            lambda _, __, output: seen.append(
                output if isinstance(output, torch.Tensor) else output[0]
            )
        )
        for module in (anatomy.blocks[-1], anatomy.final_norm)
        if module is not None
    ]
    with torch.inference_mode():
        logits = model(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return seen[0][0], seen[-1][0], logits[0]


@pytest.mark.parametrize(
    "name", ["llama", "gemma2", "gemma3", "granite", "gpt2", "opt", "olmo2", "mamba", "falcon"]
)
def test_logits_are_the_models_own(name: str) -> None:
    model = families.build(name)
    states, normed, logits = states_and_logits(model)
    given: tuple[tuple[torch.Tensor, head.After], ...]
    given = (states, "block"), (normed, "final_norm")
    for part, after in given:
        found = torch.cat(list(head.logits(model, part, after=after)))
        torch.testing.assert_close(found, logits, rtol=1e-6, atol=1e-6)
    again = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits[0]
    torch.testing.assert_close(again, logits)  # the model is as it was


def test_many_states_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = families.build("llama")
    states, _, logits = states_and_logits(model)
    monkeypatch.setattr(head, "_STATES", 3)
    parts = list(head.logits(model, states))
    assert [len(part) for part in parts] == [3, 3, 1]
    torch.testing.assert_close(torch.cat(parts), logits)


def test_another_width_and_no_head() -> None:
    model = families.build("llama")
    with pytest.raises(MismatchError, match=r"the states have 8 values, those at .* have 32"):
        list(head.logits(model, torch.zeros(2, 8)))
    with pytest.raises(ModelError, match="no head"):
        list(head.logits(model.model, torch.zeros(2, 32)))
