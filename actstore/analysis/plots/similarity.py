"""Matrix of likeness: of layers by their alignment, or of a layer's examples by cosine."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from actstore import schema
from actstore.analysis.plots import looks, matrix
from actstore.analysis.plots.looks import Picture, Style
from actstore.analysis.statistics import sampling
from actstore.analysis.statistics.norms import class_codes
from actstore.errors import TooFewRowsError
from actstore.storage import floats, key_hashes
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows

ROWS = 512
"""Examples that are in every layer, at most."""
_EXAMPLES = 300
"""Examples that are compared with each other, at most."""
_TOLD = 0.045
"""Share of the rows that a class needs, so that there is room for its name."""


def similarity(
    selection: SelectedRows,
    *,
    by: str | None = "label",
    rows: int = ROWS,
    title: str | None = None,
    style: Style = "screen",
) -> Picture:
    """Return linear CKA between all layers, or cosines between the rows of a single one.

    Layers are compared over examples that every layer has. A single layer's rows are
    ordered by ``by``; their mean is taken off first, or all cosines would be near one.
    The colours span what there is beside the diagonal, and the scale says what that is.

    Args:
        selection: of one model, site, pooling and region.
        by: of a single layer, the column that its rows are ordered by.
        rows: examples at most; of a single layer, 300 of them.
        title: above the picture; by default which rows these are.
        style: ``screen``, ``paper`` or ``dark``.

    Raises:
        TooFewRowsError: no rows, or fewer than three that can be compared.
        UsageError: several models, sites or poolings.
        MixedVectorsError: a layer has vectors of several widths.
    """
    place = sampling.require_one_place(selection)
    layers = sampling.layer_values(selection)
    if len(layers) == 1:
        return _examples(selection, place, layers, by, min(rows, _EXAMPLES), title, style)
    grams, count, total, left_out = _grams(selection, len(layers), rows)
    sizes = np.sqrt(np.einsum("ij,ij->i", grams, grams))
    if not sizes.any():
        raise TooFewRowsError(
            "in every layer the vectors are all alike or not finite, so there is nothing to compare"
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        cells = np.clip(grams @ grams.T / np.outer(sizes, sizes), 0, 1)
    with looks.styled(style) as look:
        from matplotlib.colors import Normalize

        figure = looks.picture(look, 5.6, 4.8)
        axes = figure.add_subplot()
        low, high = _limits(cells)
        matrix.draw(
            figure,
            axes,
            cells,
            name="linear CKA",
            norm=Normalize(low, high),
            colours=look.sequential,
            extend="neither" if high == 1 else "max",
        )
        numbers = range(len(layers))
        looks.layer_ticks(axes, layers, numbers)
        looks.layer_ticks(axes, layers, numbers, axis="y")
        drawn = f"{count:,} examples" if count == total else f"{count:,} of {total:,} examples"
        note = f"{drawn} that every layer has; near 1 for any two layers of few examples"
        if left_out:
            note += f"; {left_out:,} left out, not finite in some layer"
        if not sizes.all():
            note += "; blank: vectors all alike or not finite"
        return looks.finish(figure, f"Similarity of layers · {looks.subject(place)}", note, title)


def _limits(cells: np.ndarray) -> tuple[float, float]:
    """Return the ends of a scale that shows how layers differ: what is beside the diagonal."""
    beside = cells[~np.eye(len(cells), dtype=bool)]
    beside = beside[np.isfinite(beside)]
    if not len(beside):
        return 0.0, 1.0
    low = min(0.95, float(np.floor(20 * beside.min()) / 20))
    return low, max(low + 0.05, float(np.ceil(20 * beside.max()) / 20))


def _grams(selection: SelectedRows, layers: int, rows: int) -> tuple[np.ndarray, int, int, int]:
    """Return each layer's centred Gram matrix of the same examples, float64 ``[layers, n * n]``.

    Then how many examples these are, of how many that every layer has, and how many more are not
    finite in some layer that has finite ones.
    """
    import pyarrow as pa

    table = selection.table(list(schema.key_names()))
    for name in ("layer", "site"):  # the embeddings are a site of their own
        nothing = pa.chunked_array([pa.nulls(len(table), table.schema.field(name).type)])
        table = table.set_column(table.column_names.index(name), name, nothing)
    hashes = key_hashes.hash_table(table)
    of_layer = sampling.layers_of(selection)
    parts = [np.flatnonzero(of_layer == number) for number in range(layers)]
    everywhere = reduce(np.intersect1d, (hashes[part] for part in parts))
    finite = np.isfinite(selection.table(["norm"])["norm"].to_numpy())
    parts = [part[finite[part]] if finite[part].any() else part for part in parts]
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
    return np.stack(grams), len(kept), len(common), len(everywhere) - len(common)


def _examples(
    selection: SelectedRows,
    place: dict[str, str | None],
    layers: list[int | None],
    by: str | None,
    rows: int,
    title: str | None,
    style: Style,
) -> Picture:
    drawn = sampling.draw(selection, rows)
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
    cells = vectors @ vectors.T
    sizes = np.bincount(codes, minlength=len(found.names))
    ends = np.cumsum(sizes)
    beside = np.abs(cells[~np.eye(len(cells), dtype=bool)])
    # The diagonal is one by definition, and the rest is often far from it.
    high = float(np.nanquantile(beside, 0.99)) if np.isfinite(beside).any() else 1.0
    high = min(1.0, max(0.05, np.ceil(20 * high) / 20))
    with looks.styled(style) as look:
        from matplotlib.colors import Normalize

        # A class of few rows has no room for its name.
        told = [n for n in range(len(sizes)) if sizes[n] >= _TOLD * len(cells)]
        names = looks.plain_names(found.names, 22)
        texts = [f"{names[n]} ({sizes[n]:,})" for n in told]
        figure = looks.picture(look, 5 + 0.07 * max(map(len, texts), default=0), 4.7)
        axes = figure.add_subplot()
        matrix.draw(
            figure,
            axes,
            cells,
            name="cosine, mean taken off",
            norm=Normalize(-high, high),
            colours=look.diverging,
            extend="neither" if high == 1 else "both",
        )
        for end in ends[:-1].tolist():
            axes.axhline(end - 0.5, color=look.ink, linewidth=0.7)
            axes.axvline(end - 0.5, color=look.ink, linewidth=0.7)
        axes.set_xticks([])
        axes.set_yticks([float(ends[n] - sizes[n] / 2 - 0.5) for n in told], texts)
        note = drawn.note + ("" if finite.all() else f"; {int((~finite).sum()):,} not finite")
        subject = looks.subject(place, layers)
        return looks.finish(figure, f"Similarity of examples · {subject}", note, title)
