"""The rows of a store that a probe or vector is for, and words for those that it is not for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from actstore.analysis.examples import place_rows
from actstore.analysis.examples.place_rows import ActivationPlace, RowChoice
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

    Raises:
        MismatchError: there are none; the message names both sides.
    """
    codes, there = place_rows.places_of(selection.table(list(ActivationPlace._fields)))
    found = {}
    for place in places:
        if place not in there:
            raise mismatch(place, there, name)
        found[place] = codes == there.index(place)
    return found


def mismatch(place: ActivationPlace, there: Sequence[ActivationPlace], name: str) -> MismatchError:
    """Return the error that a store has no rows for something made for ``place``.

    Args:
        place: what it was made for.
        there: places of the store's rows.
        name: of the store.
    """
    has = "has " + _nearest(place, there) if there else "has no such rows at all"
    unknown = "" if place.region else ", region not recorded"
    return MismatchError(
        f"made for {place.text}{unknown} of model {place.model}, but {name} {has}: use rows of "
        "the same model, site, layer, pooling and region, or name the layers that both have with "
        "--layers"
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
