"""Two sets of rows side by side, layer by layer: cosine, distance, alignment."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.analysis.statistics import group_by
from actstore.analysis.statistics.cka import linear_cka
from actstore.analysis.statistics.moments import measure
from actstore.errors import TooFewRowsError, UsageError
from actstore.querying.value_codes import OF_SHARD
from actstore.schema import PLACE
from actstore.storage import floats, key_hashes

if TYPE_CHECKING:
    import pyarrow as pa

    from actstore.querying.selected import SelectedRows

SAMPLE = 4096
"""Matched rows that CKA is computed from at most, spread evenly over all of them."""
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Mean, smallest and largest of some numbers."""

    rows: int
    """How many numbers these are."""
    mean: float
    minimum: float
    maximum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerComparison:
    """Rows of A and B of one place (or of two that are set side by side)."""

    a: dict[str, Any]
    """Model, site, pooling, region and layer of A's rows."""
    b: dict[str, Any]
    rows_a: int
    rows_b: int
    width_a: int
    width_b: int
    nonfinite_a: int
    """Values of A's rows that are NaN or infinite; the mean vectors are those of the others."""
    nonfinite_b: int
    matched: int
    """Pairs of a row of A and the row of B of the same example."""
    ambiguous: int
    """Rows that share their key with another row of the same side, and so are not matched."""
    mean_cosine: float | None
    """Of the mean vectors; None where widths differ, a mean is zero or not known."""
    mean_distance: float | None
    """L2, between the mean vectors; None where widths differ or a dimension is never finite."""
    cosine: Spread | None
    """Over the matched pairs without those of a zero vector or of values that are not finite; None
    where that leaves none, or where widths differ."""
    distance: Spread | None
    """Over the matched pairs whose values are finite; None as above."""
    cka: float | None
    """Linear CKA over matched pairs; None without at least two."""
    cka_debiased: float | None
    cka_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What A and B have in common, and how alike it is."""

    matched_by: tuple[str, ...]
    """Columns by which rows of A and B are held to be of one example."""
    across: tuple[str, ...]
    """Columns of the key in which A and B have no value in common: not matched by."""
    only_a: tuple[dict[str, Any], ...]
    """Places (model, site, pooling, region, layer) that only A has."""
    only_b: tuple[dict[str, Any], ...]
    layers: tuple[LayerComparison, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return dataclasses.asdict(self)


class _Side(NamedTuple):
    selection: SelectedRows
    table: pa.Table
    groups: dict[tuple[Any, ...], np.ndarray]


def compare(
    a: SelectedRows,
    b: SelectedRows,
    *,
    sample: int = SAMPLE,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Compare two selections, of one store or of two, layer by layer.

    Rows of several places are divided by model, site, pooling, region and layer, so that no
    mean is one of a mixture. They are matched by the rest of the schema's key, without the
    columns in which the two sides have nothing in common (``mode='tqa'`` against
    ``mode='vqa'``, say): so two conditions, prompts or models are compared example by
    example. Where each side is a single example, the examples are matched with each other.
    A side of one layer (or pooling, …) may be held against one of another.

    Args:
        a: some rows.
        b: the rows to compare them with.
        sample: matched rows that CKA is computed from at most.
        progress: called with the rows of A and B that have been done since the last call.

    Raises:
        TooFewRowsError: a side is empty.
        UsageError: the sides have several layers (sites, poolings, …) and none in common.
    """
    for name, selection in (("A", a), ("B", b)):
        if not len(selection):
            raise TooFewRowsError(f"{name} has no rows ({selection!r}): loosen its condition")
    tables = [side.table(list(schema.key_names())) for side in (a, b)]
    across = _apart(*tables)
    matched_by = [
        name
        for name in schema.key_names()
        if name not in across
        and name not in OF_SHARD
        # What neither side has tells nothing apart.
        and any(side[name].null_count < len(side) for side in tables)
    ]
    columns = [name for name in PLACE if name not in across]
    sides = [
        _Side(
            selection,
            table,
            {
                tuple(found.key.values()): found.places
                for found in group_by.group(selection, columns)
            },
        )
        for selection, table in zip((a, b), tables, strict=True)
    ]
    common = sorted(sides[0].groups.keys() & sides[1].groups.keys(), key=group_by.order)
    if not common:
        raise UsageError(
            "A and B have no model, site, pooling, region and layer in common: narrow both to "
            "one of each to compare different ones"
        )
    left, right = (
        tuple(dict(zip(columns, key, strict=True)) for key in one.groups if key not in other.groups)
        for one, other in (sides, sides[::-1])
    )
    return Comparison(
        matched_by=tuple(matched_by),
        across=tuple(across),
        only_a=left,
        only_b=right,
        layers=tuple(
            _layer(sides[0], sides[1], key, matched_by, sample, progress) for key in common
        ),
    )


def _apart(a: pa.Table, b: pa.Table) -> list[str]:
    """Return the key's columns in which the two sides have no value in common."""
    found = []
    for name in schema.key_names():
        values = [set(side[name].unique().to_pylist()) for side in (a, b)]
        if not values[0].isdisjoint(values[1]):
            continue
        single = all(len(each) == 1 for each in values)
        # Sides of different examples are no sides of one; two single examples are meant as such.
        if name == "example_id" and not single:
            continue
        if name in PLACE and not single:
            shown = " against ".join(
                ", ".join(
                    "not recorded" if v is None else str(v)
                    for v in sorted(each, key=lambda value: (value is None, value))[:6]
                )
                for each in values
            )
            raise UsageError(
                f"A and B have no {name} in common ({shown}): narrow both to one {name} each"
            )
        found.append(name)
    return found


