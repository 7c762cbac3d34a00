"""Finding the parts of models by structure, and which models are refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from actstore.errors import ModelError, UsageError
from actstore.models import blocks
from tests.capturing import families, references, vision_families


def built(config: Any) -> Any:
    """Build a causal model without memory."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("name", families.LANGUAGE)
def test_parts_of_language_models(name: str) -> None:
    model = families.build(name)
    anatomy = blocks.find(model)
    # Llama 4 names no base of its own
    assert anatomy.base is (model.model if name == "llama4_text" else model.base_model)
    assert anatomy.blocks_path == references.blocks_path(name)
    assert anatomy.blocks == tuple(model.get_submodule(anatomy.blocks_path))
    assert anatomy.embeddings is model.get_input_embeddings()
    assert anatomy.head is model.get_output_embeddings()
    assert anatomy.final_norm is not None
    assert "norm" in type(anatomy.final_norm).__name__.lower()
    assert anatomy.model is model


@pytest.mark.parametrize("name", vision_families.EVERY)
def test_parts_of_vision_language_models(name: str) -> None:
    model, _ = families.build_vlm(name)
    anatomy = blocks.find(model)
    assert anatomy.blocks_path == references.blocks_path(name, sees=True)
    assert anatomy.base is (model if name == "llama4" else model.model)  # has no base of its own
    assert anatomy.head is model.get_output_embeddings()
    assert len(anatomy.blocks) == families.BLOCKS


def test_a_base_model_by_itself_has_no_head() -> None:
    base = families.build("llama").model
    anatomy = blocks.find(base)
    assert anatomy.base is base
    assert anatomy.blocks_path == "layers"
    assert anatomy.head is None


def test_every_decoder_of_transformers_can_be_told_apart() -> None:
    """A sample of the classes whose parts hide: see also the families above."""
    import transformers as t

    expected = {
        "bloom": ("transformer.h", "self_attention.dense", "mlp.dense_4h_to_h"),
        "mpt": ("transformer.blocks", "attn", "ffn.down_proj"),
        "rwkv": ("rwkv.blocks", "attention", "feed_forward"),
        "xglm": ("model.layers", "self_attn", "fc2"),
        "cpmant": ("cpmant.encoder.layers", "self_att", "ffn"),
        "modernbert-decoder": ("model.layers", "attn", "mlp"),
        "llama4_text": ("model.layers", "self_attn", "feed_forward"),
    }
    for kind, (path, attention, mlp) in expected.items():
        anatomy = blocks.find(built(t.AutoConfig.for_model(kind)))
        assert anatomy.blocks_path == path, kind
        found = blocks.points(anatomy, ["attn_out", "mlp_out"], [0])
        assert [point.path for point in found] == [f"{path}.0.{attention}", f"{path}.0.{mlp}"]
        assert anatomy.base is not anatomy.model, kind


def test_hybrids_are_looked_up_block_by_block() -> None:
    anatomy = blocks.find(families.build("qwen3_next"))
    found = blocks.points(anatomy, ["attn_out"], [0, 1, 2])
    assert [point.path.rpartition(".")[2] for point in found] == [
        "linear_attn",
        "self_attn",
        "linear_attn",
    ]


def test_mixers_are_attention_or_mlp_by_what_they_are() -> None:
    import transformers as t

    config = t.NemotronHConfig(
        layers_block_type=["mamba", "attention", "moe"], num_hidden_layers=3, hidden_size=64
    )
    anatomy = blocks.find(built(config))
    assert blocks.points(anatomy, ["attn_out"], [1])[0].path == "model.layers.1.mixer"
    assert blocks.points(anatomy, ["mlp_out"], [2])[0].path == "model.layers.2.mixer"
    with pytest.raises(ModelError, match=r"block 2 .*among norm, mixer; the layers 1 have one"):
        blocks.points(anatomy, ["attn_out"], [1, 2])
    with pytest.raises(ModelError, match="has no such module among norm, mixer"):
        blocks.points(anatomy, ["mlp_in"], [0])


