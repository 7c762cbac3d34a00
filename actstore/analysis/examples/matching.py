"""The rows of a store that a probe or vector is for, and words for those that it is not for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from actstore.analysis.examples import joined_layers, place_rows
from actstore.analysis.examples.place_rows import PLACE_COLUMNS, ActivationPlace, RowChoice
from actstore.errors import MismatchError

if TYPE_CHECKING:
    from actstore.querying.reader import StoreReader
    from actstore.querying.selected import SelectedRows

_LISTED = 8


def matching(
    store: StoreReader, places: Sequence[ActivationPlace], choice: RowChoice
) -> dict[ActivationPlace, SelectedRows]:
    """Return the rows of ``store`` for each place: same model, site, layer, pooling, region.

    Raises:
        MismatchError: there are none; the message names both sides.
    """
    selection = store.select(choice.where)
    rows = places_in(selection, places, store.name)
    return {place: selection.take(rows[place]) for place in places}


def places_in(
    selection: SelectedRows, places: Sequence[ActivationPlace], name: str
) -> dict[ActivationPlace, np.ndarray]:
    """Return which rows of a selection are those of each place, bool ``[rows]``.

    Of several layers they are the rows of all of them.

    Raises:
        MismatchError: there are none; the message names both sides.
    """
    codes, there = place_rows.places_of(selection.table(list(PLACE_COLUMNS)))
    found = {}
    for place in places:
        wanted = [place] if place.layers is None else joined_layers.members(place, there)
        for each in wanted:
            if each not in there:
                raise mismatch(place, there, name, each)
        found[place] = np.isin(codes, [there.index(each) for each in wanted])
    return found


def mismatch(
    place: ActivationPlace,
    there: Sequence[ActivationPlace],
    name: str,
    lacking: ActivationPlace | None = None,
) -> MismatchError:
    """Return the error that a store has no rows for something made for ``place``.

    Args:
        place: what it was made for.
        there: places of the store's rows.
        name: of the store.
        lacking: the place that it has no rows of, where ``place`` is several layers.
    """
    has = "has " + _nearest(lacking or place, there) if there else "has no such rows at all"
    unknown = "" if place.region else ", region not recorded"
    made = f"made for {place.text}{unknown} of model {place.model}, but {name}"
    if lacking is not None and place.layers is not None:
        return MismatchError(
            f"{made} has no {lacking.text} (it {has}): rows of all these layers are needed, of the "
            "same model, site, pooling and region"
        )
    return MismatchError(
        f"{made} {has}: use rows of the same model, site, layer, pooling and region, or name the "
        "layers that both have with --layers"
    )


def _nearest(wanted: ActivationPlace, there: Sequence[ActivationPlace]) -> str:
    """Return the first thing that no row shares with the wanted place, in words."""
    for name in ("model", "site", "layer", "pooling", "region"):
        values = {getattr(place, name) for place in there}
        if getattr(wanted, name) not in values:
            told = sorted("not recorded" if each is None else str(each) for each in values)
            more = ", …" if len(told) > _LISTED else ""
            return f"{name} {', '.join(told[:_LISTED])}{more}"
        there = [place for place in there if getattr(place, name) == getattr(wanted, name)]
    return ", ".join(place.text for place in there[:4])
