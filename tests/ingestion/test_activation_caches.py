"""Caches of other tools: which entries are taken, what they are called, which array is meant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from actstore.errors import LayoutError, NotInStoreError, UsageError
from actstore.ingestion.activation_caches import NamedArray, arrays, places


class LensCache:
    """Speaks as TransformerLens' ActivationCache does: items(), has_batch_dim, no Mapping."""

    def __init__(self, tensors: dict[str, torch.Tensor], has_batch_dim: bool = True) -> None:
        self.tensors = tensors
        self.has_batch_dim = has_batch_dim

    def items(self) -> Any:
        return self.tensors.items()


@dataclass
class Entry:
    """A visit of a module, as nnsight keeps it."""

    output: Any = None
    input: Any = None


class View:
    """Speaks as nnsight's CacheView does: keys(), [key], and a module for every attribute."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries

    def keys(self) -> list[str]:
        return list(self._entries)

    def __getitem__(self, key: str) -> Entry:
        return self._entries[key]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the module has no attribute {name!r}")

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("nothing to iterate over")


def ones(*shape: int, value: float = 1.0) -> torch.Tensor:
    return torch.full(shape, value)


def named(found: Any) -> list[tuple[str, int | None]]:
    return [(place.site, place.layer) for place in found.chosen]


def test_every_entry_of_a_mapping_is_taken() -> None:
    found = places(
        {
            "blocks.3.hook_resid_post": ones(2, 4),
            "model.layers.7.mlp": ones(2, 4),
            "my.own.hook": ones(2, 4),
            ("resid_pre", 5): ones(2, 4),
            ("hook_embed", None): ones(2, 4),
            ("attn_out", np.int64(2)): ones(2, 4),
        }
    )
    assert named(found) == [
        ("resid_post", 3),
        ("mlp_out", 7),
        ("my.own.hook", None),
        ("resid_pre", 5),
        ("embeddings", -1),
        ("attn_out", 2),
    ]
    assert found.skipped == ()
    assert found.has_examples


def test_of_a_cache_the_sites_of_the_schema_are_taken() -> None:
    cache = LensCache(
        {
            "hook_embed": ones(1, 3, 4),
            "blocks.0.hook_resid_post": ones(1, 3, 4),
            "blocks.0.attn.hook_pattern": ones(1, 2, 3, 3),
            "blocks.1.hook_resid_post": ones(1, 3, 4),
        }
    )
    found = places(cache)
    assert named(found) == [("embeddings", -1), ("resid_post", 0), ("resid_post", 1)]
    assert found.skipped == ("blocks.0.attn.hook_pattern",)
    assert named(places(cache, layers=[1])) == [("resid_post", 1)]
    assert named(places(cache, sites=["hook_resid_post"], layers=[0])) == [("resid_post", 0)]
    pattern = places(cache, sites=["blocks.0.attn.hook_pattern"])
    assert named(pattern) == [("blocks.0.attn.hook_pattern", None)]
    assert not places(LensCache(cache.tensors, has_batch_dim=False)).has_examples


def test_what_was_asked_for_and_is_not_there() -> None:
    cache = LensCache({"blocks.0.hook_resid_post": ones(1, 3, 4)})
    with pytest.raises(NotInStoreError, match="hold no site mlp_out: they hold resid_post"):
        places(cache, sites=["mlp_out"])
    with pytest.raises(NotInStoreError, match="hold no layer 9: they hold 0"):
        places(cache, layers=[9])
    with pytest.raises(UsageError, match="nothing to write: the activations hold hook_scale"):
        places(LensCache({"hook_scale": ones(1, 3, 1)}))
    with pytest.raises(UsageError, match="nothing to write: the activations hold nothing"):
        places({})


def test_two_names_of_one_place() -> None:
    same = ones(1, 3, 4)
    found = places(LensCache({"blocks.0.hook_out": same, "blocks.0.hook_resid_post": same}))
    assert [place.name for place in found.chosen] == ["blocks.0.hook_out"]
    assert found.skipped == ("blocks.0.hook_resid_post",)
    differing = {"blocks.0.hook_out": same, "model.layers.0": ones(1, 3, 4, value=2)}
    with pytest.raises(UsageError, match=r"blocks\.0\.hook_out and model\.layers\.0 are both"):
        places(differing)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_input_of_the_mlp_goes_before_the_norm_without_its_weights(reverse: bool) -> None:
    names = ["blocks.0.ln2.hook_normalized", "blocks.0.mlp.hook_in"]
    values = {names[0]: ones(1, 3, 4), names[1]: ones(1, 3, 4, value=2)}
    ordered = {name: values[name] for name in (reversed(names) if reverse else names)}
    (place,) = places(LensCache(ordered)).chosen
    assert (place.name, place.site, place.layer) == ("blocks.0.mlp.hook_in", "mlp_in", 0)


def test_nnsight_keeps_outputs_and_inputs_behind_its_view() -> None:
    view = View(
        {
            "model.model.layers.0": Entry(ones(2, 3, 4), ones(2, 3, 4, value=2)),
            "model.model.layers.0.self_attn": Entry((ones(2, 3, 4, value=3), None)),
            "model.model.layers.1": Entry(None, ones(2, 3, 4, value=5)),
            "model.lm_head": Entry(ones(2, 3, 9)),
        }
    )
    found = places(view)
    assert named(found) == [
        ("resid_post", 0),
        ("resid_pre", 0),
        ("attn_out", 0),
        ("resid_pre", 1),
    ]
    assert [arrays(place)[0].numpy().flat[0] for place in found.chosen] == [1, 2, 3, 5]
    assert found.skipped == ("model.lm_head",)


def test_steps_of_a_generation_behind_nnsights_view() -> None:
    view = View(
        {
            "model.model.layers.0": Entry([ones(2, 3, 4), ones(2, 1, 4, value=2)], [None, None]),
            "model.model.layers.1": Entry([None, None], None),
        }
    )
    found = places(view)
    assert named(found) == [("resid_post", 0)]
    (steps,) = arrays(found.chosen[0])
    assert steps.numpy()[0, :, 0].tolist() == [1, 1, 1, 2]


def test_mappings_of_entries_are_nnsight_before_08_and_baukit() -> None:
    found = places({"model.layers.4": Entry(ones(2, 3, 4)), "model.layers.5": Entry((ones(2, 4),))})
    assert named(found) == [("resid_post", 4), ("resid_post", 5)]
    assert [arrays(place)[0].shape for place in found.chosen] == [(2, 3, 4), (2, 4)]


def array_of(value: Any) -> Any:
    return arrays(NamedArray("here", "resid_post", 0, value))


def test_steps_of_a_generation_follow_each_other() -> None:
    steps = [ones(2, 3, 4), ones(2, 1, 4, value=2), ones(2, 1, 4, value=3)]
    for value in (steps, [Entry(step) for step in steps], [(step, None) for step in steps]):
        (found,) = array_of(value)
        assert found.shape == (2, 5, 4)
        assert found.numpy()[0, :, 0].tolist() == [1, 1, 1, 2, 3]
    with pytest.raises(LayoutError, match="do not follow each other"):
        array_of([ones(2, 3, 4), ones(1, 1, 4)])


def test_what_can_be_an_array() -> None:
    assert [each.shape for each in array_of([ones(3, 4), ones(5, 4)])] == [(3, 4), (5, 4)]
    assert array_of([[1.0, 2.0], [3.0, 4.0]])[0].shape == (2, 2)
    (exact,) = array_of(ones(2, 4).bfloat16())
    assert (exact.dtype, exact.numpy().dtype) == ("bfloat16", np.float32)
    assert array_of(ones(2, 4).requires_grad_())[0].shape == (2, 4)
    for value in ("text", None, {"a": 1}):
        with pytest.raises(LayoutError, match="here holds"):
            array_of(value)
    with pytest.raises(LayoutError, match="here: a sparse tensor"):
        array_of(ones(2, 4).to_sparse())
    with pytest.raises(LayoutError, match="here: a tensor on the device 'meta'"):
        array_of(torch.empty(2, 4, device="meta"))


@pytest.mark.parametrize("key", [7, ("resid_post", "3"), ("resid_post", -2), ("a", 1, 2), None])
def test_keys_that_do_not_say_where(key: Any) -> None:
    with pytest.raises(UsageError, match=r"does not say where|cannot be"):
        places({key: ones(2, 4)})


def test_a_name_and_a_number_that_disagree() -> None:
    with pytest.raises(UsageError, match="cannot be"):
        places({("blocks.3.hook_resid_post", 4): ones(2, 4)})


def test_what_is_no_cache() -> None:
    with pytest.raises(UsageError, match="an array alone does not say where"):
        places(ones(2, 4))
    with pytest.raises(UsageError, match="activations of type int are unknown"):
        places(3)


def test_token_embeddings_are_what_enters_block_0_or_left_out() -> None:
    tokens, entering = ones(2, 3, 4), ones(2, 3, 4) * 2
    same = LensCache({"hook_embed": tokens, "blocks.0.hook_resid_pre": tokens.clone()})
    assert named(places(same)) == [("embeddings", -1), ("resid_pre", 0)]
    # GPT-2 adds positions, Gemma 2 multiplies.
    other = LensCache({"hook_embed": tokens, "blocks.0.hook_resid_pre": entering})
    found = places(other)
    assert named(found) == [("resid_pre", 0)]
    assert found.skipped == ("hook_embed",)
    assert "hook_embed is left out: it is not what enters block 0" in found.notes[0]
    alone = {"transformer.wte": tokens, "transformer.wpe": ones(1, 3, 4)}
    assert named(places(alone)) == [("transformer.wpe", None)]
    with pytest.raises(UsageError, match=r"nothing to write.*is not what enters block 0"):
        places(other, sites=["embeddings"])
    assert named(places({"model.embed_tokens": tokens})) == [("embeddings", -1)]
    mine = {("embeddings", -1): tokens, ("resid_pre", 0): entering}
    assert named(places(mine)) == [("embeddings", -1), ("resid_pre", 0)]


def test_states_before_the_weights_of_a_norm_are_told() -> None:
    normalized = {f"blocks.{layer}.ln2.hook_normalized": ones(2, 3, 4) for layer in (0, 1)}
    found = places(LensCache(normalized))
    assert named(found) == [("mlp_in", 0), ("mlp_in", 1)]
    (note,) = found.notes
    assert note.startswith("blocks.0.ln2.hook_normalized is stored as mlp_in")
    own_input = {"blocks.0.mlp.hook_in": ones(2, 3, 4) * 2}
    both = places(LensCache({"blocks.0.ln2.hook_normalized": ones(2, 3, 4), **own_input}))
    assert [place.name for place in both.chosen] == ["blocks.0.mlp.hook_in"]
    assert both.notes == ()
