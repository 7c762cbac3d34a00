"""The recipe of a folder that nobody described, without ingesting it."""

from __future__ import annotations

from pathlib import Path

from actstore.ingestion import discovery, inference
from actstore.ingestion.inference import Inferred


def recipe_of(
    folder: str | Path, *, layer_from: str | None = None, example_from: str | None = None
) -> Inferred:
    """Return the recipe of a folder, made up from its paths, keys and shapes.

    Args:
        folder: folder or file of activations.
        layer_from: where the layers stand, such as ``key1``.
        example_from: where the examples stand, such as ``name``.

    Raises:
        UsageError: there is no such folder, or it has no such place.
        RecipeError: it holds no vectors that can become rows; says what was found.
    """
    hints = inference.hints(layer_from, example_from)
    return discovery.describe([Path(folder)], hints)
