"""Sites of blocks that put their parts together in an unusual way are what their names say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import actstore
from actstore.capturing.forward.engine import Engine
from actstore.capturing.forward.hooks import Tap
from actstore.capturing.forward.pooling import parse_pools
from actstore.capturing.prompts.encode import Prompter
from actstore.capturing.prompts.example import Example, from_dict
from actstore.capturing.selfcheck import check, residual_sum
from actstore.errors import ActstoreError, ModelError, SelfCheckError
from actstore.models import blocks
from actstore.storage.snapshot import open_snapshot
from tests.capturing import comparing, families, odd_families, references, vision_families
from tests.ingestion.storing import stored_rows

EXAMPLES = [
    Example(id=str(number), question="which is larger " + "1 2 3 " * number) for number in (1, 4, 2)
]
POOLS = (
    "prompt.last,prompt.first,prompt.mean,prompt.max,prompt.tokens,prompt.-2,question.mean,all.mean"
)
_BLOCKS = {"bloom": "transformer.h", "mpt": "transformer.blocks", "opt": "model.decoder.layers"}
# Where each part is before anything is added to it, written out by hand.
_PARTS = {
    "bloom": {
        "attn_out": ("self_attention.dense", "output"),
        "head_out": ("self_attention.dense", "input"),
        "mlp_in": ("mlp", "input"),
        "mlp_out": ("mlp.dense_4h_to_h", "output"),
    },
    "mpt": {
        "attn_out": ("attn", "output"),
        "head_out": ("attn.out_proj", "input"),
        "mlp_in": ("ffn", "input"),
        "mlp_out": ("ffn.down_proj", "output"),
    },
    "opt": {
        "attn_out": ("self_attn", "output"),
        "head_out": ("self_attn.out_proj", "input"),
        "mlp_in": ("fc1", "input"),
        "mlp_out": ("fc2", "output"),
    },
}


def kind_of(name: str) -> str:
    return name.partition("_")[0]


@contextmanager
def recording(wanted: dict[Any, tuple[Any, str]], seen: references.States) -> Iterator[None]:
    """Keep whole states of modules by plain hooks."""
    handles = []
    for key, (module, side) in wanted.items():

        def keep(value: Any, key: Any = key) -> None:
            states = value[0] if isinstance(value, tuple) else value
            seen[key] = states.detach().clone().numpy().reshape(-1, states.shape[-1])

        if side == "input":
            handles.append(
                module.register_forward_pre_hook(
                    lambda _, args, kwargs, keep=keep: keep(
                        args[0] if args else kwargs["hidden_states"]
                    ),
                    with_kwargs=True,
                )
            )
        else:
            handles.append(module.register_forward_hook(lambda _, __, out, keep=keep: keep(out)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def alone(name: str, model: Any, ids: list[int]) -> references.States:
    """Return every site of one text without pads, by hooks of the test's own."""
    kind = kind_of(name)
    wanted: dict[Any, tuple[Any, str]] = {}
    inner = model.get_submodule(_BLOCKS[kind])
    for layer, block in enumerate(inner):
        wanted["resid_pre", layer] = block, "input"
        wanted["resid_post", layer] = block, "output"
        for site, (path, side) in _PARTS[kind].items():
            wanted[site, layer] = block.get_submodule(path), side
    seen: references.States = {}
    with recording(wanted, seen), torch.no_grad():
        output = model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    hidden = [state[0].numpy() for state in output.hidden_states]
    for layer in range(len(inner)):
        assert np.array_equal(seen["resid_pre", layer], hidden[layer])
    seen["embeddings", -1] = hidden[0]
    return seen


