"""The study's model: converted once, by one process, and loaded like any other folder."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from docs.study import model
from tests.models import gguf_files

ROOT = Path(__file__).parents[2]


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "tiny.gguf"
    gguf_files.write(path, gguf_files.model())
    monkeypatch.setattr(model, "source", lambda: path)
    return path


def test_many_ask_and_one_converts(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    own = model._convert

    def convert(file: Path, target: Path) -> None:
        made.append(file)
        own(file, target)

    monkeypatch.setattr(model, "_convert", convert)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(model.checkpoint(tmp_path / "models")))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "models" / model.NAME] * 3
    assert made == [packed]
    assert model.checkpoint(tmp_path / "models") == found[0]
    assert len(made) == 1
    names = {path.name for path in (tmp_path / "models").iterdir()}
    assert names <= {model.NAME, f"{model.NAME}.lock"}  # no draft is left


def test_it_is_an_ordinary_checkpoint_in_bfloat16(packed: Path, tmp_path: Path) -> None:
    folder = model.checkpoint(tmp_path / "models")
    found = AutoModelForCausalLM.from_pretrained(folder)
    assert found.dtype == torch.bfloat16
    assert not hasattr(found.config, "quantization_config")
    expected = gguf_files.model().state_dict()
    for name, values in found.state_dict().items():
        assert torch.equal(values, expected[name].bfloat16()), name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == gguf_files.TEMPLATE
    assert str(tmp_path) not in (folder / "config.json").read_text(encoding="utf-8")


def test_a_conversion_that_fails_leaves_nothing(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed.write_bytes(packed.read_bytes()[:5000])
    with pytest.raises(ValueError, match="damaged or incomplete"):
        model.checkpoint(tmp_path / "models")
    assert {path.name for path in (tmp_path / "models").iterdir()} <= {f"{model.NAME}.lock"}


def test_missing_packages_are_named() -> None:
    code = (
        "import sys; from docs.study import __main__, model\n"
        "model.PACKAGES = ('no_such_package',)\n"
        "sys.argv = ['study']\n"
        "__main__.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "not installed: no_such_package; in a checkout `make install` installs them"
    )
