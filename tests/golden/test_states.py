"""States of a real model at every layer and site, against the test's own hooks and transformers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actstore
from actstore.models.loading import LoadedModel
from docs.study import facts, model
from tests.torture.effort import TORTURE

LAYERS = 30
SITES = ("embeddings", "resid_pre", "attn_out", "mlp_in", "mlp_out", "resid_post", "final_norm")
NEAR = 1e-5
"""Relative error: a batch adds up in another order than an example alone, in float32."""

States = Mapping[tuple[str, int | None], np.ndarray]
WAYS = [("left", True), ("right", False), *([("left", False), ("right", True)] * TORTURE)]
"""Sides that are padded, with and without the chat template: each of both in every run."""


def examples() -> list[dict[str, str]]:
    """Statements of different lengths, so that padding matters."""
    rows = [row._asdict() for row in facts.statements(12)]
    texts = sorted(rows, key=lambda row: len(row["question"]))
    return [texts[0], texts[-1], texts[len(texts) // 2]]


def rendered(question: str, template: bool) -> str:
    """The prompt, written out by hand."""
    if not template:
        return question
    return (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
        f"Face<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    )


def reference(loaded: LoadedModel, text: str) -> tuple[States, list[torch.Tensor]]:
    """Run one text alone, with hooks of our own; return states ``[tokens, width]`` by place."""
    found: dict[tuple[str, int | None], np.ndarray] = {}
    handles = []

    def keep(place: tuple[str, int | None], *, given: bool = False) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            value = inputs[0] if given else output
            value = value[0] if isinstance(value, tuple) else value
            found[place] = value[0].detach().numpy().copy()

        return hook

    inner = loaded.model.model
    handles.append(inner.embed_tokens.register_forward_hook(keep(("embeddings", -1))))
    handles.append(inner.norm.register_forward_hook(keep(("final_norm", None))))
    for number, block in enumerate(inner.layers):
        handles.append(block.self_attn.register_forward_hook(keep(("attn_out", number))))
        handles.append(block.mlp.register_forward_hook(keep(("mlp_in", number), given=True)))
        handles.append(block.mlp.register_forward_hook(keep(("mlp_out", number))))
        handles.append(block.register_forward_hook(keep(("resid_post", number))))
        handles.append(
            block.input_layernorm.register_forward_hook(keep(("resid_pre", number), given=True))
        )
    inputs = loaded.processor(text, return_tensors="pt", add_special_tokens=False)
    try:
        with torch.no_grad():
            made = loaded.model(**inputs, output_hidden_states=True)
    finally:
        for handle in handles:
            handle.remove()
    return found, list(made.hidden_states)


Reference = Callable[[str], tuple[States, list[torch.Tensor]]]


@pytest.fixture(scope="module")
def references(loaded: LoadedModel) -> Reference:
    """A text's reference, which is the same whatever side others are padded on."""
    return functools.cache(functools.partial(reference, loaded))


@pytest.mark.parametrize(("side", "template"), WAYS)
def test_states_of_every_layer_and_site(
    loaded: LoadedModel, references: Reference, tmp_path: Path, side: Any, template: bool
) -> None:
    rows = examples()
    summary = actstore.capture(
        loaded.model,
        loaded.processor,
        rows,
        store=tmp_path / "store",
        sites=SITES,
        pool=["prompt.tokens"],
        chat_template=template,
        padding_side=side,
        batch_size=4,
        self_check=False,  # this test looks more closely
    )
    assert not summary.refused
    runs = [references(rendered(row["question"], template)) for row in rows]
    for states, hidden in runs:
        assert len(states) == 5 * LAYERS + 2
        for number in range(LAYERS):
            np.testing.assert_array_equal(states["resid_pre", number], hidden[number][0].numpy())
        np.testing.assert_array_equal(states["final_norm", None], hidden[-1][0].numpy())
    with actstore.open(tmp_path / "store") as store:
        for site, layer in runs[0][0]:
            chosen = store.select(site=site, layer=layer)
            vectors = chosen.numpy()
            names = ["example_id", "variant", "position"]
            keys = [tuple(key.values()) for key in chosen.table(names).to_pylist()]
            at = {key: number for number, key in enumerate(keys)}
            assert len(at) == len(keys) == sum(len(states[site, layer]) for states, _ in runs)
            for row, (states, _) in zip(rows, runs, strict=True):
                expected = states[site, layer]
                got = vectors[
                    [at[row["id"], row["variant"], place] for place in range(len(expected))]
                ]
                away = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
                assert away.max() < NEAR, (site, layer, away.max())


def test_the_conversion_keeps_the_weights_of_the_file(loaded: LoadedModel) -> None:
    """Unpacked four-bit weights, rounded to bfloat16: off by at most half its last digit."""
    import gguf

    reader = gguf.GGUFReader(model.source())
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    weights = loaded.model.state_dict()
    for name, own in (
        ("blk.7.ffn_down.weight", "model.layers.7.mlp.down_proj.weight"),
        ("blk.29.attn_v.weight", "model.layers.29.self_attn.v_proj.weight"),
        ("output_norm.weight", "model.norm.weight"),
    ):
        packed = tensors[name]
        expected = gguf.dequantize(packed.data, packed.tensor_type)
        np.testing.assert_allclose(weights[own].numpy(), expected, rtol=2**-8, atol=0)


def test_the_first_tokens_norm_is_massive_and_means_leave_it_out(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    """In a chat prompt the first token is BOS: the mean is that of all other tokens."""
    rows = examples()[:2]
    for template, folder in ((True, "chat"), (False, "raw")):
        actstore.capture(
            loaded.model,
            loaded.processor,
            rows,
            store=tmp_path / folder,
            layers=[15],
            pool=["prompt.tokens", "prompt.mean"],
            chat_template=template,
            self_check=False,
        )
        with actstore.open(tmp_path / folder) as store:
            for row in rows:
                which: dict[str, Any] = {"example_id": row["id"], "variant": row["variant"]}
                tokens = store.select(pooling="none", **which)
                order = np.argsort(tokens.table(["position"])["position"].to_numpy())
                states = tokens.numpy()[order].astype(np.float64)
                (mean,) = store.select(pooling="mean", **which).numpy()
                norms = np.linalg.norm(states, axis=1)
                assert norms[0] > 5 * np.median(norms[1:])
                # Texts asked as they are begin with no BOS here, so nothing is left out.
                expected = states[1:].mean(0) if template else states.mean(0)
                np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-4)
