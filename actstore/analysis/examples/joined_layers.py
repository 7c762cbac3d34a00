"""Several layers as one place: each example's vectors at all of them, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore import schema
from actstore.analysis.examples import example_groups
from actstore.analysis.examples.place_rows import ActivationPlace, PlaceRows
from actstore.errors import TooFewRowsError, UsageError
from actstore.querying.mixture import STREAM
from actstore.wording import counted

if TYPE_CHECKING:
    import pyarrow as pa

    from actstore.querying.selected import SelectedRows

_EMBEDDINGS = "embeddings"
_OF_LAYER = ("site", "layer", "norm", "row_id")
"""Columns in which the rows of one example differ from layer to layer."""
_LISTED = 6


class Aligned(NamedTuple):
    """Where in a table the rows of each example are."""

    rows: np.ndarray
    """Int64 ``[examples, layers]``, of those that have all layers, in the first layer's order."""
    lacking: int
    """How many examples do not have all of them."""
    missing: dict[int, int]
    """Layers that some examples lack, and how many do."""


def align(table: pa.Table, layers: Sequence[int]) -> Aligned:
    """Find the rows of the same example (and token) at each layer.

    Args:
        table: rows of one model, pooling and region, with the key's columns; of one site, but
            that the embeddings may be layer -1 of their stream.
        layers: those that each example must have.
    """
    names = [name for name in schema.key_names() if name not in ("site", "layer")]
    codes = example_groups.row_codes(table, names)
    numbers = table["layer"].to_numpy()
    found = np.full((int(codes.max(initial=-1)) + 1, len(layers)), -1)
    for column, layer in enumerate(layers):
        rows = np.flatnonzero(numbers == layer)
        found[codes[rows], column] = rows
    there = found >= 0
    missing = dict(zip(layers, (~there).sum(0).tolist(), strict=True))
    whole = found[there.all(1)]
    return Aligned(
        whole[np.argsort(whole[:, 0])],
        len(found) - len(whole),
        {layer: count for layer, count in missing.items() if count},
    )


def members(place: ActivationPlace, there: Sequence[ActivationPlace]) -> list[ActivationPlace]:
    """Return the place of each layer that is joined in ``place``.

    Args:
        place: of several layers.
        there: places of a store, which say whether layer -1 of the stream is the embeddings.
    """
    found = []
    for layer in place.layers or ():
        member = place._replace(layer=layer, layers=None)
        embeddings = member._replace(site=_EMBEDDINGS)
        begins = layer == -1 and place.site in STREAM
        found.append(embeddings if begins and member not in there else member)
    return found


def split(selection: SelectedRows, place: ActivationPlace) -> tuple[list[SelectedRows], int]:
    """Return rows of a place of several layers by layer, and how many examples lack one.

    Args:
        selection: rows of all of its layers.
        place: the place.

    Raises:
        TooFewRowsError: no example has all of them.
    """
    layers = place.layers or ()
    aligned = align(selection.table(list(schema.key_names())), layers)
    if not len(aligned.rows):
        raise TooFewRowsError(_none_whole(place, aligned))
    return [selection.take(rows) for rows in aligned.rows.T], aligned.lacking


def join(
    places: Sequence[PlaceRows],
    column: str,
    notes: list[str],
    layers: Sequence[int | None] | None = None,
) -> list[PlaceRows]:
    """Return one place for all layers of a site, pooling and region.

    Examples that lack one of the layers are left out, and so are those whose class or number
    is not the same at all of them; ``notes`` says how many. The embeddings are layer -1 of the
    stream that begins with them.

    Args:
        places: of one layer each.
        column: that holds the classes or numbers.
        notes: takes remarks on what was left out.
        layers: those that are asked for; all that a site has when missing.

    Raises:
        TooFewRowsError: nothing is left to join.
        UsageError: an example is in one group at one layer, in another at another.
    """
    found, refused = [], []
    for kind, several in _kinds(places).items():
        try:
            found.append(_joined(kind, several, column, notes, layers))
        except TooFewRowsError as error:
            refused.append(str(error))
    if not found:
        raise TooFewRowsError(refused[0])
    notes += [f"left out: {reason}" for reason in refused]
    return found


