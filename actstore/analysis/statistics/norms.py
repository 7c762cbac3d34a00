"""Spread of the stored norms by layer and class: metadata only, no vector is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore.analysis.statistics import sampling
from actstore.analysis.statistics.summaries import NormSummary, summarize_norms

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows

OTHER, NONE = "other", "none"
MOST = 7
"""Classes that get a colour of their own."""


class ClassCodes(NamedTuple):
    """The values of a column as a few classes."""

    names: tuple[str, ...]
    """The most frequent first; then perhaps ``other (n values)``, then ``no label``."""
    codes: np.ndarray
    """Each row's class, int64 ``[rows]``."""
    own: int
    """How many classes stand for one value; the rest are collections and are drawn in grey."""


def class_codes(selection: SelectedRows, column: str | None, most: int = MOST) -> ClassCodes:
    """Return the values of ``column``, the rare ones together; without any, one class."""
    one = ClassCodes(("all rows",), np.zeros(len(selection), np.int64), 1)
    if column is None:
        return one
    encoded = selection.table([column])[column].combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    if not values:
        return one
    codes = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
    counts = np.bincount(codes[codes >= 0], minlength=len(values))
    # Frequent first, so that colours go where they are needed; then by name, for steadiness.
    ranked = sorted(range(len(values)), key=lambda at: (-counts[at], values[at]))
    own = ranked if len(ranked) <= most + 1 else ranked[:most]
    names = [str(values[at]) for at in own]
    target = np.full(len(values) + 1, len(own))
    for number, at in enumerate(own):
        target[at] = number
    if len(own) < len(ranked):
        names.append(f"{OTHER} ({len(ranked) - len(own)} values)")
    if (codes == -1).any():
        target[-1] = len(names)
        names.append(f"no {column}")
    return ClassCodes(tuple(names), target[codes], len(own))


class NormProfile(NamedTuple):
    """Norms of one class, layer by layer."""

    name: str
    layers: tuple[NormSummary | None, ...]


def norms_by_layer(
    selection: SelectedRows, column: str | None
) -> tuple[list[int | None], list[NormProfile]]:
    """Return the layers and, for each class of ``column``, the spread of its norms there."""
    found = class_codes(selection, column)
    values = sampling.layer_values(selection)
    layers = sampling.layers_of(selection)
    norms = selection.table(["norm"])["norm"].to_numpy()
    return values, [
        NormProfile(
            name,
            tuple(
                summarize_norms(norms[(found.codes == code) & (layers == number)])
                for number in range(len(values))
            ),
        )
        for code, name in enumerate(found.names)
    ]
