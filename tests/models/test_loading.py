"""Loading models: what comes back, and what is said when it cannot be had."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from actstore.errors import ModelError, UsageError
from actstore.models import loading
from tests.capturing import families, vision_families
from tests.hub_server import Hub, hub_env, run_python


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    families.build("llama").to(torch.bfloat16).save_pretrained(folder)
    families.tokenizer().save_pretrained(folder)
    return folder


def test_a_text_model_comes_with_its_tokenizer_and_keeps_its_dtype(llama: Path) -> None:
    found = loading.load(llama, device="cpu")
    assert type(found.model).__name__ == "LlamaForCausalLM"
    assert found.model.dtype == torch.bfloat16
    assert not found.model.training
    assert not found.is_vlm
    assert found.processor.chat_template == families.CHAT_TEMPLATE
    assert (found.name, found.revision) == (str(llama), None)
    assert found.settings["dtype"] == "auto"


def test_dtype_and_attention_can_be_chosen(llama: Path) -> None:
    found = loading.load(llama, dtype="float32", attn="eager", device="cpu")
    assert found.model.dtype == torch.float32
    assert found.model.config._attn_implementation == "eager"


def test_the_lower_blocks_alone_compute_the_same(llama: Path) -> None:
    whole = loading.load(llama, device="cpu").model
    part = loading.load(llama, device="cpu", layers_needed=2).model
    assert loading.block_count(llama) == families.BLOCKS
    assert len(part.model.layers) == 2
    ids = torch.arange(5, 15)[None]
    seen: list[torch.Tensor] = []
    for model in (whole, part):
        handle = model.model.layers[1].register_forward_hook(
            lambda module, given, made: seen.append(made if torch.is_tensor(made) else made[0])
        )
        with torch.no_grad():
            model(ids)
        handle.remove()
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", families.LANGUAGE)
def test_every_family_can_be_cut_short(name: str) -> None:
    config = families.build(name).config
    loading.truncate(config, 2, name)
    from transformers import AutoModelForCausalLM

    cut = AutoModelForCausalLM.from_config(config)
    assert loading._counted(cut.config)[1] == 2
    with torch.no_grad():
        assert cut(torch.arange(5, 9)[None]).logits.shape[1] == 4


def test_a_model_that_sees_comes_with_its_processor(tmp_path: Path) -> None:
    model, processor = vision_families.build_vlm("llava")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    found = loading.load(tmp_path, device="cpu", generate=True)
    assert found.is_vlm
    assert type(found.model).__name__ == "LlavaForConditionalGeneration"
    assert found.processor.tokenizer.bos_token_id == families.BOS
    assert loading.block_count(tmp_path) == families.BLOCKS


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dtype": "int8"}, "dtype 'int8'"),
        ({"device": "cpu", "device_map": "auto"}, "exclude each other"),
        ({"layers_needed": 2, "generate": True}, "cannot generate"),
        ({"layers_needed": 9}, "has 3 blocks; asked for the lowest 9"),
        ({"device": "nonsense"}, "device 'nonsense' cannot be used"),
    ],
)
def test_options_that_cannot_work(llama: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        loading.load(llama, **given)


def test_what_is_no_model(tmp_path: Path, llama: Path) -> None:
    (tmp_path / "empty").mkdir()
    encoder = tmp_path / "t5"
    encoder.mkdir()
    (encoder / "config.json").write_text(json.dumps({"model_type": "t5"}))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    (unknown / "config.json").write_text(json.dumps({"model_type": "never-heard-of"}))
    for place, said in (
        (tmp_path / "nothing", "no such folder"),
        (tmp_path / "empty", r"has no config\.json"),
        (llama / "config.json", "is a file"),
        (encoder, "encoders and encoder-decoders are not captured"),
        (broken, "cannot be loaded"),
        (unknown, "cannot be loaded: .*never-heard-of"),
    ):
        with pytest.raises(ModelError, match=said):
            loading.load(place)


def test_weights_that_are_not_there(tmp_path: Path, llama: Path) -> None:
    (tmp_path / "config.json").write_text((llama / "config.json").read_text())
    families.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"cannot be loaded: .*no file named"):
        loading.load(tmp_path)


def test_code_of_the_models_own_is_not_run(tmp_path: Path) -> None:
    config = {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match="not run unless you trust it"):
        loading.load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_model_of_the_hub_comes_with_its_commit(llama: Path, tmp_path: Path) -> None:
    """In a child process: the Hub's client reads its environment once, on import."""
    files = {path.name: path.read_bytes() for path in llama.iterdir()}
    code = (
        "from actstore.models import loading\n"
        "from actstore.errors import ActstoreError\n"
        "found = loading.load('alice/tiny', device='cpu', revision='main')\n"
        "print(found.name, found.revision)\n"
        "for place, revision in (('alice/missing', None), ('alice/tiny', 'v9')):\n"
        "    try:\n"
        "        loading.load(place, revision=revision)\n"
        "    except ActstoreError as problem:\n"
        "        print(type(problem).__name__, problem)\n"
    )
    with Hub(tmp_path / "hub") as hub:
        hub.create("alice/tiny", files, kind="model")
        oid = hub.head("alice/tiny", kind="model").oid
        env = hub_env(hub, tmp_path / "home")
        loaded, missing, revision = run_python(code, env).stdout.splitlines()
    assert loaded == f"alice/tiny {oid}"
    assert missing.startswith("RepositoryNotFoundError alice/missing: no such model on the Hub")
    assert revision.startswith("RevisionError alice/tiny has no such revision")


@pytest.mark.parametrize(
    ("said", "package"),
    [
        ("SomeVideoProcessor requires the Torchvision library but it was not found", "torchvision"),
        ("here/model requires `torchvision` to be installed. Please install it", "torchvision"),
        ("SomeImageProcessor requires the PIL library but it was not found in your", "pillow"),
    ],
)
def test_a_package_that_a_processor_wants_is_named(said: str, package: str) -> None:
    def action() -> None:
        raise ImportError(said)

    with pytest.raises(
        ModelError, match=f"^it needs the package {package}.*pip install {package}$"
    ):
        loading._explained("it", action)


def test_a_hub_that_cannot_be_reached_is_asked_once(tmp_path: Path) -> None:
    code = """
from actstore.errors import OfflineError
from actstore.models import loading
try:
    loading.load("org/none")
except OfflineError as error:
    print(error)
"""
    closed = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = run_python(code, {**os.environ, **closed})
    assert "org/none is not in the cache and the Hub cannot be reached" in done.stdout
    assert "Retry" not in done.stderr
