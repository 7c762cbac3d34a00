"""What the study by two engines says of their distance is so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import actstore
from docs.study.serving import Distances, distances


def store(place: Path, vectors: np.ndarray, question: str = "Is it so?") -> Path:
    """Write rows in two layers, in an order of their own."""
    names = [f"e{number}" for number in range(len(vectors))]
    order = np.random.default_rng(len(str(place))).permutation(len(vectors))
    opened = actstore.open(place, create=True)
    opened.write(
        {("resid_post", layer): vectors[order] * (layer + 1) for layer in (0, 1)},
        {"example_id": [names[at] for at in order], "question": [question] * len(names)},
        model="m",
    )
    return place


def test_distances_are_of_the_same_rows(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    other = vectors * np.float32(1 + 1e-4)
    other[7] *= np.float32(1.01)
    one, two = store(tmp_path / "a", vectors), store(tmp_path / "other", other)
    found = distances(two, one, "float32")
    assert (found.rows, found.tolerance, found.beyond) == (100, 1e-3, 0.02)
    assert found.median == pytest.approx(1e-4, rel=0.01)
    assert found.largest == pytest.approx(0.0101, rel=0.01)
    assert not found.within
    assert distances(one, one, "float32").within
    with pytest.raises(ValueError, match="hold other rows"):
        distances(one, store(tmp_path / "asked", vectors, "Is it not?"), "float32")


@pytest.mark.parametrize(
    ("tolerance", "largest", "beyond", "within"),
    [
        (1e-3, 9e-4, 0.0, True),
        (1e-3, 2e-3, 0.001, False),
        (6e-2, 0.17, 0.05, True),
        (6e-2, 0.17, 0.06, False),
        (6e-2, 0.19, 0.01, False),
    ],
)
def test_the_promise_is_that_of_the_docs(
    tolerance: float, largest: float, beyond: float, within: bool
) -> None:
    assert Distances(100, 1e-4, largest, tolerance, beyond).within is within
