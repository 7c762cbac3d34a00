"""What changes a model's values beside its weights is told apart, and what only looks on is not."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import actstore
from actstore.errors import MixedRunError, ModelError
from actstore.models.blocks import find
from actstore.models.interventions import interventions
from actstore.storage import manifest
from tests.capturing import families


class Adapted(nn.Linear):
    """A layer as PEFT makes them: it has adapters, some of which are on."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, bias=False)
        self.disable_adapters = False
        self.active_adapters, self.merged_adapters = ["one"], list[str]()
        self.scaling = {"one": 2.0, "two": 2.0}
        self.added = {"one": 1.0, "two": -1.0}

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        on = [] if self.disable_adapters else self.active_adapters
        extra = sum(self.added[name] * self.scaling[name] for name in on)
        return super().forward(states) + extra


class Adding:
    def __init__(self, amount: float) -> None:
        self.amount = amount

    def __call__(self, module: Any, inputs: Any, output: Any) -> Any:
        return output + self.amount


def add(amount: float, module: Any, inputs: Any, output: Any) -> Any:
    return output + amount


def adding(amount: Any) -> Any:
    return lambda module, inputs, output: output + amount


def questions() -> list[dict[str, Any]]:
    return [{"id": 0, "question": "what is 3"}, {"id": 1, "question": "which is larger : 3 or 5 ?"}]


def vectors(model: Any, store: Path, **options: Any) -> np.ndarray:
    done = actstore.capture(
        model, families.tokenizer(), questions(), store=store, model_name="m", layers=2, **options
    )
    found: np.ndarray = done.selection().numpy()
    return found


def test_a_steered_model_is_not_answered_for_by_what_is_stored(tmp_path: Path) -> None:
    model, store = families.build("llama"), tmp_path / "s"
    plain = vectors(model, store)
    with actstore.steering(model, torch.ones(families.WIDTH), layer=0, scale=4.0):
        with pytest.raises(MixedRunError, match=r"interventions null → .*model\.layers\.0 after"):
            vectors(model, store)
        steered = vectors(model, store, dataset="steered")
        assert np.abs(steered - plain).max() > 0.1
        np.testing.assert_array_equal(vectors(model, store, dataset="steered"), steered)
    with (
        actstore.steering(model, torch.ones(families.WIDTH), layer=0, scale=5.0),
        pytest.raises(MixedRunError, match="interventions"),
    ):
        vectors(model, store, dataset="steered")
    np.testing.assert_array_equal(vectors(model, store), plain)


@pytest.mark.parametrize("make", [Adding, adding, lambda amount: partial(add, amount)])
def test_hooks_are_told_apart_by_what_they_hold(make: Any) -> None:
    model = nn.Sequential(nn.Linear(2, 2))

    def told(amount: Any) -> Any:
        handle = model[0].register_forward_hook(make(amount))
        try:
            return interventions(model)
        finally:
            handle.remove()

    assert interventions(model) == {}
    assert told(1.0) == told(1.0) != {}
    assert told(1.0) != told(2.0)
    assert told(torch.ones(2)) == told(torch.ones(2)) != told(torch.zeros(2))


@pytest.mark.parametrize("bound", [True, False])
def test_a_forward_that_was_put_in_place_of_a_modules_own_is_told(
    bound: bool, tmp_path: Path
) -> None:
    model, store = families.build("llama"), tmp_path / "s"
    plain = vectors(model, store)
    block = model.model.layers[0].mlp
    original = block.forward

    def put(amount: float) -> None:
        def forward(module: Any, states: Any) -> Any:
            return original(states) + amount

        block.forward = MethodType(forward, block) if bound else partial(forward, None)

    put(2.0)
    with pytest.raises(MixedRunError, match=r"model\.layers\.0\.mlp in place"):
        vectors(model, store)
    assert np.abs(vectors(model, store, dataset="other") - plain).max() > 0.01
    model.train()
    vectors(model, store, dataset="other")
    put(3.0)
    with pytest.raises(MixedRunError, match=r"model\.layers\.0\.mlp in place"):
        vectors(model, store, dataset="other")
    del block.forward
    np.testing.assert_array_equal(vectors(model, store), plain)


