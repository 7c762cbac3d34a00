"""`actstore steer`: vectors of each layer, and a model's answers before and after."""

import json
from pathlib import Path

import numpy as np
import pytest

from docs import two_choice
from tests.analysis import labelled
from tests.commands.conftest import Command


def test_vectors_are_written_and_shown(actstore: Command, tmp_path: Path) -> None:
    labelled.layered(tmp_path / "s", {3: 2.5, 5: 0.5}, rows=40, width=16)
    words = ("--positive", "yes", "--negative", "no", "--out", tmp_path / "out")
    done = actstore("steer", tmp_path / "s", *words)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "yes - no at resid_post (last), model org/model"
    assert [line.split()[:3] for line in lines[2:]] == [["3", "20", "20"], ["5", "20", "20"]]
    for path in ("vectors/layer_3.pt", "normalized_vectors/layer_5.pt", "steering.safetensors"):
        assert (tmp_path / "out" / path).is_file()
    done = actstore("steer", tmp_path / "s", "--layers", "3", "--out", tmp_path / "o", "--json")
    assert json.loads(done.out)[0]["layer"] == 3


def test_it_must_be_said_what_to_do(actstore: Command, tmp_path: Path) -> None:
    labelled.layered(tmp_path / "s", {3: 2.5}, rows=8, width=16)
    assert actstore("steer", tmp_path / "s").code == 2
    assert "--prompt" in actstore("steer", tmp_path / "s", "--apply").err


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    two_choice.make(folder, steps=4)
    return folder


def test_answers_before_and_after(actstore: Command, tmp_path: Path, model: Path) -> None:
    labels = ["yes", "no"] * 10
    signs = np.where(np.array(labels) == "yes", 1, -1)[:, None]
    matrix = signs * np.random.default_rng(0).standard_normal(64) * 8
    labelled.add(tmp_path / "s", matrix.astype(np.float32), labels, layer=2, model=str(model))
    words = ("--apply", "--prompt", "Which is larger: 12 or 34?", "--max-new-tokens", 4)
    done = actstore("steer", tmp_path / "s", *words, "--scale", 0, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["layer"] == 2
    assert found["answers"][0]["before"] == found["answers"][0]["after"]
    assert found["answers"][0]["in_sample"] is False
    assert found["named"] is False
    assert "layer 2 is the only layer, of held-out AUROC 1.000" in found["why"]
    done = actstore("steer", tmp_path / "s", *words, "--scale", 5)
    assert done.code == 0, done.err
    assert "steered at layer 2 with scale 5\nwhy: layer 2 is the only layer" in done.out
    before, after = (
        next(line for line in done.out.splitlines() if line.startswith(word))
        for word in ("before", "after")
    )
    assert before.split()[1:] != after.split()[1:]
    asked = ("--prompt", "question 3?", "--max-new-tokens", 1)
    done = actstore("steer", tmp_path / "s", "--apply", *asked)
    assert "IN-SAMPLE: a question that the vector was made of" in done.out
    narrow = labelled.vectors(np.array(labels) == "yes", 8, 1.0, 0)
    labelled.add(tmp_path / "t", narrow, labels, layer=2, model=str(model))
    done = actstore("steer", tmp_path / "t", *words, "--apply-layer", 2)
    assert done.code == 1
    assert "the vector has 8 values, the states" in done.err


@pytest.mark.parametrize("named", [(), ("--apply-layer", 2), ("--layers", "2")])
def test_a_vector_of_noise_is_applied_only_by_name(
    actstore: Command, tmp_path: Path, model: Path, named: tuple[object, ...]
) -> None:
    signals = {2: 0.0, 3: 0.0}
    labelled.layered(tmp_path / "s", signals, rows=40, width=64, seed=3, model=str(model))  # type: ignore[arg-type]
    words = ("--apply", "--prompt", "Which is larger: 12 or 34?", "--max-new-tokens", 1)
    done = actstore("steer", tmp_path / "s", *words, *named)
    if named:
        assert done.code == 0, done.err
        assert "why: layer 2 was named; its held-out AUROC is" in done.out
        assert "no better than chance" in done.out
    else:
        assert done.code == 1
        assert "no layer is better than chance: the best of 2 layers" in done.err
        assert "--apply-layer" in done.err
        assert "steered at" not in done.out