def _layer(
    a: _Side,
    b: _Side,
    key: tuple[Any, ...],
    matched_by: Sequence[str],
    sample: int,
    progress: Callable[[int, int], None] | None,
) -> LayerComparison:
    places = [side.groups[key] for side in (a, b)]
    rows = [side.selection.rows[at] for side, at in zip((a, b), places, strict=True)]
    pairs, ambiguous = _match(
        *(_hashes(side.table, at, matched_by) for side, at in zip((a, b), places, strict=True))
    )
    moments = [
        measure(side.selection.snapshot, chosen, progress)
        for side, chosen in zip((a, b), rows, strict=True)
    ]
    if any(len(each) > 1 for each in moments):
        raise UsageError(
            f"{group_by.title(_first(a, places[0]))} has vectors of several widths: narrow the "
            "conditions to one model and site"
        )
    width_a, width_b = (each[0].width for each in moments)
    paired = rows[0][pairs[0]], rows[1][pairs[1]]
    same = width_a == width_b
    cosines, distances = _each_pair(a, b, *paired) if same and len(paired[0]) else (None, None)
    kept = np.linspace(0, len(paired[0]) - 1, min(sample, len(paired[0]))).astype(np.int64)
    left, right = (
        floats.widen(side.selection.snapshot.gather(chosen[kept]))
        for side, chosen in zip((a, b), paired, strict=True)
    )
    finite = np.isfinite(left).all(axis=1) & np.isfinite(right).all(axis=1)
    if not finite.all():
        left, right = left[finite], right[finite]
    aligned = linear_cka(left, right)
    # A dimension without a finite value has no mean: nothing can be said of the whole then.
    means = [np.where(each[0].counts > 0, each[0].mean, np.nan) for each in moments]
    apart = float(np.linalg.norm(means[0] - means[1])) if same else np.nan
    return LayerComparison(
        a=_first(a, places[0]),
        b=_first(b, places[1]),
        rows_a=len(rows[0]),
        rows_b=len(rows[1]),
        width_a=width_a,
        width_b=width_b,
        nonfinite_a=moments[0][0].nonfinite,
        nonfinite_b=moments[1][0].nonfinite,
        matched=len(paired[0]),
        ambiguous=ambiguous,
        mean_cosine=_cosine(*means) if same else None,
        mean_distance=apart if np.isfinite(apart) else None,
        cosine=_spread(cosines),
        distance=_spread(distances),
        cka=aligned.cka,
        cka_debiased=aligned.debiased,
        cka_rows=len(left),
    )


def _first(side: _Side, places: np.ndarray) -> dict[str, Any]:
    row = int(places[0])
    return {name: side.table[name][row].as_py() for name in PLACE}


def _hashes(table: pa.Table, places: np.ndarray, matched_by: Sequence[str]) -> np.ndarray:
    import pyarrow as pa

    part = table.take(pa.array(places))
    for number, name in enumerate(part.column_names):
        if name not in matched_by:
            nothing = pa.chunked_array([pa.nulls(len(places), part.schema.field(name).type)])
            part = part.set_column(number, name, nothing)
    return key_hashes.hash_table(part)


def _match(a: np.ndarray, b: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """Return positions in ``a`` and ``b`` (uint64 hashes) that belong together, in a's order."""
    ambiguous = 0
    singles = []
    for side in (a, b):
        values, first, counts = np.unique(side, return_index=True, return_counts=True)
        ambiguous += int(counts[counts > 1].sum())
        singles.append((values[counts == 1], first[counts == 1]))
    _, at_a, at_b = np.intersect1d(
        singles[0][0], singles[1][0], assume_unique=True, return_indices=True
    )
    left, right = singles[0][1][at_a], singles[1][1][at_b]
    by_row = np.argsort(left)
    return (left[by_row], right[by_row]), ambiguous


def _each_pair(
    a: _Side, b: _Side, rows_a: np.ndarray, rows_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return cosine and L2 distance of each pair, float64 ``[pairs]``."""
    width, _ = a.selection.snapshot.shape(rows_a[:1])
    step = max(1, _BLOCK // width)
    cosines, distances = np.empty(len(rows_a)), np.empty(len(rows_a))
    for start in range(0, len(rows_a), step):
        part = slice(start, start + step)
        left, right = (
            side.selection.snapshot.gather(rows[part]).astype(np.float64)
            for side, rows in ((a, rows_a), (b, rows_b))
        )
        with np.errstate(all="ignore"):  # zero vectors have no cosine: NaN, left out below
            sizes = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
            cosines[part] = np.vecdot(left, right) / sizes
            distances[part] = np.linalg.norm(left - right, axis=1)
    return np.clip(cosines, -1, 1), distances


def _spread(values: np.ndarray | None) -> Spread | None:
    known = values[np.isfinite(values)] if values is not None else np.empty(0)
    if not len(known):
        return None
    return Spread(
        rows=len(known),
        mean=float(known.mean()),
        minimum=float(known.min()),
        maximum=float(known.max()),
    )


def _cosine(a: np.ndarray, b: np.ndarray) -> float | None:
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return min(1.0, max(-1.0, float(a @ b) / size)) if np.isfinite(size) and size else None
