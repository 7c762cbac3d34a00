"""Finds runs of `actstore probe` that are about the rows of a picture, and reads their AUROC."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.analysis.examples import place_rows
from actstore.analysis.examples.place_rows import PLACE_COLUMNS, ActivationPlace
from actstore.analysis.statistics.metrics import IntervalEstimate
from actstore.errors import MismatchError, UsageError
from actstore.wording import counted

if TYPE_CHECKING:
    import pyarrow as pa

    from actstore.querying.selected import SelectedRows

REPORT = "report.json"
Named = tuple[Sequence[str], Sequence[str]]
"""Values of the positive and the negative class; empty where they were not named."""


class Probed(NamedTuple):
    """The AUROC of one layer's probe."""

    layer: int | None
    auroc: IntervalEstimate
    shuffled_95: float | None
    """What 95 of 100 runs with shuffled labels stay below."""


class Curve(NamedTuple):
    """The probes of one model, site, pooling and region, by layer."""

    positive: str
    negative: str
    layers: tuple[Probed, ...]
    note: str
    """Which probes these are, and of how many rows."""


def read(path: str | Path) -> list[dict[str, Any]]:
    """Return the entries of a probe's ``report.json``, given by itself or its folder.

    Raises:
        UsageError: it cannot be read, or was not written by ``actstore probe``.
    """
    file = Path(path)
    file = file / REPORT if file.is_dir() else file
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{file}: no report of a probe ({type(error).__name__}: {error}); "
            "`actstore probe STORE --out DIR` writes DIR/report.json"
        ) from error
    entries = found if isinstance(found, list) else []
    refuse_several(file, found)
    if not entries or not all(_is_probe(entry) for entry in entries):
        raise UsageError(
            f"{file}: no report of a probe; `actstore probe STORE --out DIR` writes DIR/report.json"
        )
    return entries


def refuse_several(file: Path, document: object) -> None:
    """Refuse the report of probes of several classes, of numbers, or of several layers at once.

    Raises:
        UsageError: it is one.
    """
    entries = document if isinstance(document, list) else []
    tasks = {entry.get("task") for entry in entries if isinstance(entry, dict)}
    if "number" in tasks:
        raise UsageError(
            f"{file}: these are probes of numbers, which have no AUROC: their picture is r2.png "
            "beside the report"
        )
    if "classes" in tasks:
        raise UsageError(
            f"{file}: these are probes of several classes, and the picture is one of two: theirs "
            "is auroc.png beside the report, and `actstore probe STORE --positive VALUE --out DIR` "
            "holds one class against the rest"
        )
    if any(isinstance(entry, dict) and entry.get("layers") for entry in entries):
        raise UsageError(
            f"{file}: these probes join several layers, and the picture is one by layer: `actstore "
            "probe STORE --out DIR` without --join-layers has a probe for each"
        )


def beside(
    folders: Iterable[Path],
    selection: SelectedRows,
    by: str,
    classes: Named = ((), ()),
    *,
    whole: bool,
) -> list[Path]:
    """Return the reports of probe runs about these rows in folders, the best fit first, the newest.

    A run is about them where its store had the same fingerprint and ``whole`` is true, or
    where the rows of one of its probes are those of the selection, by the hashes of their
    keys and labels and of their norms: copies and compacted stores have the same.

    Args:
        folders: where to look: ``report.json`` there, and in the folders inside.
        selection: the rows.
        by: the column that holds the classes.
        classes: positive and negative values, where they were named.
        whole: the selection is all rows of the store, or all of some places.
    """
    found: dict[Path, tuple[bool, float]] = {}
    rows = _SelectionRows(selection, by)
    for folder in folders:
        for file in (folder / REPORT, *folder.glob(f"*/{REPORT}")):
            try:
                entries = read(file)
                changed = file.stat().st_mtime
            except (UsageError, OSError):
                continue
            same = whole and all(
                entry["lineage"].get("store_fingerprint") == selection.snapshot.manifest.fingerprint
                for entry in entries
            )
            fitting = [e for e in entries if _tells(e, by, classes) and rows.has(e)]
            exact = [rows.exactly(entry) for entry in fitting]
            if fitting and (same or any(exact)):
                # One layer alone, the embeddings say, may be the same in another capture.
                found[file.resolve()] = (not same and not all(exact), -changed)
    return sorted(found, key=lambda file: (found[file], str(file)))


