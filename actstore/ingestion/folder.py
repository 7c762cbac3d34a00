"""The recipe of a folder that nobody described, without ingesting it."""

from __future__ import annotations

from pathlib import Path

from actstore.ingestion import discovery, inference
from actstore.ingestion.inference import Hints, Inferred


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
    hints = Hints(
        layer_from=inference.where(layer_from, "--layer-from") if layer_from else None,
        example_from=inference.where(example_from, "--example-from") if example_from else None,
    )
    return discovery.describe([Path(folder)], hints)
