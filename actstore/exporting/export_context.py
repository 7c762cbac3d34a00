"""The rows to export, gathered into pieces: one vector, or the tokens of one example."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.errors import ExportError
from actstore.exporting.planned_files import ExportNotes, listed
from actstore.storage.source_dtypes import Form, Forms

if TYPE_CHECKING:
    import pyarrow as pa

    from actstore.querying.reader import StoreReader
    from actstore.querying.selected import SelectedRows

_CHUNK = 500_000
_OF_TOKENS = ("position", "token_id", "token_role", "norm")
_TELLING = (
    "model",
    "dataset",
    "split",
    "example_id",
    "example_index",
    "mode",
    "variant",
    "layer",
    "site",
    "pooling",
    "region",
    "source",
    "run_id",
)
"""Columns in which two pieces differ."""
PLACE = ("model", "site", "pooling", "region")
"""Of rows that files without a word of it hold."""
ORIGIN = ("dataset", "split", "mode", "variant")
"""What tells examples of one id apart."""
_LAYER = re.compile(r"(?<![^/])layer_(\d+)(?=(?:_activations\.pt)?$)")


class RowRange(NamedTuple):
    """Rows that belong together: one vector, or a run of tokens."""

    number: int
    """Its place in the table of pieces."""
    row: int
    """Number of its first row; the others follow."""
    size: int
    """How many rows."""
    first: int | None
    """Position of its first token, None where the vector is no token."""
    model: str
    dataset: str | None
    split: str | None
    example_id: str
    example_index: int | None
    mode: str | None
    variant: str | None
    layer: int | None
    site: str
    pooling: str
    region: str | None
    source: str | None
    run_id: str

    @property
    def rows(self) -> np.ndarray:
        """Its row numbers."""
        return np.arange(self.row, self.row + self.size)

    @property
    def path(self) -> str:
        """The file it came from."""
        return (self.source or "").partition("#")[0]

    @property
    def key(self) -> str:
        """The key within that file."""
        return (self.source or "").partition("#")[2]

    def with_layer(self, name: str) -> str:
        """Return a path or key with ``layer_N`` in it as the row has it, renamed or not."""

        def named(found: re.Match[str]) -> str:
            same = self.layer is None or int(found[1]) == self.layer
            return found[0] if same else f"layer_{self.layer}"

        return _LAYER.sub(named, name)


@dataclass(kw_only=True)
class ExportContext:
    """What a layout may use to plan its files."""

    store: StoreReader
    layout: str
    where: str | None
    equals: dict[str, Any]
    dtype: str | None = None
    """Type to write instead of the recorded one."""
    targets: int | None = None
    context: int | None = None
    compression: str = "zstd"
    metadata: str = "parquet"
    notes: ExportNotes = field(default_factory=ExportNotes)

    @cached_property
    def selection(self) -> SelectedRows:
        """The rows that were asked for.

        Raises:
            ExportError: there are none.
        """
        found = self.store.select(self.where, **self.equals)
        if not len(found):
            raise ExportError(
                f"no row of {self.store.name} meets the conditions, so there is nothing to "
                "export; `actstore info` shows what is there"
            )
        return found

    @cached_property
    def forms(self) -> Forms:
        """How the rows' files held them."""
        return Forms(self.selection.snapshot.manifest.runs)

    def form(self, piece: RowRange, kind: str = "", source: str | None = None) -> Form:
        """Return how a piece's file held it; empty where it was not this layout's."""
        if self.forms.recipe(piece.run_id) != self.layout:
            return {}
        if self.forms.cut(piece.run_id):
            self.notes.say(
                "the ingest met more kinds of tensors than it could write down: types and "
                "shapes of some files are those of most"
            )
        return self.forms.find(piece.run_id, source or piece.source or "", kind)

    @cached_property
    def table(self) -> pa.Table:
        """One row per piece: the metadata of its first row, with ``row``, ``size``, ``first``."""
        return pieces_of(self.selection)

    @cached_property
    def pieces(self) -> list[RowRange]:
        """All pieces, in the store's order."""
        columns = [self.table[name].to_pylist() for name in RowRange._fields[1:]]
        return [
            RowRange(number, *values) for number, values in enumerate(zip(*columns, strict=True))
        ]

    def known(self, pieces: Iterable[RowRange]) -> bool:
        """Say whether all pieces were ingested from this layout, so that they know their file."""
        return all(each.source and self.forms.recipe(each.run_id) == self.layout for each in pieces)

    def details(self, piece: RowRange) -> dict[str, Any]:
        """Return all metadata of a piece's first row."""
        found: dict[str, Any] = self.table.slice(piece.number, 1).to_pylist()[0]
        return found

    def extra(self, piece: RowRange) -> dict[str, Any]:
        """Return the column extra as a table."""
        return as_extra(self.details(piece)["extra"])


