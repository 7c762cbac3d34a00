"""Dose curves: a direction whose effect is known, random ones beside it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actstore.analysis import plots
from actstore.analysis.steering import doses, vector_files
from actstore.analysis.steering.doses import DoseCurve
from actstore.analysis.steering.intervention import steering
from actstore.errors import MismatchError, UsageError
from actstore.models.loading import LoadedModel
from tests.capturing import families

PROMPTS = ["what is larger : 4 7 or 8 ?", "answer yes or no", "a or b ?", "which is 1 + 1 ?"]
LAST = families.BLOCKS - 1


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return LoadedModel(
        model=families.build("llama"),
        processor=families.tokenizer(),
        name="org/tiny",
        revision=None,
        is_vlm=False,
    )


def measure(loaded: LoadedModel, vector: np.ndarray, **options: Any) -> DoseCurve:
    chosen = {"target": "yes", "chat_template": False, **options}
    return doses.measure(loaded, vector, LAST, chosen.pop("prompts", PROMPTS), **chosen)


def towards(loaded: LoadedModel, word: str, other: str) -> np.ndarray:
    """What the head reads as one word and not as another, at the last block."""
    ids = [loaded.processor.convert_tokens_to_ids(each) for each in (word, other)]
    head = loaded.model.lm_head.weight.detach() * loaded.model.model.norm.weight.detach()
    direction: np.ndarray = (head[ids[0]] - head[ids[1]]).numpy()
    return direction


def test_values_are_those_of_steered_passes_one_by_one(loaded: LoadedModel) -> None:
    vector = np.random.default_rng(0).standard_normal(families.WIDTH).astype(np.float32)
    curve = measure(loaded, vector, doses=(-1.0, 2.0), random=2)
    assert [(point.direction, point.dose) for point in curve.points[:4]] == [
        ("vector", -1.0), ("vector", 0.0), ("vector", 2.0), ("random 1", -1.0),
    ]  # fmt: skip
    word = loaded.processor.convert_tokens_to_ids("yes")
    for point in curve.vector:
        logs = []
        for prompt in PROMPTS:
            ids = loaded.processor(prompt, return_tensors="pt")["input_ids"]
            with torch.inference_mode(), steering(loaded.model, vector, LAST, point.dose):
                logits = loaded.model(input_ids=ids).logits[0, -1]
            logs.append(float(logits.log_softmax(dim=-1)[word]))
        assert point.value == pytest.approx(np.mean(logs), rel=1e-4)
    assert curve.norm == pytest.approx(np.linalg.norm(vector))
    plain = curve.vector[1]
    assert (plain.change, plain.low, plain.high) == (0, 0, 0)


def test_a_direction_that_the_head_reads_goes_beyond_random_ones(loaded: LoadedModel) -> None:
    curve = measure(loaded, towards(loaded, "yes", "no"), against="no", random=8)
    changes = [point.change for point in curve.vector]
    assert changes == sorted(changes)
    assert curve.vector[0].high < 0 < curve.vector[-1].low
    assert curve.beyond(4.0) == curve.beyond(-4.0) == 0
    assert curve.measured == "log P('yes') - log P('no')"
    again = measure(loaded, towards(loaded, "yes", "no"), against="no", random=8)
    assert again == curve
    other = measure(loaded, towards(loaded, "yes", "no"), against="no", random=8, seed=1)
    assert other.vector == curve.vector
    assert other.points != curve.points


def test_a_random_direction_is_one_of_many(loaded: LoadedModel) -> None:
    """Over vectors that mean nothing, no more than their share lies beyond all random ones."""
    draw = np.random.default_rng(3)
    options: dict[str, Any] = {"doses": (3.0,), "prompts": PROMPTS[:2]}
    drawn = [draw.standard_normal(families.WIDTH) for _ in range(60)]
    curves = [measure(loaded, each, seed=seed, **options) for seed, each in enumerate(drawn)]
    beyond = [curve.beyond(3.0) for curve in curves]
    # Its rank among five is drawn evenly: 12 of 60 each, with a deviation of about 3.
    counts = np.bincount(beyond, minlength=5)
    assert counts.max() <= 24
    assert counts.min() >= 3


def test_probabilities_and_groups(loaded: LoadedModel) -> None:
    vector = towards(loaded, "yes", "no")
    curve = measure(
        loaded, vector, measure="probability", against="no", groups=["x", "x", "y", "z"]
    )
    assert curve.groups == 3
    assert curve.measured == "P('yes') - P('no')"
    assert all(-1 <= point.value <= 1 for point in curve.points)
    single = measure(loaded, vector, measure="probability", against="no")
    assert [p.change for p in single.points] == [p.change for p in curve.points]
    assert single.vector[-1].high != curve.vector[-1].high


def test_a_frame_and_a_picture(loaded: LoadedModel) -> None:
    curve = measure(loaded, towards(loaded, "yes", "no"), random=3)
    frame = curve.to_polars()
    assert frame.shape == (4 * 5, 6)
    assert frame["direction"].unique(maintain_order=True).to_list() == ["vector", *curve.random]
    figure = plots.dose(curve)
    assert "4 prompts, band: 95 % interval; at -4, " in figure.caption
    assert b"<svg" in plots.render(figure, ".html")
    assert repr(curve).startswith(
        "DoseCurve('org/tiny', layer 2, log P('yes'), 4 prompts, 3 random"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"random": 1}, "at least 2 random"),
        ({"doses": (0.0,)}, "one beside 0"),
        ({"doses": (float("nan"),)}, "finite"),
        ({"target": "yes no"}, "2 tokens"),
        ({"measure": "odds"}, "log-probability, probability"),
        ({"groups": ["x"] * 4}, "one group"),
        ({"groups": ["x"]}, "1 groups are named for 4 prompts"),
    ],
)
def test_what_cannot_be_measured(
    loaded: LoadedModel, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        measure(loaded, np.ones(families.WIDTH), **options)


def test_vectors_that_cannot_be_added(loaded: LoadedModel) -> None:
    with pytest.raises(UsageError, match="no direction"):
        measure(loaded, np.zeros(families.WIDTH))
    with pytest.raises(MismatchError, match="the vector has 8 values"):
        measure(loaded, np.ones(8))
    with pytest.raises(UsageError, match="two are needed"):
        doses.measure(loaded, np.ones(families.WIDTH), 1, ["a"], target="yes")


def test_one_vector_of_a_folder_or_a_file(tmp_path: Path) -> None:
    for folder, factor in ((vector_files.RAW, 3.0), (vector_files.NORMALIZED, 1.0)):
        (tmp_path / folder).mkdir()
        for layer in (1, 2):
            torch.save(torch.ones(4) * factor * layer, tmp_path / folder / f"layer_{layer}.pt")
    assert vector_files.one(tmp_path, 2).vector.tolist() == [6.0] * 4
    file = tmp_path / vector_files.NORMALIZED / "layer_1.pt"
    assert (vector_files.one(file).layer, vector_files.one(file).vector[0]) == (1, 1.0)
    with pytest.raises(UsageError, match=r"layers 1, 2, several: name one \(--layers\)"):
        vector_files.one(tmp_path)
    with pytest.raises(UsageError, match="none of layer 7"):
        vector_files.one(tmp_path, 7)