def _kinds(places: Sequence[PlaceRows]) -> dict[ActivationPlace, list[PlaceRows]]:
    """Return the places of each model, site, pooling and region; its layer is None in keys."""
    found: dict[ActivationPlace, list[PlaceRows]] = {}
    for rows in places:
        found.setdefault(rows.place._replace(layer=None), []).append(rows)
    begun = set()
    for kind, several in found.items():
        start = kind._replace(site=_EMBEDDINGS)
        if kind.site in STREAM and start in found:
            begun.add(start)
            if all(rows.place.layer != -1 for rows in several):
                several += [rows for rows in found[start] if rows.place.layer == -1]
    return {kind: several for kind, several in found.items() if kind not in begun}


def _joined(
    kind: ActivationPlace,
    several: Sequence[PlaceRows],
    column: str,
    notes: list[str],
    layers: Sequence[int | None] | None,
) -> PlaceRows:
    import pyarrow as pa
    import pyarrow.compute as pc

    there = {rows.place.layer: rows for rows in several if rows.place.layer is not None}
    wanted = tuple(
        sorted(there if layers is None else {each for each in layers if each is not None})
    )
    if len(wanted) < 2:
        raise TooFewRowsError(f"{several[0].place.text}: there is no second layer to join it with")
    place = kind._replace(layers=wanted)
    absent = [str(layer) for layer in wanted if layer not in there]
    if absent:
        raise TooFewRowsError(
            f"{place.text}: no row with a value of {column} is of layer {' or '.join(absent)}"
        )
    if len(there) < len(several):
        notes.append(f"{place.text}: rows without a layer's number are left out")
    parts = [there[layer] for layer in wanted]
    aligned = align(pa.concat_tables([rows.table for rows in parts]), wanted)
    if not len(aligned.rows):
        raise TooFewRowsError(_none_whole(place, aligned))
    if aligned.lacking:
        notes.append(
            f"{place.text}: {aligned.lacking:,} of "
            f"{counted(len(aligned.rows) + aligned.lacking, unit(place))} left out, without a "
            f"vector and a value of {column} at each of these layers ({_absent(aligned)})"
        )
    starts = np.cumsum([0, *(len(rows) for rows in parts[:-1])])
    parts = [
        rows.part(positions - start)
        for rows, positions, start in zip(parts, aligned.rows.T, starts, strict=True)
    ]
    parts = _agreeing(place, parts, column, notes)
    first = parts[0]
    # Where one layer's rows came without their questions, another's have them.
    questions = pc.coalesce(*(rows.table["question"] for rows in parts))
    table = first.table.set_column(
        first.table.column_names.index("question"), "question", questions
    )
    return PlaceRows(
        place=place,
        selection=first.selection,
        table=table.drop_columns([name for name in _OF_LAYER if name != column]),
        positive=first.positive,
        grouping=first.grouping,
        numbers=first.numbers,
        parts=tuple(parts),
    )


def _agreeing(
    place: ActivationPlace,
    parts: Sequence[PlaceRows],
    column: str,
    notes: list[str],
) -> list[PlaceRows]:
    """Return the examples that have one class or number at all layers.

    Raises:
        TooFewRowsError: there are none.
        UsageError: one is in different groups.
    """
    import pyarrow.compute as pc

    noun = unit(place)
    first, *others = parts
    for rows in others:
        if not np.array_equal(rows.groups, first.groups):
            raise UsageError(
                f"{place.text}: {first.grouping.grouped_by} puts the same {noun} into one group at "
                "one layer and into another at another: name with --group-by what is the same at "
                "all layers"
            )
    texts = [rows.table[column].cast("string") for rows in parts]
    same = np.ones(len(first), bool)
    for other in texts[1:]:
        same &= pc.equal(texts[0], other).to_numpy()
    if not same.any():
        raise TooFewRowsError(
            f"{place.text}: no {noun} has the same {column} at all of these layers"
        )
    if same.all():
        return list(parts)
    notes.append(
        f"{place.text}: {counted(int((~same).sum()), noun)} left out whose {column} is not the "
        "same at all of these layers"
    )
    return [rows.part(same) for rows in parts]


def unit(place: ActivationPlace) -> str:
    """Return what has a vector at each layer, in a word."""
    return "token" if place.pooling == "none" else "example"


def _none_whole(place: ActivationPlace, aligned: Aligned) -> str:
    return (
        f"{place.text}: no {unit(place)} has a vector at each of these layers ({_absent(aligned)})"
    )


def _absent(aligned: Aligned) -> str:
    """Return how many lack which layers: ``3 lack layer 10, 1 lacks layer 15``."""
    told = [
        f"{count:,} {'lacks' if count == 1 else 'lack'} layer {layer}"
        for layer, count in aligned.missing.items()
    ]
    return ", ".join(told[:_LISTED]) + (", …" if len(told) > _LISTED else "")