def curves(
    reports: Sequence[str | Path],
    selection: SelectedRows,
    by: str,
    classes: Named = ((), ()),
) -> dict[ActivationPlace, Curve]:
    """Return the first run's curve for each place of the selection; the layer is None in keys.

    Args:
        reports: folders or files; earlier ones go before later ones.
        selection: the rows.
        by: the column that holds the classes.
        classes: positive and negative values, where they were named.

    Raises:
        UsageError: one is no report of a probe.
        MismatchError: none is about such rows; the message names both sides.
    """
    rows = _SelectionRows(selection, by)
    found: dict[ActivationPlace, Curve] = {}
    for path in reports:
        grouped: dict[ActivationPlace, list[dict[str, Any]]] = {}
        for entry in read(path):
            if _tells(entry, by, classes) and rows.has(entry):
                grouped.setdefault(ActivationPlace.of(entry)._replace(layer=None), []).append(entry)
        for place, entries in grouped.items():
            found.setdefault(place, _curve(entries, Path(path), rows))
    if reports and not found:
        entry = read(reports[0])[0]
        place = ActivationPlace.of(entry)
        there = ", ".join(sorted({place.text for place in rows.places})[:4]) or "no rows"
        raise MismatchError(
            f"{reports[0]} has probes of {entry['lineage'].get('label')} for {place.text} "
            f"of model {entry['model']}, and the rows are {there}, told apart by {by}: give the "
            "probes of these rows, or none to see the difference of means"
        )
    return found


class _SelectionRows:
    """The rows of a selection, read when something is asked of them."""

    def __init__(self, selection: SelectedRows, by: str) -> None:
        self._selection = selection
        self._by = by
        self._table: pa.Table | None = None
        self._codes = np.empty(0, np.int64)
        self._places: list[ActivationPlace] = []

    @property
    def table(self) -> pa.Table:
        if self._table is None:
            names = [*schema.key_names(), "label", "norm"]
            names += [self._by] if self._by not in names else []
            self._table = self._selection.table(names)
            self._codes, self._places = place_rows.places_of(self._table)
        return self._table

    @property
    def places(self) -> list[ActivationPlace]:
        return self._places if self.table is not None else []

    def has(self, entry: dict[str, Any]) -> bool:
        """Whether there are rows of the probe's place."""
        return ActivationPlace.of(entry) in self.places

    def exactly(self, entry: dict[str, Any]) -> bool:
        """Whether the probe's rows are those of its place, by their keys and labels."""
        if not self.has(entry):
            return False
        import pyarrow as pa

        table = self.table.filter(
            pa.array(self._codes == self._places.index(ActivationPlace.of(entry)))
        )
        values = table[self._by].cast("string").to_numpy(zero_copy_only=False).astype(object)
        known = np.isin(values, [*entry["positive"], *entry["negative"]])
        table, lineage = table.filter(pa.array(known)), entry["lineage"]
        if lineage.get("rows_hash") != place_rows.table_hash(table):
            return False
        # Another capture of the same questions has the same keys and labels. Runs of older
        # versions do not tell.
        return lineage.get("vectors_hash") in (None, place_rows.vectors_hash(table))


def _curve(entries: Sequence[dict[str, Any]], path: Path, rows: _SelectionRows) -> Curve:
    first = entries[0]
    layers = []
    for entry in sorted(entries, key=lambda one: (one["layer"] is None, one["layer"] or 0)):
        shuffled = (entry.get("baselines") or {}).get("permutation") or {}
        value = float(entry["auroc"])
        low, high = entry.get("auroc_interval") or (value, value)
        estimate = IntervalEstimate(value, float(low), float(high))
        layers.append(Probed(entry["layer"], estimate, shuffled.get("auroc_95")))
    lineage = first["lineage"]
    folder = path.parent.name if path.name == REPORT else path.name
    parts = [f"{first['method']} probes in {folder or path.resolve().name}/", _tested(first)]
    parts.append(f"up to {counted(max(int(one['rows']) for one in entries))} a layer")
    if not all(rows.exactly(entry) for entry in entries):
        told = lineage.get("query") or "another store or state"
        parts.append(f"of other rows than these ({told})")
    return Curve(
        " or ".join(first["positive"]),
        " or ".join(first["negative"]),
        tuple(layers),
        ", ".join(parts),
    )


def _tells(entry: dict[str, Any], by: str, classes: Named) -> bool:
    """Whether a probe tells the values of a column apart, the named ones if any were."""
    return entry["lineage"].get("label") == by and all(
        not wanted or sorted(wanted) == sorted(entry[side])
        for wanted, side in zip(classes, ("positive", "negative"), strict=True)
    )


def _tested(entry: dict[str, Any]) -> str:
    folds = int(entry.get("folds") or 0)
    if folds > 1:
        return f"{folds} folds"
    lineage = entry["lineage"]
    if lineage.get("test_store"):
        return f"tested on {lineage['test_store']}"
    return f"tested where {lineage['test']}" if lineage.get("test") else "tested on one part"


def _is_probe(entry: object) -> bool:
    needed = (*PLACE_COLUMNS, "method", "auroc", "rows", "positive", "negative")
    return (
        isinstance(entry, dict)
        and all(name in entry for name in needed)
        and isinstance(entry.get("lineage"), dict)
    )