@pytest.mark.parametrize("name", families.LANGUAGE)
def test_sites_that_blocks_of_a_family_lack_are_refused_with_the_reason(name: str) -> None:
    anatomy = blocks.find(families.build(name))
    having = references.sites(name)
    for site in ("attn_out", "mlp_in", "mlp_out"):
        for layer in set(range(len(anatomy.blocks))) - set(having.get(site, ())):
            with pytest.raises(ModelError, match=rf"site '{site}': block {layer} of ") as refused:
                blocks.points(anatomy, [site], [layer])
            # whatever does the work instead is named, with the site to capture it by
            other = {path for path, layers in having.items() if layer in layers} - _NAMED_SITES
            if site == "attn_out" and other - {"block_sparse_moe", "shared_mlp"}:
                assert any(path in str(refused.value) for path in other)
                assert "captured as site" in str(refused.value) or "path" in str(refused.value)


_NAMED_SITES = {*blocks.SITES, "shared_mlp.input"}


def test_mlps_side_by_side_are_refused_and_captured_by_their_paths() -> None:
    anatomy = blocks.find(families.build("granitemoehybrid"))
    with pytest.raises(ModelError, match=r"side by side.*\(block_sparse_moe, shared_mlp\)"):
        blocks.points(anatomy, ["mlp_out"], [0])
    with pytest.raises(ModelError, match=r"\(block_sparse_moe\.input, shared_mlp\.input\)"):
        blocks.points(anatomy, ["mlp_in"], [0])


def test_the_one_mlp_of_a_granite_without_experts_is_its_shared_one() -> None:
    import transformers as t

    config = t.GraniteMoeHybridConfig(
        num_local_experts=0, num_hidden_layers=2, layers_block_type=["attention"] * 2
    )
    found = blocks.points(blocks.find(built(config)), ["mlp_out"], [1])
    assert found[0].path == "model.layers.1.shared_mlp"


def test_attention_beside_a_recurrence_is_captured_by_its_path() -> None:
    anatomy = blocks.find(families.build("falcon_h1"))
    with pytest.raises(ModelError, match=r"self_attn and mamba side by side.*attention: .*path"):
        blocks.points(anatomy, ["attn_out"], [0])


def test_parts_that_do_not_write_to_the_residual_stream_are_captured_by_their_path() -> None:
    """Zamba's shared attention and MLP feed the Mamba of their block."""
    anatomy = blocks.find(families.build("zamba"))
    with pytest.raises(ModelError, match=r"inside shared_transf, .*'shared_transf\.self_attn'"):
        blocks.points(anatomy, ["attn_out"], [1])
    with pytest.raises(ModelError, match=r"inside shared_transf, .*'shared_transf\.feed_forward'"):
        blocks.points(anatomy, ["mlp_out"], [3])
    shared = blocks.points(anatomy, ["shared_transf.self_attn"], [1, 3])
    assert [point.layer for point in shared] == [1, 3]
    assert shared[0].module is not shared[1].module


def test_points_of_every_site() -> None:
    model = families.build("llama")
    anatomy = blocks.find(model)
    found = blocks.points(anatomy, blocks.SITES, [0, 2])
    assert [(p.site, p.layer, p.path, p.take) for p in found] == [
        ("resid_post", 0, "model.layers.0", "output"),
        ("resid_post", 2, "model.layers.2", "output"),
        ("resid_pre", 0, "model.layers.0", "input"),
        ("resid_pre", 2, "model.layers.2", "input"),
        ("mlp_in", 0, "model.layers.0.mlp", "input"),
        ("mlp_in", 2, "model.layers.2.mlp", "input"),
        ("mlp_out", 0, "model.layers.0.mlp", "output"),
        ("mlp_out", 2, "model.layers.2.mlp", "output"),
        ("attn_out", 0, "model.layers.0.self_attn", "output"),
        ("attn_out", 2, "model.layers.2.self_attn", "output"),
        ("head_out", 0, "model.layers.0.self_attn.o_proj", "input"),
        ("head_out", 2, "model.layers.2.self_attn.o_proj", "input"),
        ("embeddings", -1, "model.layers.0", "input"),
        ("final_norm", None, "model.norm", "output"),
    ]
    assert all(model.get_submodule(p.path) is p.module for p in found)


def test_sites_by_other_names_and_by_path() -> None:
    anatomy = blocks.find(families.build("llama"))
    names = ["blocks.1.hook_resid_post", "self_attn.o_proj.input", "mlp.gate_proj", "resid_post"]
    found = blocks.points(anatomy, names, [1, 2])
    assert [(p.site, p.layer, p.path, p.take) for p in found] == [
        ("resid_post", 1, "model.layers.1", "output"),
        ("self_attn.o_proj.input", 1, "model.layers.1.self_attn.o_proj", "input"),
        ("self_attn.o_proj.input", 2, "model.layers.2.self_attn.o_proj", "input"),
        ("mlp.gate_proj", 1, "model.layers.1.mlp.gate_proj", "output"),
        ("mlp.gate_proj", 2, "model.layers.2.mlp.gate_proj", "output"),
        ("resid_post", 2, "model.layers.2", "output"),
    ]