def as_extra(text: str | None) -> dict[str, Any]:
    """Return the content of the column extra, empty where it holds none."""
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def pieces_of(selection: SelectedRows) -> pa.Table:
    """Gather neighbouring rows that differ in nothing but their token."""
    import pyarrow as pa

    names = [name for name in schema.metadata_names() if name not in _OF_TOKENS]
    parts = []
    for start in range(0, len(selection), _CHUNK):
        rows = selection.rows[start : start + _CHUNK]
        part = selection[start : start + _CHUNK].table([*names, "position"])
        positions = part["position"].fill_null(-1).to_numpy().astype(np.int64)
        new = np.ones(len(rows), bool)
        new[1:] = (rows[1:] != rows[:-1] + 1) | (positions[1:] != positions[:-1] + 1)
        new[positions < 0] = True
        for name in _TELLING if not new.all() else ():
            codes = part[name].combine_chunks().dictionary_encode("encode").indices.to_numpy()
            new[1:] |= codes[1:] != codes[:-1]
        starts = np.flatnonzero(new)
        counts = np.diff([*starts.tolist(), len(rows)])
        firsts = pa.array(positions[starts], pa.int64(), mask=positions[starts] < 0)
        part = part.take(pa.array(starts)).select(names)
        parts.append(
            part.append_column("row", pa.array(rows[starts], pa.int64()))
            .append_column("size", pa.array(counts, pa.int64()))
            .append_column("first", firsts)
        )
    return pa.concat_tables(parts)


def joined(pieces: Sequence[RowRange], what: str) -> np.ndarray:
    """Return the row numbers of one tensor's tokens (or of its only vector), in order.

    Raises:
        ExportError: tokens are missing, or there are several vectors.
    """
    if len(pieces) == 1 and pieces[0].first in (None, 0):
        return pieces[0].rows
    ordered = sorted(pieces, key=lambda each: each.first or 0)
    expected = 0
    for each in ordered:
        if each.first is None:
            raise ExportError(
                f"{what}: {len(pieces)} vectors where one is expected; they differ in "
                f"{differing(ordered)}: choose with --where"
            )
        if each.first != expected:
            wrong = "twice" if each.first < expected else "missing"
            at = min(each.first, expected)
            raise ExportError(
                f"{what}: token {at} is {wrong}; whole sequences are exported: choose rows "
                "without cutting any, or one model, pooling and site"
            )
        expected += each.size
    return np.concatenate([each.rows for each in ordered])


def check_alike(
    pieces: Iterable[RowRange], names: Sequence[str], group: Callable[[RowRange], str]
) -> None:
    """Refuse rows that would stand together in files that do not say where they differ.

    Args:
        pieces: the rows.
        names: columns in which those of one group must agree.
        group: says what a piece becomes a part of.

    Raises:
        ExportError: some do not.
    """
    firsts: dict[str, RowRange] = {}
    for each in pieces:
        whole = group(each)
        first = firsts.setdefault(whole, each)
        if any(getattr(first, name) != getattr(each, name) for name in names):
            raise ExportError(
                f"{whole}: rows that differ in {differing([first, each], names)}, and these files "
                "do not say which is which; choose one with --model, --sites or --where"
            )


def differing(
    pieces: Sequence[RowRange],
    names: Sequence[str] = (
        "model",
        "site",
        "layer",
        "dataset",
        "mode",
        "variant",
        "pooling",
        "region",
        "run_id",
    ),
) -> str:
    """Name the columns in which some pieces differ, with their values."""
    found = []
    for name in names:
        values = list(dict.fromkeys(str(getattr(each, name)) for each in pieces))
        if len(values) > 1:
            found.append(f"{name} ({listed(values)})")
    return " and ".join(found) or "nothing that is stored"
