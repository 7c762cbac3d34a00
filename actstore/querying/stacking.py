"""Splits a selection by layer (site, pooling …), or stacks the layers into one array by example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from actstore import schema
from actstore.errors import StackError, UsageError
from actstore.querying import mixture
from actstore.querying.metadata import ROW_ID, check_columns
from actstore.querying.value_codes import CodedColumn, combine, encode, ranked
from actstore.storage import key_hashes
from actstore.wording import counted

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from actstore.querying.selected import SelectedRows

Selected = TypeVar("Selected", bound="SelectedRows")

STACKED = ("layer", "site", "pooling", "region", "position", "model", "mode", "variant")
"""Columns of the key along which vectors can be stacked: those that do not name an example."""
_LISTED = 3


class Stack(NamedTuple):
    """Vectors of the same examples, one for each value of a column."""

    array: np.ndarray
    """As stored: ``[examples, values, width]``."""
    values: tuple[Any, ...]
    """What the second axis is: the layers, say; ascending, null last."""
    table: pa.Table
    """The examples' metadata, a row for each of the first axis."""

    def tensor(self, device: torch.device | str | None = None) -> torch.Tensor:
        """Return the array as a tensor, which shares its memory on the CPU."""
        import torch

        return torch.from_numpy(self.array).to(device)


def by(selection: Selected, columns: Sequence[str]) -> dict[Any, Selected]:
    """Return the rows by their values of columns; see ``Selection.by``."""
    if not columns or not all(isinstance(name, str) for name in columns):
        raise UsageError(
            f"by() takes names of columns one after the other, such as by('layer', 'site'), "
            f"got {columns!r}"
        )
    names = list(dict.fromkeys(columns))
    encoded = encode(selection, names)
    numbers = combine((column.codes, len(column.values)) for column in encoded)
    order = np.argsort(numbers, kind="stable")
    _, firsts = np.unique(numbers[order], return_index=True)
    found: dict[Any, Selected] = {}
    for places in np.split(order, firsts[1:]) if len(order) else ():
        at = int(places[0])
        key = tuple(column.values[column.codes[at]] for column in encoded)
        # What was listed is narrowed with the rows, so that a stack misses no other value.
        listed = {
            name: (key[names.index(name)],) if name in names else values
            for name, values in selection.listed.items()
        }
        found[key if len(names) > 1 else key[0]] = selection.part(places, listed)
    return found


def stack(
    selection: SelectedRows, column: str, columns: Sequence[str] | None, *, mixed: bool
) -> Stack:
    """Return the vectors as one array, joined by example; see ``Selection.stack``."""
    check_columns([column])
    if column not in STACKED:
        raise UsageError(
            f"vectors are stacked along one of {', '.join(STACKED)}, got {column!r}: "
            f"by({column!r}) gives a selection for each value"
        )
    ignored = {column}
    sites = {shard.site for shard in selection.shards}
    if column == "layer" and mixture.one_stream(sites):
        ignored.add("site")  # the layer tells the embeddings from the stream
    mixture.refuse(
        selection,
        mixed=mixed,
        columns=[name for name in schema.PLACE if name not in ignored],
        instead="",
    )
    names = [name for name in schema.key_names() if name not in ignored]
    along, *others = encode(selection, [column, *names])
    along = _with_listed(along, selection.listed.get(column, ()))
    example = combine((each.codes, len(each.values)) for each in others)
    _, firsts, example = np.unique(example, return_index=True, return_inverse=True)
    # Numbered anew, in the order in which the selection names them.
    order = np.argsort(firsts)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    example, firsts = rank[example], firsts[order]
    shape = len(firsts), len(along.values)
    cells = example * shape[1] + along.codes
    times = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
    if (times != 1).any():
        raise StackError(_uneven(selection, column, along.values, names, firsts, times))
    places = np.empty(len(cells), np.int64)
    places[cells] = np.arange(len(cells))
    stacked = selection.take(places)
    array = stacked.numpy(mixed=True)  # looked at above
    table = _table(selection, column, names, places.reshape(shape), columns)
    return Stack(array.reshape(*shape, array.shape[1]), tuple(along.values), table)


def _with_listed(along: CodedColumn, listed: Sequence[Any]) -> CodedColumn:
    """Return the column with the values that the caller listed, also those no row has."""
    absent = [value for value in listed if value not in along.values]
    if not absent:
        return along
    values = sorted([*along.values, *absent], key=ranked)
    places = np.array([values.index(value) for value in along.values], np.int64)
    return CodedColumn(values, places[along.codes])


def _uneven(
    selection: SelectedRows,
    column: str,
    values: Sequence[Any],
    names: Sequence[str],
    firsts: np.ndarray,
    times: np.ndarray,
) -> str:
    """Return the message for examples that lack vectors, or have several of one value."""
    parts = []
    for wrong, verbs in (
        (times == 0, ("lacks a vector of some", "lack a vector of some")),
        (times > 1, ("has several rows of one", "have several rows of one")),
    ):
        examples = np.flatnonzero(wrong.any(axis=1))
        if not len(examples):
            continue
        rows = selection.take(firsts[examples[:_LISTED]]).table(list(names)).to_pylist()
        varying = _varying(selection, names)
        told = []
        for example, row in zip(examples[:_LISTED].tolist(), rows, strict=True):
            key = tuple(row[name] if name in varying else None for name in schema.key_names())
            which = [values[at] for at in np.flatnonzero(wrong[example]).tolist()]
            told.append(f"{key_hashes.describe(key)}: {mixture.listing(which)}")
        more = "; …" if len(examples) > _LISTED else ""
        parts.append(
            f"{counted(len(examples), 'example')} of {len(times):,} "
            f"{verbs[len(examples) > 1]} {column} ({'; '.join(told)}{more})"
        )
    return (
        f"these rows make no array of examples by {column}: {' and '.join(parts)}. Rows are of "
        f"one example if they agree in {', '.join(names)}: select rows that every example has "
        "once, or leave out the examples that differ"
    )


def _varying(selection: SelectedRows, names: Sequence[str]) -> set[str]:
    """Return the key's columns that tell these rows apart, example_id always among them."""
    several = {
        name
        for name, found in zip(names, encode(selection, list(names)), strict=True)
        if len(found.values) > 1
    }
    return {"example_id"} | several


def _table(
    selection: SelectedRows,
    column: str,
    joined_by: Sequence[str],
    places: np.ndarray,
    columns: Sequence[str] | None,
) -> pa.Table:
    """Return the examples' metadata: of the cells' columns those in which they agree.

    A column that differs from cell to cell, such as the norm, belongs to no example.
    """
    wanted = check_columns(columns)
    if columns is None:
        wanted = [name for name in wanted if name not in (column, ROW_ID, "norm")]
    compared = [name for name in wanted if name not in joined_by]
    if not places.size:
        return selection.take([]).table(wanted)
    table = selection.take(places[:, 0]).table(wanted)
    for number in range(1, places.shape[1]):
        other = selection.take(places[:, number]).table(compared)
        compared = [name for name in compared if other[name].equals(table[name])]
    shared = [name for name in wanted if name in joined_by or name in compared]
    if columns is not None and len(shared) < len(wanted):
        differing = next(name for name in wanted if name not in shared)
        raise UsageError(
            f"{differing} has several values for one example, one for each {column} perhaps: "
            f"leave it out of columns=, or take it from by({column!r})"
        )
    return table.select(shared)