@pytest.mark.parametrize("name", odd_families.ODD)
@pytest.mark.parametrize("side", ["left", "right"])
def test_every_site_and_pool_matches_each_text_alone(name: str, side: str) -> None:
    model = odd_families.build(name)
    anatomy = blocks.find(model)
    sites = ("resid_pre", "resid_post", "attn_out", "head_out", "mlp_in", "mlp_out", "embeddings")
    prompts = comparing.texts()
    expected = [alone(name, model, prompt) for prompt in prompts]
    ids, mask = comparing.padded(prompts, side)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask.long()}
    if kind_of(name) == "opt":
        inputs["position_ids"] = comparing.positions(mask)
    wanted = blocks.points(anatomy, sites, range(len(anatomy.blocks)))
    with torch.inference_mode(), Tap(wanted, parse_pools(POOLS), anatomy=anatomy) as tap:
        tap.begin(comparing.regions(mask), comparing.first_tokens(mask))
        tap.call(anatomy.base, **inputs, use_cache=False)
        pooled = tap.end()
    spans = comparing.prompt_spans(prompts)
    assert comparing.distances(pooled, expected, spans, skip=(0,)).max() < 1e-5
    if name in ("bloom", "mpt", "opt_projected"):
        for states in expected:
            for layer in range(families.BLOCKS):
                parts = [states[site, layer] for site in ("resid_pre", "attn_out", "mlp_out")]
                np.testing.assert_allclose(sum(parts), states["resid_post", layer], atol=1e-4)


def engine(model: Any, sites: Any, **options: Any) -> Engine:
    anatomy = blocks.find(model)
    return Engine(
        anatomy,
        Prompter(model, families.tokenizer()),
        blocks.points(anatomy, sites, range(len(anatomy.blocks))),
        parse_pools("prompt.last,prompt.mean"),
        **options,
    )


PARTS = ("resid_post", "attn_out", "mlp_out")
HOW = {
    "bloom": ("attn_out", "mlp_out"),
    "mpt": ("attn_out", "mlp_out"),
    "gemma2": ("post_attention_layernorm(attn_out)", "post_feedforward_layernorm(mlp_out)"),
    "olmo2": ("post_attention_layernorm(attn_out)", "post_feedforward_layernorm(mlp_out)"),
    "granite": ("0.5 * attn_out", "0.5 * mlp_out"),
    "qwen3_next": ("attn_out", "mlp_out"),
    "gpt_neox": ("attn_out", "mlp_out"),
    "opt_350m": (
        "attn_out, summed before self_attn_layer_norm and final_layer_norm",
        "mlp_out, summed before final_layer_norm",
    ),
}


@pytest.mark.parametrize("name", HOW)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_how_a_block_adds_its_parts_up_is_measured(name: str, dtype: torch.dtype) -> None:
    source: Any = odd_families if name in odd_families.ODD else families
    found = check.check(engine(source.build(name, dtype=dtype), PARTS), EXAMPLES)["adds_up"]
    assert (found["how"]["attn_out"], found["how"]["mlp_out"]) == HOW[name]
    assert found["holds"] is (HOW[name] == ("attn_out", "mlp_out"))
    assert "refused" not in found


