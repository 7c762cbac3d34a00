"""Rows of a selection by the values of some metadata columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore.querying.metadata import check_columns

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows


class RowGroup(NamedTuple):
    """Rows that share their values of some columns."""

    key: dict[str, Any]
    places: np.ndarray
    """Positions in the selection, int64, ascending."""


def group(selection: SelectedRows, by: Sequence[str]) -> list[RowGroup]:
    """Return the rows of ``selection`` by their values of the columns ``by``.

    Groups are ordered by these values, null last. Without columns all rows are one group.

    Raises:
        NotInStoreError: there is no such column.
    """
    import pyarrow as pa

    names = list(dict.fromkeys(by))
    check_columns(names)
    if not len(selection):
        return []
    if not names:
        return [RowGroup({}, np.arange(len(selection)))]
    table = selection.table(names).append_column(
        "__place__", pa.array(np.arange(len(selection), dtype=np.int64))
    )
    places = table.group_by(names, use_threads=False).aggregate([("__place__", "list")])
    lists = places["__place___list"].combine_chunks()
    flat, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
    keys = places.select(names).to_pylist()
    groups = [
        RowGroup(key, np.sort(flat[start:stop]))
        for key, start, stop in zip(keys, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ]
    return sorted(groups, key=lambda found: order(found.key.values()))


def order(values: Iterable[Any]) -> tuple[tuple[bool, Any], ...]:
    """Return what sorts a group's values, null after all others."""
    return tuple((value is None, 0 if value is None else value) for value in values)


def title(key: dict[str, Any]) -> str:
    """Return a group's values as readable text."""
    parts = []
    for name, value in key.items():
        shown = ("not recorded" if name == "layer" else "none") if value is None else str(value)
        parts.append(f"{name} {shown}" if name in ("layer", "position") else shown)
    return ", ".join(parts)