class Counting:
    def __init__(self, model: Any) -> None:
        self.count, self.seen = 0, list[Any]()
        self.handle = model[0].register_forward_pre_hook(self.one_more)

    def one_more(self, module: Any, inputs: Any) -> None:
        self.count += 1
        self.seen.append(inputs)


def test_what_a_hook_has_counted_and_collected_does_not_matter() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    hook = Counting(model)
    before = interventions(model)
    model(torch.ones(1, 2))
    assert hook.count == len(hook.seen) == 1
    assert interventions(model) == before
    hook.handle.remove()
    Counting(model)
    assert interventions(model) == before


def test_which_adapter_is_on_is_part_of_what_is_asked(tmp_path: Path) -> None:
    model, store = families.build("llama"), tmp_path / "s"
    layer = Adapted(families.WIDTH)
    model.model.layers[1].self_attn.o_proj = layer
    assert interventions(families.build("llama")) == {}
    one = vectors(model, store)
    np.testing.assert_array_equal(vectors(model, store), one)
    layer.active_adapters = ["two"]
    with pytest.raises(MixedRunError, match=r"adapters \[.one \* 2 in .* → \[.two \* 2"):
        vectors(model, store)
    layer.active_adapters, layer.scaling["one"] = ["one"], 3.0
    with pytest.raises(MixedRunError, match="adapters"):
        vectors(model, store)
    layer.scaling["one"], layer.disable_adapters = 2.0, True
    with pytest.raises(MixedRunError, match="adapters"):
        vectors(model, store)


def test_learned_prompts_around_a_model_are_refused() -> None:
    class Prompted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.active_peft_config = SimpleNamespace(is_prompt_learning=True)
            self.peft_config = {"default": self.active_peft_config}

        def get_base_model(self) -> Any:
            return families.build("llama")

    with pytest.raises(ModelError, match=r"Prompted has learned prompts .*get_base_model\(\)"):
        find(Prompted())


class Wrapped(nn.Module):
    """As `torch.compile` and PEFT wrap a model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._orig_mod = model
        self.forward = model.forward


def other_tokens(module: Any, args: Any, kwargs: Any) -> Any:
    return args, {**kwargs, "input_ids": torch.full_like(kwargs["input_ids"], 20)}


@pytest.mark.parametrize(
    ("place", "new", "refused"),
    [
        ("wrapper", 0, "around its LlamaModel .Wrapped before: other_tokens"),
        ("wrapper", 2, "around its LlamaForCausalLM .Wrapped before: other_tokens"),
        ("model", 0, "around its LlamaModel ._orig_mod before: other_tokens"),
        ("model", 2, None),
        ("base", 0, None),
    ],
)
def test_hooks_that_a_capture_would_leave_out_are_refused(
    place: str, new: int, refused: str | None, tmp_path: Path
) -> None:
    model = families.build("llama")
    wrapper = Wrapped(model)
    options = {"max_new_tokens": new, "self_check": False}
    plain = vectors(wrapper, tmp_path / "plain", **options)
    hooked = {"wrapper": wrapper, "model": model, "base": model.model}[place]
    handle = hooked.register_forward_pre_hook(other_tokens, with_kwargs=True)
    if refused is None:
        assert np.abs(vectors(wrapper, tmp_path / "s", **options) - plain).max() > 0.1
    else:
        with pytest.raises(ModelError, match=refused):
            vectors(wrapper, tmp_path / "s", **options)
    handle.remove()
    np.testing.assert_array_equal(vectors(wrapper, tmp_path / "plain", **options), plain)


def test_a_recording_writes_down_the_hooks_around_a_model(tmp_path: Path) -> None:
    wrapper = Wrapped(families.build("llama"))
    wrapper.register_forward_pre_hook(other_tokens, with_kwargs=True)
    with (
        torch.no_grad(),
        actstore.record(wrapper, tmp_path / "s", layers=0, model_name="m") as recorder,
        recorder.example("a"),
    ):
        wrapper(input_ids=torch.tensor([[1, 2, 3]]))
    (run,) = manifest.load(tmp_path / "s").runs
    (told,) = run.settings["hooks_around"]
    assert told.startswith("Wrapped before: other_tokens")
