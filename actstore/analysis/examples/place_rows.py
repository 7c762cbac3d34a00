"""Rows of one place: one model, site, layer, pooling and region, for one probe or vector."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.analysis.examples import example_groups, numbers
from actstore.analysis.examples.classes import Classes
from actstore.analysis.examples.example_groups import ExampleGroups
from actstore.analysis.examples.numbers import Numbers
from actstore.errors import NotInStoreError, TooFewRowsError, UsageError
from actstore.storage import floats

if TYPE_CHECKING:
    import pyarrow as pa

    from actstore.querying.reader import StoreReader
    from actstore.querying.selected import SelectedRows

_LISTED = 5
_LONGEST = 100


class ActivationPlace(NamedTuple):
    """The model, site, layer, pooling and region that vectors were captured at."""

    model: str
    site: str
    layer: int | None
    pooling: str
    region: str | None
    layers: tuple[int, ...] | None = None
    """Ascending, where the vectors of an example at several layers are one; then no ``layer``."""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> ActivationPlace:
        """Return the place that an entry of a report or file names, as :attr:`named` wrote it.

        Raises:
            KeyError: it names none.
            ValueError: its layers are no list of numbers.
        """
        layers = entry.get("layers")
        if layers is not None:
            if not isinstance(layers, list) or not all(isinstance(each, int) for each in layers):
                raise ValueError(f"layers must be a list of numbers, got {layers!r}")
            layers = tuple(layers)
        return cls(**{name: entry[name] for name in PLACE_COLUMNS}, layers=layers)

    @property
    def named(self) -> dict[str, object]:
        """The place by column, for reports; with ``layers`` where there are several."""
        columns: dict[str, object] = dict(zip(PLACE_COLUMNS, self, strict=False))
        return columns if self.layers is None else {**columns, "layers": list(self.layers)}

    @property
    def text(self) -> str:
        """For messages: ``layer 6 of resid_post (last)``."""
        region = f" over {self.region}" if self.region else ""
        kind = f" of {self.site}" if (self.layer, self.site) != (-1, "embeddings") else ""
        layers = layer_text(self.layer) if self.layers is None else f"layers {self.listed}"
        return f"{layers}{kind} ({self.pooling}{region})"

    @property
    def listed(self) -> str:
        """Several layers for a table: ``5, 10, 15``, ``embed, 0-31``."""
        return ", ".join(_ranges(self.layers or ()))

    @property
    def file_word(self) -> str:
        """The layers as file names have them: ``layer_6``, ``layers_5_10_15``."""
        if self.layers is None:
            return f"layer_{layer_word(self.layer)}"
        word = "_".join(_ranges(self.layers))
        if len(word) > _LONGEST:
            word = f"{self.layers[0]}_to_{self.layers[-1]}"
        return f"layers_{word}"


PLACE_COLUMNS = ActivationPlace._fields[:-1]
"""Columns of a store that say where a vector was captured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceRows:
    """Rows of one place with their classes and groups, in the store's order."""

    place: ActivationPlace
    selection: SelectedRows
    table: pa.Table
    """Their metadata: key columns, question and label."""
    positive: np.ndarray
    """Bool ``[rows]``; all false where numbers are asked for."""
    grouping: ExampleGroups
    """What must stay on one side."""
    numbers: np.ndarray | None = None
    """Float64 ``[rows]`` where numbers are asked for, not classes."""
    parts: tuple[PlaceRows, ...] = ()
    """Where several layers are joined: the same examples at each of them. ``selection`` and
    ``table`` are then the first one's, the table without what differs between layers."""

    @property
    def groups(self) -> np.ndarray:
        """Number of each row's group, int64 ``[rows]``, the same in all places of a run."""
        return self.grouping.groups

    @property
    def selections(self) -> list[SelectedRows]:
        """The store's rows, those of each layer for itself."""
        return [each.selection for each in self.parts or (self,)]

    @property
    def row_ids(self) -> np.ndarray:
        """``row_id`` of each row's vectors, int64 ``[rows, layers]``."""
        return np.column_stack([each.rows for each in self.selections])

    @property
    def width(self) -> int:
        """Width of :meth:`vectors`."""
        return sum(each.shape[1] for each in self.selections)

    @property
    def stored(self) -> pa.Table:
        """The metadata of all vectors, layer after layer."""
        import pyarrow as pa

        return pa.concat_tables([each.table for each in self.parts or (self,)])

    def __len__(self) -> int:
        return len(self.positive)

    def vectors(self) -> np.ndarray:
        """Return the vectors as float32 ``[rows, width]``, those of several layers side by side.

        Raises:
            TooFewRowsError: some are not finite.
            MixedVectorsError: they differ in width.
        """
        return side_by_side(self.selections, self.place)

    def part(self, keep: np.ndarray) -> PlaceRows:
        """Return the rows for which ``keep`` is true, or those at the positions it holds."""
        rows = np.flatnonzero(keep) if keep.dtype == bool else keep
        return PlaceRows(
            place=self.place,
            selection=self.selection.take(rows),
            table=self.table.take(rows),
            positive=self.positive[rows],
            grouping=self.grouping.part(rows),
            numbers=None if self.numbers is None else self.numbers[rows],
            parts=tuple(each.part(rows) for each in self.parts),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RowChoice:
    """Which rows of a store to use; every field that is set leaves some out."""

    where: str | None = None
    layers: Sequence[int | None] | None = None
    model: str | None = None
    site: str | None = None
    pooling: str | None = None

    @property
    def equals(self) -> dict[str, Any]:
        """The conditions on columns, as ``Store.select`` takes them."""
        given = {
            "model": self.model,
            "site": self.site,
            "pooling": self.pooling,
            "layer": None if self.layers is None else list(self.layers),
        }
        return {name: value for name, value in given.items() if value is not None}

    def and_where(self, condition: str | None) -> RowChoice:
        """Return the choice with one condition more."""
        if condition is None:
            return self
        # The line breaks end comments, so that the parentheses are always closed.
        both = f"({self.where}\n) AND ({condition}\n)" if self.where else condition
        return RowChoice(
            where=both,
            layers=self.layers,
            model=self.model,
            site=self.site,
            pooling=self.pooling,
        )

    @property
    def text(self) -> str:
        """The conditions, for lineage."""
        parts = [f"{name} = {value!r}" for name, value in self.equals.items()]
        return " AND ".join(parts + ([f"({self.where})"] if self.where else []))


def choose(store: StoreReader, choice: RowChoice) -> SelectedRows:
    """Select the rows, of one model.

    Raises:
        NotInStoreError: nothing is selected, or a value does not occur.
        UsageError: the rows are of several models.
    """
    selection = store.select(choice.where, **choice.equals)
    if not len(selection):
        raise NotInStoreError(f"no row of {store.name} fits {choice.text or 'anything'}")
    models = selection.table(["model"])["model"].unique().to_pylist()
    if len(models) > 1:
        raise UsageError(
            f"{store.name} has rows of {len(models)} models ({', '.join(sorted(models))}), and "
            "vectors of different models have nothing in common: choose one with --model"
        )
    return selection


def by_place(
    selection: SelectedRows,
    classes: Classes | Numbers,
    group_by: str | None = None,
    notes: list[str] | None = None,
    grouping: ExampleGroups | None = None,
) -> list[PlaceRows]:
    """Return the rows with a class, place by place: by site, pooling, region and layer.

    Args:
        selection: rows of one model.
        classes: rows of neither class are left out; of numbers, rows without one.
        group_by: what must stay on one side, as :func:`example_groups.groups_of` takes it.
        notes: takes remarks on what was decided.
        kin: what must stay on one side, where that is known already.

    Raises:
        NotInStoreError: there is no such column.
        SqlError: ``group_by`` is an expression that fails.
        TooFewRowsError: no row has a class.
    """
    names = [*schema.key_names(), "question", "label", "norm", "row_id"]
    extra = [classes.column] if classes.column not in names else []
    table = selection.table([*names, *extra])
    positive, known = _classified(table, classes)
    values = None
    if isinstance(classes, Numbers):
        values = numbers.of(classes.column, table[classes.column])
        lacking = f"have no number in {classes.column}, and are"
        wanted = f"a number in {classes.column}"
    else:
        lacking = "are of neither class and"
        wanted = f"{classes.column} {' or '.join(classes.positive + classes.negative)}"
    if not known.any():
        raise TooFewRowsError(f"no row here has {wanted}")
    if notes is not None and not known.all():
        notes.append(f"{int((~known).sum()):,} of {len(known):,} rows {lacking} left out")
    if grouping is None:
        grouping = example_groups.groups_of(selection, group_by, used=known, notes=notes)
    codes, places = places_of(table)
    found = []
    for number in sorted(range(len(places)), key=lambda each: _order(places[each])):
        rows = np.flatnonzero((codes == number) & known)
        if len(rows):
            found.append(
                PlaceRows(
                    place=places[number],
                    selection=selection.take(rows),
                    table=table.take(rows),
                    positive=positive[rows],
                    grouping=grouping.part(rows),
                    numbers=None if values is None else values[rows],
                )
            )
    return found


def known_rows(selection: SelectedRows, classes: Classes | Numbers) -> np.ndarray:
    """Return which rows have a class, or a number, bool ``[rows]``."""
    return _classified(selection.table([classes.column]), classes)[1]


def codes_of(table: pa.Table, column: str, names: Sequence[str]) -> np.ndarray:
    """Return the number of each row's class among several, int64 ``[rows]``.

    Args:
        table: rows that all have one of them.
        column: that holds the classes.
        names: of the classes, ascending.
    """
    values = table[column].cast("string").to_numpy(zero_copy_only=False).astype(object)
    found: np.ndarray = np.searchsorted(np.array(names, object), values).astype(np.int64)
    return found


def _classified(table: pa.Table, classes: Classes | Numbers) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows are positive, and which have a class or number at all; bool ``[rows]``."""
    if isinstance(classes, Numbers):
        known = np.isfinite(numbers.of(classes.column, table[classes.column]))
        return np.zeros(len(table), bool), known
    values = table[classes.column].cast("string").to_numpy(zero_copy_only=False).astype(object)
    positive = np.isin(values, list(classes.positive))
    return positive, positive | np.isin(values, list(classes.negative))


def side_by_side(selections: Sequence[SelectedRows], place: ActivationPlace) -> np.ndarray:
    """Return the vectors of rows at one layer, or at each of several, float32 ``[rows, width]``.

    Args:
        selections: as many rows for each layer, in the same order of examples.
        place: of all of them, for messages.

    Raises:
        TooFewRowsError: some are not finite.
    """
    if len(selections) == 1:
        return finite_vectors(selections[0], place)
    ends = np.cumsum([0, *(each.shape[1] for each in selections)]).tolist()
    found = np.empty((len(selections[0]), ends[-1]), np.float32)
    for each, (start, end) in zip(selections, pairwise(ends), strict=True):
        found[:, start:end] = finite_vectors(each, place)
    return found


def finite_vectors(selection: SelectedRows, place: ActivationPlace) -> np.ndarray:
    """Return vectors as float32 ``[rows, width]``.

    Raises:
        TooFewRowsError: some are not finite.
    """
    matrix = selection.numpy(copy=None)
    vectors = floats.widen(matrix) if matrix.dtype == np.float16 else np.array(matrix, np.float32)
    if not floats.finite(vectors):
        wrong = np.flatnonzero(~np.isfinite(vectors).all(1))
        rows = ", ".join(map(str, selection.rows[wrong[:_LISTED]].tolist()))
        raise TooFewRowsError(
            f"{place.text}: {len(wrong)} of {len(vectors)} vectors hold NaN or infinity (row_id "
            f"{rows}{', …' if len(wrong) > _LISTED else ''}): leave them out with the condition "
            '"isfinite(norm)" (--where, or where= from Python)'
        )
    return vectors


def rows_and_labels(
    store: StoreReader, choice: RowChoice, column: str
) -> tuple[SelectedRows, list[object]]:
    """Return the chosen rows, and each row's value of a column.

    Raises:
        NotInStoreError: there is no such column.
    """
    selection = choose(store, choice)
    return selection, selection.table([column])[column].to_pylist()


def rows_hash(rows: PlaceRows) -> str:
    """Return a hash of the rows' keys and labels, in order."""
    return table_hash(rows.stored)


def table_hash(table: pa.Table) -> str:
    """Return the same of a table that has the key's columns and ``label``."""
    import pyarrow.csv as csv

    sink = io.BytesIO()
    csv.write_csv(table.select([*schema.key_names(), "label"]), sink)
    return hashlib.sha256(sink.getvalue()).hexdigest()


def vectors_hash(table: pa.Table) -> str:
    """Return a hash of the rows' norms, in order: other vectors of the same keys have others."""
    norms = table["norm"].to_numpy().astype("<f4")
    return hashlib.sha256(norms.tobytes()).hexdigest()


def layer_text(layer: int | None) -> str:
    """Return ``layer 6``, ``the embeddings`` or ``the unnumbered layer``."""
    if layer is None:
        return "the unnumbered layer"
    return "the embeddings" if layer < 0 else f"layer {layer}"


def layer_word(layer: int | None) -> str:
    """Return the layer as file names have it: ``6``, ``-1`` or ``unknown``."""
    return "unknown" if layer is None else str(layer)


def _ranges(layers: Sequence[int]) -> list[str]:
    """Return layers in words, three or more in a row as ``0-31``."""
    found: list[list[int]] = []
    for layer in layers:
        if found and layer == found[-1][-1] + 1 and found[-1][-1] >= 0:
            found[-1].append(layer)
        else:
            found.append([layer])
    return [
        word
        for run in found
        for word in (
            [f"{run[0]}-{run[-1]}"]
            if len(run) > 2
            else ["embed" if layer == -1 else str(layer) for layer in run]
        )
    ]


def store_name(store: StoreReader) -> str:
    """Return what lineage calls the store: an address, or the folder's name without its place."""
    return store.name if "://" in store.name else PurePosixPath(store.name).name


def _order(place: ActivationPlace) -> tuple[Any, ...]:
    return (
        place.model,
        place.site,
        place.pooling,
        place.region or "",
        place.layer is None,
        place.layer or 0,
    )


def places_of(table: pa.Table) -> tuple[np.ndarray, list[ActivationPlace]]:
    """Return the number of each row's place, int64 ``[rows]``, and the places."""
    codes = np.zeros(len(table), np.int64)
    for name in PLACE_COLUMNS:
        column = table[name].combine_chunks().dictionary_encode()
        part = column.indices.fill_null(-1).to_numpy(zero_copy_only=False) + 1
        codes = codes * (len(column.dictionary) + 1) + part
    _, first, numbers = np.unique(codes, return_index=True, return_inverse=True)
    rows = table.select(list(PLACE_COLUMNS)).take(first).to_pylist()
    return numbers, [ActivationPlace(**row) for row in rows]
