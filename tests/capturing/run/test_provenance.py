"""What is written down about a capture: enough to tell runs apart, nothing of the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import actstore
from actstore.capturing.run import provenance
from actstore.capturing.run.summary import CaptureSummary
from actstore.errors import MixedRunError, UsageError
from actstore.models.blocks import find, points
from actstore.models.identity import weights_digest
from actstore.storage import manifest
from tests.capturing import families
from tests.capturing.pictures import picture


@pytest.mark.parametrize(
    ("given", "name", "revision"),
    [
        ("org/model", "org/model", None),
        ("/home/somebody/models/llama", "llama", None),
        ("./models/llama", "llama", None),
        ("private/models/llama", "llama", None),
        (
            "/x/hub/models--org--a-model/snapshots/0123456789abcdef0123456789abcdef01234567",
            "org/a-model",
            "0123456789abcdef0123456789abcdef01234567",
        ),
    ],
)
def test_models_are_named_without_the_folders_above(
    given: str, name: str, revision: str | None
) -> None:
    assert provenance.identify(families.build("llama"), given, None) == (name, revision)


def test_a_model_made_in_memory_needs_a_name() -> None:
    with pytest.raises(UsageError, match="model_name="):
        provenance.identify(families.build("llama"), None, None)


def test_a_fingerprint_tells_apart_what_computes_other_values() -> None:
    def described(model: Any) -> str:
        return provenance.fingerprint(provenance.describe_model(find(model)))

    base = described(families.build("llama"))
    assert base == described(families.build("llama"))
    other = families.build("llama")
    with torch.no_grad():
        other.model.layers[1].self_attn.q_proj.weight.mul_(1.5)
    eager = families.build("llama")
    eager.config._attn_implementation = "eager"
    scaled = families.build("llama")
    scaled.config.rms_norm_eps = 0.1
    half = families.build("llama", dtype=torch.bfloat16)
    assert len({base, *map(described, (other, eager, scaled, half))}) == 5


def test_a_tokenizer_is_the_same_however_it_padded_last() -> None:
    tokenizer = families.tokenizer()
    before = provenance.describe_tokenizer(tokenizer)
    tokenizer(["a b", "a"], padding=True, truncation=True, max_length=4)
    assert provenance.describe_tokenizer(tokenizer) == before
    assert provenance.describe_tokenizer(families.tokenizer(bos=False)) != before


def test_a_processor_is_told_by_how_it_prepares_pictures() -> None:
    def described(**settings: Any) -> str | None:
        _, processor = families.build_vlm("qwen2_vl")
        for name, value in settings.items():
            setattr(processor.image_processor, name, value)
        return provenance.describe_processor(processor)

    found = [described(), described(image_mean=[0.1, 0.2, 0.9]), described(do_rescale=False)]
    assert None not in found
    assert len(set(found)) == 3
    assert described() == found[0]
    assert provenance.describe_processor(families.tokenizer()) is None


def test_pictures_prepared_in_another_way_are_not_answered_from_the_store(tmp_path: Path) -> None:
    model, processor = families.build_vlm("qwen2_vl")
    examples = [{"id": 1, "question": "what is 1 ?", "image": picture(tmp_path, "sky.png")}]

    def captured() -> CaptureSummary:
        store = tmp_path / "store"
        return actstore.capture(model, processor, examples, store=store, model_name="m", layers="0")

    assert captured().examples == 1
    assert captured().skipped == 1
    processor.image_processor.image_mean = [0.1, 0.2, 0.9]
    with pytest.raises(MixedRunError, match="processor_sha256"):
        captured()


def test_weights_on_disk_have_no_digest() -> None:
    assert weights_digest(families.build("llama").to("meta")) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_weights_edited_in_place_are_other_weights(dtype: torch.dtype) -> None:
    model: Any = torch.nn.Module()
    drawn = torch.randn(300, 200, generator=torch.Generator().manual_seed(0)).to(dtype)
    model.up = torch.nn.Parameter(drawn.clone(), requires_grad=False)
    before = weights_digest(model)
    assert before is not None
    kept = model.up.data.view(torch.uint8)[:, 77].clone()
    model.up.data.view(torch.uint8)[:, 77] = 0  # an ablated direction
    assert weights_digest(model) != before
    model.up.data.view(torch.uint8)[:, 77] = kept
    assert weights_digest(model) == before


def test_hook_paths_are_told_once_per_site() -> None:
    anatomy = find(families.build("llama"))
    found = provenance.hook_paths(points(anatomy, ["mlp_in", "embeddings", "final_norm"], [0, 2]))
    assert found == {
        "mlp_in": ["model.layers.{layer}.mlp (input)"],
        "embeddings": ["model.layers.0 (input)"],
        "final_norm": ["model.norm (output)"],
    }


def test_a_number_inside_of_a_block_is_not_the_blocks() -> None:
    model: Any = torch.nn.Module()
    parts = ([torch.nn.Linear(8, 8) for _ in range(3)] for _ in range(3))
    model.layers = torch.nn.ModuleList(torch.nn.Sequential(*each) for each in parts)
    anatomy = find(model, blocks="layers")
    found = provenance.hook_paths(points(anatomy, ["2"], [0, 2]))
    assert found == {"2": ["layers.{layer}.2 (output)"]}


def test_differences_are_named_with_both_values() -> None:
    ours: dict[str, Any] = {"a": 1, "hash": "0" * 64, "same": 2}
    theirs: dict[str, Any] = {"hash": "f" * 64, "same": 2}
    assert provenance.differences(ours, theirs) == ["a null → 1", "hash ffffffff → 00000000"]
    deep = provenance.differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
    assert deep == ["a c 3 → 2"]


def test_the_record_of_a_run_has_no_paths_of_the_machine(tmp_path: Path) -> None:
    model = families.build("llama")
    model.config._name_or_path = str(tmp_path / "models" / "tiny")
    summary = actstore.capture(
        model,
        families.tokenizer(),
        [{"id": 1, "question": "which is larger 1 2"}],
        store=tmp_path / "store",
        max_new_tokens=2,
        system="be brief",
        layers="0",
    )
    (run,) = manifest.load(tmp_path / "store").runs
    text = json.dumps(run.settings)
    assert str(tmp_path) not in text
    assert run.settings["model"] == summary.model == "tiny"
    assert run.settings["first_prompt"].startswith("<bos><|system|>be brief<|end|><|user|>which")
    values = run.settings["values"]
    assert values["system"] == "be brief"
    assert len(values["chat_template_sha256"]) == 64
    assert values["attention"] == "sdpa"
    assert run.settings["device"] == "cpu"
    assert {"torch", "transformers", "actstore", "python"} <= set(run.versions)


def test_a_long_prompt_is_kept_by_its_ends() -> None:
    text = "a" * 30_000 + "z"
    shown = provenance.shown_prompt(text)
    assert len(shown) < 21_000
    assert "[10001 characters]" in shown
    assert shown.endswith("z")
    assert provenance.shown_prompt("short") == "short"
