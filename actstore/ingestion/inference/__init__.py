"""Finds the recipe of a folder that nobody described: from its paths, its keys and its shapes.

``survey`` opens a few files and sorts their tensors by the form of their keys; ``paths`` and
``tables`` say what stands around them; ``roles``, ``shapes``, ``joining`` and ``decision`` decide
what became layer, site, example and token, and what of that is only a guess; ``writing`` writes the
recipe, which the generic reader then follows like any other.
"""

from __future__ import annotations

from actstore.ingestion.inference.folders import Inferred, infer
from actstore.ingestion.inference.hints import Hints, Where, hints, where
from actstore.ingestion.inference.mapping import Assignment, FolderMapping, confirmed, of_recipe

__all__ = [
    "Assignment",
    "FolderMapping",
    "Hints",
    "Inferred",
    "Where",
    "confirmed",
    "hints",
    "infer",
    "of_recipe",
    "where",
]
