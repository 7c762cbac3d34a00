"""Cells of the tables that the analysis prints: layers, poolings, intervals, in-sample rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actstore.analysis.examples.place_rows import ActivationPlace


def in_sample_cell(rows: int | None) -> str | int:
    """Return how many rows are of the making, for a table."""
    return "unknown" if rows is None else rows


def pooling_cells(places: Sequence[ActivationPlace]) -> list[str]:
    """Return the pooling of each place for a table, with its region where regions differ."""
    regions = {place.region for place in places}
    return [
        place.pooling if len(regions) < 2 else f"{place.pooling} ({place.region or 'unknown'})"
        for place in places
    ]


def interval(low: float, high: float) -> str:
    """Return ``0.61-0.83``, and ``-0.12 to 0.31`` where an end is negative."""
    return f"{low:.3f}{' to ' if low < 0 else '-'}{high:.3f}"


def layers_heading(places: Sequence[ActivationPlace]) -> str:
    """Return what a table's column of :func:`layers_cell` is called."""
    return "layer" if all(place.layers is None for place in places) else "layers"


def layers_cell(place: ActivationPlace) -> str:
    """Return the layer of a place for a table, or the several that it joins."""
    return layer_cell(place.layer) if place.layers is None else place.listed


def layer_cell(layer: int | None) -> str:
    """Return a layer for a table."""
    return "unknown" if layer is None else "embed" if layer == -1 else str(layer)
