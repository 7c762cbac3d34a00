"""The layer that is steered at: the best if it is better than chance, or the named one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import actstore
from actstore.analysis.steering import layer_choice, vectors
from actstore.errors import ChanceError, UsageError
from tests.analysis import labelled


def test_the_best_layer_is_taken_and_called_optimistic(tmp_path: Path) -> None:
    labelled.layered(tmp_path / "s", {2: 0.0, 5: 2.0, 9: 0.0})
    with actstore.open(tmp_path / "s") as store:
        made = vectors.steer(store).vectors
    found = layer_choice.choose(made)
    assert found.vector.place.layer == 5
    assert (found.named, found.layers) == (False, 3)
    assert "largest held-out AUROC of 3 layers" in found.why
    assert "p = 0.005 against the best of 3 layers" in found.why
    assert "optimistic" in found.why
    named = layer_choice.choose(made, 9)
    assert named.named
    assert named.vector.place.layer == 9
    assert "no better than chance" in named.why
    assert "no better" not in layer_choice.choose(made, 5).why
    with pytest.raises(UsageError, match=r"layer 3 was made, only of layer 2, layer 5, layer 9"):
        layer_choice.choose(made, 3)
    (alone,) = (one for one in made if one.place.layer == 5)
    assert "the only layer" in layer_choice.choose([alone]).why


def test_of_many_layers_of_noise_none_is_taken(tmp_path: Path) -> None:
    refused = naive = 0
    for seed in range(6):
        root = tmp_path / str(seed)
        labelled.layered(root, dict.fromkeys(range(10), 0.0), rows=40, width=24, seed=seed)
        with actstore.open(root) as store:
            made = vectors.steer(store).vectors
        best = max(one.auroc.value for one in made if one.auroc is not None)
        naive += best > 0.6  # what looks like a direction
        try:
            layer_choice.choose(made)
        except ChanceError as error:
            refused += "best of 10 layers" in str(error) and "--apply-layer" in str(error)
    assert refused >= 5
    assert naive >= 3


def test_where_nothing_is_known_a_layer_must_be_named(tmp_path: Path) -> None:
    labelled.add(tmp_path / "s", np.eye(2, 3, dtype=np.float32), ["yes", "no"])
    with actstore.open(tmp_path / "s") as store:
        made = vectors.steer(store).vectors
    with pytest.raises(ChanceError, match="too few examples"):
        layer_choice.choose(made)
    assert "too few examples" in layer_choice.choose(made, 0).why


def test_two_phrasings_of_a_pair_are_no_direction(tmp_path: Path) -> None:
    """With folds by question, the pair's own part is learned and told the wrong way round."""
    areas = []
    for seed in range(8):
        draw = np.random.default_rng(seed)
        own = np.repeat(2 * draw.standard_normal((30, 24)), 2, axis=0)
        matrix = (own + draw.standard_normal(own.shape)).astype(np.float32)
        labels = [label for _ in range(30) for label in draw.permutation(["yes", "no"])]
        names = [f"e{number // 2}" for number in range(60)]
        versions = ["a", "b"] * 30
        root = tmp_path / str(seed)
        labelled.add(root, matrix, labels, example_id=names, variant=versions)
        with actstore.open(root) as store:
            (one,) = vectors.steer(store).vectors
        assert one.auroc is not None
        areas.append(one.auroc.value)
    assert np.mean(areas) == pytest.approx(0.5, abs=0.06)