@pytest.mark.parametrize("name", ["bloom", "mpt"])
def test_a_module_that_returns_the_stream_is_refused_by_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the sites were before: measured, whatever the list of exceptions says."""
    monkeypatch.setattr(blocks, "own_part", lambda block, path: path)
    model = odd_families.build(name)
    with pytest.raises(
        SelfCheckError, match=r"mlp_out of layer 0 .*residual stream.*Leave mlp_out"
    ):
        check.check(engine(model, ["mlp_out"]), EXAMPLES)
    if name == "bloom":
        with pytest.raises(SelfCheckError, match=r"attn_out of layer 0 .*with its own part added"):
            check.check(engine(model, ["attn_out"]), EXAMPLES)
    found = check.check(engine(model, ["resid_post"]), EXAMPLES)
    assert found["adds_up"]["holds"] is False
    assert "mlp_out" in found["adds_up"]["refused"]


def test_a_second_mlp_beside_the_first_is_refused_by_name_only_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = odd_families.build("granitemoeshared")
    with pytest.raises(ModelError, match="has block_sparse_moe and shared_mlp side by side"):
        engine(model, ["mlp_out"])
    found = check.check(engine(model, ["resid_post", "attn_out"]), EXAMPLES)
    assert found["adds_up"]["how"] == {"attn_out": "0.5 * attn_out"}
    assert check.check(engine(model, ["shared_mlp", "block_sparse_moe"]), EXAMPLES)["passed"]
    # measured, whatever the modules are called
    monkeypatch.setattr(blocks, "several_mlps", lambda block: [])
    with pytest.raises(SelfCheckError, match="the block adds shared_mlp beside block_sparse_moe"):
        check.check(engine(model, ["mlp_out"]), EXAMPLES)


@pytest.mark.parametrize(
    ("part", "module", "is_mlp"),
    [
        ("conv", "Lfm2MoeShortConv", False),
        ("mamba", "GraniteMoeHybridMambaLayer", False),
        ("self_attn", "Qwen3MoeAttention", False),
        ("mixer_two", "Lfm2MoeSparseMoeBlock", True),
        ("shared_expert", "Qwen3MoeMLP", True),
        ("shared_mlp", "Linear", True),
    ],
)
def test_a_family_of_experts_lends_its_name_to_modules_that_are_none(
    part: str, module: str, is_mlp: bool
) -> None:
    """What stands beside an MLP is told by its own name, not by the family's."""
    family = "GraniteMoeHybrid" if "Granite" in module else module.partition("Moe")[0] + "Moe"
    found = residual_sum.SeenBlock(
        0, f"{family}DecoderLayer", {}, {part: type(module, (nn.Module,), {})()}
    )
    assert residual_sum.is_like(found, part, "mlp_out") is is_mlp


def test_what_was_corrected_is_written_down_and_told_from_what_was_not(tmp_path: Path) -> None:
    model = odd_families.build("bloom")
    options: dict[str, Any] = {"store": tmp_path / "s", "model_name": "tiny", "layers": "last"}
    actstore.capture(model, families.tokenizer(), EXAMPLES, sites=["resid_post"], **options)
    with pytest.raises(ActstoreError, match="corrected"):
        actstore.capture(model, families.tokenizer(), EXAMPLES, sites=["mlp_out"], **options)
    options["dataset"] = "parts"
    actstore.capture(model, families.tokenizer(), EXAMPLES, sites=["mlp_out"], **options)
    snapshot = open_snapshot(tmp_path / "s")
    plain, corrected = snapshot.manifest.runs
    snapshot.close()
    assert "corrected" not in plain.settings["values"]
    assert corrected.settings["values"]["corrected"] == {
        "mlp_out": "taken at dense_4h_to_h: mlp returns its sum with the residual stream"
    }
    assert corrected.settings["hooks"] == {
        "mlp_out": ["transformer.h.{layer}.mlp.dense_4h_to_h (output)"]
    }


@pytest.mark.parametrize("name", [name for name in odd_families.ODD if name.startswith("opt")])
def test_opt_of_every_shape_is_captured_and_checked(name: str, tmp_path: Path) -> None:
    model = odd_families.build(name)
    sites = [site for site in blocks.SITES if site != "final_norm" or name == "opt_projected"]
    summary = actstore.capture(
        model,
        families.tokenizer(),
        EXAMPLES,
        store=tmp_path / "s",
        model_name="tiny",
        sites=sites,
        layers="all",
        pool="prompt.last,response.mean",
        max_new_tokens=4,
        generation={"min_new_tokens": 4},
    )
    assert summary.self_check is not None
    assert summary.self_check["last_block"] == {"final_norm": 0.0, "logits": 0.0}
    assert summary.self_check["response"] < 1e-5
    rows = stored_rows(tmp_path / "s")
    prompter = Prompter(model, families.tokenizer())
    for example in EXAMPLES:
        ids = prompter.batch([example]).inputs["input_ids"][0].tolist()
        states = alone(name, model, ids)
        for row in rows:
            if row["example_id"] == example.id and row["region"] == "prompt":
                if row["site"] == "final_norm":
                    norm = model.model.decoder.final_layer_norm
                    last = torch.from_numpy(states["resid_post", families.BLOCKS - 1][-1])
                    expected = norm(last).detach().numpy()
                else:
                    expected = states[row["site"], row["layer"]][-1]
                np.testing.assert_allclose(row["activation"], expected, rtol=1e-4, atol=1e-4)


