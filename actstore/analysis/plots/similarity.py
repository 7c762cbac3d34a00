"""Matrix of likeness: of layers by their alignment, or of a layer's examples by cosine."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from actstore import schema
from actstore.analysis.plots import style
from actstore.analysis.statistics import sampling
from actstore.analysis.statistics.norms import class_codes
from actstore.errors import TooFewRowsError
from actstore.storage import floats, keys
from actstore.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from actstore.querying.selected import SelectedRows

ROWS = 512
"""Examples that are in every layer, at most."""
_TOLD = 0.045
"""Share of the rows that a class needs, so that there is room for its name."""


def similarity(selection: SelectedRows, *, by: str | None = "label", rows: int = ROWS) -> Figure:
    """Return linear CKA between all layers, or cosines between the rows of a single one.

    Layers are compared over examples that every layer has. A single layer's rows are
    ordered by ``by``; their mean is taken off first, or all cosines would be near one.

    Raises:
        TooFewRowsError: no rows, or fewer than three that can be compared.
        UsageError: several models, sites or poolings.
        MixedVectorsError: a layer has vectors of several widths.
    """
    place = sampling.require_one_place(selection)
    layers = sampling.layer_values(selection)
    if len(layers) == 1:
        return _examples(selection, place, layers, by, rows)
    grams, count, total = _grams(selection, len(layers), rows)
    sizes = np.sqrt(np.einsum("ij,ij->i", grams, grams))
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = np.clip(grams @ grams.T / np.outer(sizes, sizes), 0, 1)
    if not sizes.any():
        raise TooFewRowsError(
            "in every layer the vectors are all alike or not finite, so there is nothing to compare"
        )
    with style.styled():
        figure = style.picture(5.6, 4.8)
        axes = figure.add_subplot()
        axes.grid(visible=False)
        image = axes.imshow(
            matrix, cmap=style.SEQUENTIAL, vmin=0, vmax=1, origin="lower", interpolation="nearest"
        )
        style.layer_ticks(axes, layers)
        style.layer_ticks(axes, layers, axis="y")
        figure.colorbar(image, ax=axes, label="linear CKA", shrink=0.85)
        drawn = f"{count:,} examples" if count == total else f"{count:,} of {total:,} examples"
        note = f"{drawn} that every layer has; near 1 for any two layers of few examples"
        if not sizes.all():
            note += "; white: vectors all alike or not finite"
        style.finish(figure, f"Similarity of layers · {style.subject(place)}", note)
    return figure


def _grams(selection: SelectedRows, layers: int, rows: int) -> tuple[np.ndarray, int, int]:
    """Return each layer's centred Gram matrix of the same examples, float64 ``[layers, n * n]``."""
    import pyarrow as pa

    table = selection.table(list(schema.key_names()))
    for name in ("layer", "site"):  # the embeddings are a site of their own
        nothing = pa.chunked_array([pa.nulls(len(table), table.schema.field(name).type)])
        table = table.set_column(table.column_names.index(name), name, nothing)
    hashes = keys.hash_table(table)
    of_layer = sampling.layers_of(selection)
    parts = [np.flatnonzero(of_layer == number) for number in range(layers)]
    common = reduce(np.intersect1d, (hashes[part] for part in parts))
    if len(common) < 3:
        raise TooFewRowsError(
            f"the {layers} layers have {counted(len(common), 'example')} in common, and three are "
            "needed at least: select layers that hold the same examples"
        )
    # Hashes differ from process to process: the first layer's order is the same always.
    ordered = hashes[parts[0]][np.isin(hashes[parts[0]], common)]
    kept = ordered[np.unique(np.linspace(0, len(ordered) - 1, rows).astype(int))]
    grams = []
    for part in parts:
        order = np.argsort(hashes[part], kind="stable")
        at = order[np.searchsorted(hashes[part], kept, sorter=order)]
        vectors = floats.widen(selection.take(part[at]).numpy()).astype(np.float64)
        vectors[~np.isfinite(vectors).all(axis=1)] = 0
        vectors -= vectors.mean(axis=0)
        largest = float(np.abs(vectors).max()) or 1.0
        grams.append(((vectors / largest) @ (vectors / largest).T).ravel())
    return np.stack(grams), len(kept), len(common)


def _examples(
    selection: SelectedRows,
    place: dict[str, str | None],
    layers: list[int | None],
    by: str | None,
    rows: int,
) -> Figure:
    drawn = sampling.draw(selection, min(rows, 300))
    found = class_codes(drawn.selection, by)
    vectors = floats.widen(drawn.selection.numpy()).astype(np.float64)
    finite = np.isfinite(vectors).all(axis=1)
    codes = found.codes[finite]
    if len(codes) < 3:
        raise TooFewRowsError(
            f"{counted(len(codes))} with finite vectors cannot be compared: three are needed"
        )
    order = np.argsort(codes, kind="stable")
    vectors = vectors[finite][order]
    vectors -= vectors.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    matrix = vectors @ vectors.T
    sizes = np.bincount(codes, minlength=len(found.names))
    ends = np.cumsum(sizes)
    with style.styled():
        # A class of few rows has no room for its name.
        told = [n for n in range(len(sizes)) if sizes[n] >= _TOLD * len(matrix)]
        texts = [style.plain(f"{found.names[n]} ({sizes[n]:,})", 28) for n in told]
        figure = style.picture(5 + 0.07 * max(map(len, texts), default=0), 4.7)
        axes = figure.add_subplot()
        axes.grid(visible=False)
        # Not kept square: the room that names take is not seen then, and they are cut off.
        image = axes.imshow(
            matrix,
            cmap=style.DIVERGING,
            vmin=-1,
            vmax=1,
            interpolation="nearest",
            aspect="auto",
        )
        for end in ends[:-1].tolist():
            axes.axhline(end - 0.5, color="black", linewidth=0.7)
            axes.axvline(end - 0.5, color="black", linewidth=0.7)
        axes.set_xticks([])
        axes.set_yticks([float(ends[n] - sizes[n] / 2 - 0.5) for n in told], texts)
        figure.colorbar(image, ax=axes, label="cosine, mean taken off", shrink=0.85)
        title = f"Similarity of examples · {style.subject(place, layers)}"
        style.finish(figure, title, drawn.note)
    return figure
