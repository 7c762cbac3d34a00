"""A steering vector is added where it should be, and is gone afterwards."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import actstore
from actstore.errors import HookError, MismatchError, ModelError, UsageError
from tests.capturing import families


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


IDS = torch.tensor([[1, 5, 9, 13]])
VECTOR = torch.linspace(-1, 1, 16)


def states(model: Any) -> list[torch.Tensor]:
    """Return what leaves each block."""
    seen: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output).clone())

    hooks = [block.register_forward_hook(keep) for block in model.model.layers]
    with torch.no_grad():
        model(IDS)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("vector", [VECTOR, VECTOR[None], VECTOR.numpy(), VECTOR.tolist()])
def test_the_vector_is_added_at_its_layer_and_taken_away(vector: Any) -> None:
    model = llama()
    before = states(model)
    with actstore.steering(model, vector, 1, 2.5):
        inside = states(model)
    for layer in (0, 2, 3):
        assert torch.equal(before[layer], inside[layer]) == (layer == 0)
    # Steering comes ahead of all other hooks.
    torch.testing.assert_close(inside[1], before[1] + 2.5 * VECTOR)
    for one, other in zip(before, states(model), strict=True):
        assert torch.equal(one, other)


def test_layers_count_from_the_end_too_and_nest() -> None:
    model = llama()
    before = states(model)
    with actstore.steering(model, VECTOR, -1), actstore.steering(model, VECTOR, 3):
        inside = states(model)
    torch.testing.assert_close(inside[3], before[3] + 2 * VECTOR)


def test_at_the_input_of_a_block_and_of_a_module() -> None:
    model = llama()
    before = states(model)
    with actstore.steering(model, VECTOR, 2, site="resid_pre"):
        entering = states(model)
    with actstore.steering(model, VECTOR, 1):
        leaving = states(model)
    torch.testing.assert_close(entering[2], leaving[2])
    assert torch.equal(entering[1], before[1])
    with actstore.steering(model, VECTOR, 2, site="mlp_out"):
        torch.testing.assert_close(states(model)[2], before[2] + VECTOR)


def test_generation_is_steered_at_every_step() -> None:
    model = llama()
    calls = 0

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal calls
        calls += 1

    handle = model.model.layers[2].register_forward_hook(count)
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    plain = model.generate(IDS, **settings)
    with actstore.steering(model, VECTOR, 2, 50.0):
        steered = model.generate(IDS, **settings)
    handle.remove()
    assert calls == 12
    assert not torch.equal(plain, steered)
    assert torch.equal(plain, model.generate(IDS, **settings))


class Tuples(nn.Module):
    """A block that returns a tuple, as older families do."""

    def forward(self, hidden_states: torch.Tensor, **named: Any) -> tuple[torch.Tensor, str]:
        return hidden_states * 2, "cache"


class Old(nn.Module):
    """A model of such blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Tuples(), Tuples()])

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            states, cache = layer(hidden_states=states)
            assert cache == "cache"
        return states


def test_blocks_that_return_tuples_are_steered() -> None:
    model = Old()
    given = torch.ones(1, 3, 16)
    with actstore.steering(model, VECTOR, 0, blocks="layers"):
        torch.testing.assert_close(model(given), (given * 2 + VECTOR) * 2)
    with actstore.steering(model, VECTOR, 1, site="resid_pre", blocks="layers"):
        torch.testing.assert_close(model(given), (given * 2 + VECTOR) * 2)


def test_half_precision_stays_half() -> None:
    model = Old()
    given = torch.ones(1, 3, 16, dtype=torch.bfloat16)
    with actstore.steering(model, VECTOR.double(), 0, blocks="layers"):
        assert model(given).dtype == torch.bfloat16


def test_what_does_not_fit_is_refused_and_leaves_no_hook() -> None:
    model = llama()
    before = states(model)
    with (
        pytest.raises(MismatchError, match=r"8 values.*have 16"),
        actstore.steering(model, torch.ones(8), 1),
    ):
        model(IDS)
    for vector in (torch.ones(2, 16), torch.full((16,), float("nan")), torch.ones(0)):
        with (
            pytest.raises(UsageError, match="one finite vector"),
            actstore.steering(model, vector, 1),
        ):
            pass
    with pytest.raises(UsageError, match="layer 9"), actstore.steering(model, VECTOR, 9):
        pass
    with pytest.raises(ModelError), actstore.steering(nn.Linear(2, 2), np.ones(2), 0):
        pass
    for one, other in zip(before, states(model), strict=True):
        assert torch.equal(one, other)


def test_hidden_states_that_a_model_collects_itself_are_steered_too() -> None:
    model = llama()
    with torch.no_grad():
        # From the first call on, transformers' own hooks are there before ours.
        before = model(IDS, output_hidden_states=True).hidden_states
        with actstore.steering(model, VECTOR, 1, 2.5):
            inside = model(IDS, output_hidden_states=True).hidden_states
    assert torch.equal(before[1], inside[1])
    torch.testing.assert_close(inside[2], before[2] + 2.5 * VECTOR)


def test_compiled_code_that_would_leave_the_vector_out_is_refused(tmp_path: Path) -> None:
    model = families.build("llama")
    compiled: Any = torch.compile(model, backend="eager")
    ids = torch.tensor([[1, 20, 21]])
    with torch.no_grad():
        plain = compiled(ids).logits
        with actstore.steering(compiled, torch.ones(families.WIDTH), layer=0, scale=8.0):
            with pytest.raises(HookError, match="compiled LlamaForCausalLM was called"):
                compiled(ids)
            assert (model(ids).logits - plain).abs().max() > 0.1
            example = {"id": 1, "question": "what is 3 ?"}
            done = actstore.capture(
                compiled, families.tokenizer(), [example], store=tmp_path / "s", model_name="m"
            )
        assert done.examples == 1
        assert torch.equal(compiled(ids).logits, plain)