def test_features_of_images_between_blocks_raise_no_alarm(tmp_path: Path) -> None:
    """Qwen3-VL adds to the first blocks' states at image tokens, after they are reported."""
    name = "qwen3_vl"
    model, processor = families.build_vlm(name)
    sizes = ((16, 16), (32, 16), (24, 40), (48, 16))
    questions: list[dict[str, Any]] = []
    for number, (width, height) in enumerate(sizes):
        path = tmp_path / f"{number}.png"
        vision_families.picture(number, width=width, height=height).save(path)
        text = "what is larger " + "1 2 " * number
        questions.append({"id": str(number), "question": text, "image": str(path)})
    pools = "prompt.last,prompt.mean,image.mean,image.last,image.max"
    summary = actstore.capture(
        model,
        processor,
        questions,
        store=tmp_path / "s",
        model_name="tiny",
        sites=list(blocks.SITES),
        layers="all",
        pool=pools,
        exclude=(),
    )
    assert summary.self_check is not None
    assert summary.self_check["hooks"] < 1e-5
    assert "features of images between its blocks" in summary.self_check["notes"][0]
    rows = stored_rows(tmp_path / "s")
    prompter = Prompter(model, processor)
    compared = 0
    for question in questions:
        single = prompter.batch([from_dict(question)])
        states = references.alone(name, model, single.inputs, sees=True)
        image = single.regions["image"][0].numpy()
        for row in rows:
            if row["example_id"] != question["id"]:
                continue
            kept = states[row["site"], row["layer"]]
            kept = kept[image] if row["region"] == "image" else kept
            word = row["pooling"]
            expected = kept[-1] if word == "last" else getattr(kept, word)(axis=0)
            np.testing.assert_allclose(row["activation"], expected, rtol=2e-4, atol=2e-4)
            compared += 1
    assert compared == len(rows) == 4 * 5 * (6 * families.BLOCKS + 2)


def block(**returned: torch.Tensor) -> residual_sum.SeenBlock:
    """Return a block of which this was seen: ``attn``, ``mlp`` and what came in and out."""
    found = residual_sum.SeenBlock(0, "Block", {"attn_out": "attn", "mlp_out": "mlp"}, {})
    found.taken[""] = [returned.pop("before")]
    found.returned[""] = returned.pop("after")
    found.returned |= returned
    return found


def test_a_block_that_takes_most_of_the_stream_away_is_no_failure_of_half_precision() -> None:
    draw = torch.Generator().manual_seed(0)
    before = torch.randn(4, 64, generator=draw).bfloat16() * 1000
    attention = torch.randn(4, 64, generator=draw).bfloat16()
    middle = before + attention
    mlp = -before + torch.randn(4, 64, generator=draw).bfloat16()
    verdict = residual_sum.judge(
        block(before=before, attn=attention, mlp=mlp, after=middle + mlp), "bfloat16"
    )
    assert verdict is not None
    assert verdict.refused == {}
    assert verdict.how == {"attn_out": "attn_out", "mlp_out": "mlp_out"}


def test_parts_that_drown_in_rounding_are_not_refused_and_not_explained() -> None:
    draw = torch.Generator().manual_seed(0)
    before = torch.randn(4, 64, generator=draw).bfloat16()
    small, mlp = (torch.randn(4, 64, generator=draw).bfloat16() for _ in range(2))
    small = small * 1e-3
    verdict = residual_sum.judge(
        block(before=before, attn=small, mlp=mlp, after=before + 0.5 * mlp), "bfloat16"
    )
    assert verdict is not None
    assert verdict.refused == {}
    assert verdict.how == {
        "attn_out": "too small to be told from rounding",
        "mlp_out": "0.5 * mlp_out",
    }
    verdict = residual_sum.judge(
        block(before=before, attn=mlp.roll(1), mlp=mlp, after=before + 0.5 * mlp), "bfloat16"
    )
    assert verdict is not None
    assert list(verdict.refused) == ["attn_out"]