@pytest.mark.parametrize(
    "site", ["resid_mid", "features", "mlp.nothing", "self_attn.o_proj.output"]
)
def test_sites_that_a_block_lacks_are_named(site: str) -> None:
    anatomy = blocks.find(families.build("llama"))
    with pytest.raises(ModelError, match="among self_attn, mlp, input_layernorm"):
        blocks.points(anatomy, [site], [0])


def test_a_layer_named_by_a_site_has_to_exist() -> None:
    anatomy = blocks.find(families.build("llama"))
    with pytest.raises(UsageError, match=r"layer 7 does not exist: the model has 3 blocks"):
        blocks.points(anatomy, ["blocks.7.hook_resid_post"], [0])


def test_blocks_by_path() -> None:
    model = families.build_vlm("llava")[0]
    tower = "model.vision_tower.encoder.layers"
    assert blocks.find(model, blocks=tower).blocks == tuple(model.get_submodule(tower))
    with pytest.raises(ModelError, match=r"does not exist .*model\.language_model\.layers"):
        blocks.find(model, blocks="model.layers")
    with pytest.raises(ModelError, match="is a LlamaModel"):
        blocks.find(model, blocks="model.language_model")


def test_a_model_without_recognisable_blocks_lists_its_lists() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    with pytest.raises(ModelError, match=r"lists of modules: steps\); name it with --blocks"):
        blocks.find(Odd())
    assert blocks.find(Odd(), blocks="steps").blocks_path == "steps"


def test_compiled_models_are_unwrapped_or_refused() -> None:
    model = families.build("llama")
    inside = copy.deepcopy(model)
    whole = copy.deepcopy(model)
    wrapped: Any = torch.compile(model, backend="eager")
    assert blocks.find(wrapped).model is model
    inside.model.layers[1].compile(backend="eager")
    with pytest.raises(ModelError, match=r"compiled at model\.layers\.1: hooks"):
        blocks.find(inside)
    whole.compile(backend="eager")
    with pytest.raises(ModelError, match="compiled at the top"):
        blocks.find(whole)


def test_data_parallel_models_are_unwrapped() -> None:
    model = families.build("llama")
    assert blocks.find(nn.DataParallel(model)).model is model


def test_several_residual_streams_are_refused_with_the_reason() -> None:
    import transformers as t

    small = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 96}
    with pytest.raises(ModelError, match=r"hyper-connections keep several .*hc_mult=4"):
        blocks.find(built(t.AutoConfig.for_model("deepseek_v4", **small)))
    with pytest.raises(ModelError, match="AltUp keeps several"):
        blocks.find(built(t.AutoConfig.for_model("gemma3n_text")))


def test_encoder_decoders_and_shared_layers_are_refused() -> None:
    import transformers as t

    with torch.device("meta"):
        translator = t.T5ForConditionalGeneration(t.T5Config(d_model=64, num_layers=2))
    with pytest.raises(ModelError, match="encoder-decoder"):
        blocks.find(translator)
    shared = families.build("llama")
    shared.model.layers[2] = shared.model.layers[0]
    with pytest.raises(ModelError, match="the same module several times"):
        blocks.find(shared)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("all", list(range(13))),
        ("last", [12]),
        ("0,6,12", [0, 6, 12]),
        ("every-6", [0, 6, 12]),
        ("every-5", [0, 5, 10]),
        ("0.25,0.5,0.75", [3, 6, 9]),
        ("1.0,0.0", [0, 12]),
        (".5", [6]),
        ("-1,-13", [0, 12]),
        ("last, 3 ,3", [3, 12]),
        (4, [4]),
        ([2, -1], [2, 12]),
        (range(3), [0, 1, 2]),
    ],
)
def test_layers(spec: Any, expected: list[int]) -> None:
    assert blocks.parse_layers(spec, 13) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("13", "0 to 12"),
        ("-14", "-1 to -13"),
        ("every-0", "not understood"),
        ("first", "not understood"),
        ("1.5", "not understood"),
        ("", "no layers"),
        ([], "no layers"),
    ],
)
def test_layers_that_cannot_be(spec: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        blocks.parse_layers(spec, 13)
