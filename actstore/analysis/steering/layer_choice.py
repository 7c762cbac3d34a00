"""Which layer's vector to steer with, why, and whether any is better than chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from actstore.analysis.examples.place_rows import layer_text
from actstore.analysis.probes.results import CHANCE
from actstore.analysis.steering.vectors import SteeringVector
from actstore.errors import ChanceError, UsageError


class LayerChoice(NamedTuple):
    """A vector, and why it was taken."""

    vector: SteeringVector
    named: bool
    """Whether the layer was named, and not found by its AUROC."""
    layers: int
    """How many layers it was chosen among."""
    why: str


def choose(vectors: Sequence[SteeringVector], layer: int | None = None) -> LayerChoice:
    """Return the named layer's vector, or else the one of the largest held-out AUROC.

    Args:
        vectors: of one or more layers, made together.
        layer: the layer that was named; None for the best.

    Raises:
        ChanceError: no layer was named, and the best one is no better than the best layer of
            runs with shuffled labels, or nothing is known of any.
        UsageError: no vector of that layer was made.
    """
    judged = [one for one in vectors if one.auroc is not None]
    if layer is not None:
        for one in vectors:
            if one.place.layer == layer:
                return LayerChoice(one, True, len(judged), _named(one, len(judged)))
        there = ", ".join(layer_text(one.place.layer) for one in vectors)
        raise UsageError(f"no vector of {layer_text(layer)} was made, only of {there}")
    if not judged:
        raise ChanceError(
            "there are too few examples to measure a vector on others than it was made of, so no "
            "layer can be chosen: use more rows, or name a layer with --apply-layer"
        )
    best = max(judged, key=lambda one: one.auroc.value if one.auroc else 0.0)
    word, many = layer_text(best.place.layer), len(judged)
    if not _better(best):
        among = f"the best of {many} layers, {word}," if many > 1 else word
        raise ChanceError(
            f"no layer is better than chance: {among} has a held-out AUROC of "
            f"{_figures(best, many)}. Use more rows or another label, or name a layer with "
            "--apply-layer to steer with it all the same"
        )
    why = f"{word} is the only layer, of held-out AUROC {_figures(best, many)}"
    if many > 1:
        why = (
            f"{word} has the largest held-out AUROC of {many} layers, {_figures(best, many)}; as "
            "the largest of several it is optimistic"
        )
    return LayerChoice(best, False, many, why)


def _named(one: SteeringVector, layers: int) -> str:
    word = layer_text(one.place.layer)
    if one.auroc is None:
        return f"{word} was named; too few examples to measure it on others than it was made of"
    told = "" if _better(one) else ", no better than chance"
    return f"{word} was named; its held-out AUROC is {_figures(one, layers)}{told}"


def _better(one: SteeringVector) -> bool:
    return one.p_family is not None and one.p_family <= CHANCE


def _figures(one: SteeringVector, layers: int) -> str:
    """Return AUROC, interval and p-value in words; ``layers`` are those that p allows for."""
    assert one.auroc is not None
    best = f" against the best of {layers} layers" if layers > 1 else ""
    p = "" if one.p_family is None else f", p = {one.p_family:.3f}{best} with shuffled labels"
    return f"{one.auroc.value:.3f} ({one.auroc.low:.3f}-{one.auroc.high:.3f}{p})"
