"""What an ingest did: counted while it runs, summed up for the caller, written into the store."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from actstore import paths, schema
from actstore.errors import CommitError
from actstore.ingestion import gate
from actstore.ingestion.inference import FolderMapping
from actstore.ingestion.source_file import Entry, SourceFile
from actstore.storage import layout, strict_json
from actstore.storage.rows import Added, RowBatch


class Refusal(NamedTuple):
    """A file that gave no rows."""

    path: str
    """Relative to SOURCE."""
    reason: str

    @classmethod
    def of(cls, file: Entry | SourceFile, reason: str, outside: Iterable[Path] = ()) -> Refusal:
        """Refuse a file; the reason is stored, so that it names no folder above its source.

        Args:
            file: the file.
            reason: may name others by their whole paths.
            outside: tables that may lie elsewhere: of these nothing is said but their names.
        """
        source = gate.whole(file.root)
        files = [path for path in outside if not path.is_relative_to(source)]
        return cls(file.relative, paths.shareable(reason, {source: "the source"}, files))


class Group(NamedTuple):
    """Rows that share a shard's properties."""

    model: str
    site: str
    layer: int | None
    width: int
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an ingest is."""

    files: int
    files_total: int
    bytes: int
    """Bytes of source files that are done with."""
    bytes_total: int
    rows: int


COUNTS = ("written", "present", "repeated", "differing", "rounded", "nonfinite", "bytes")

Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSummary:
    """What an ingest did."""

    recipe: str
    detected: bool
    """Whether the recipe was found rather than named."""
    run_id: str
    dry_run: bool
    files_read: int
    rows_written: int
    rows_present: int
    """Rows that the store held already, bit for bit."""
    rows_repeated: int = 0
    """Rows that came again in this run, bit for bit: the source repeats them."""
    continued: tuple[str, ...] = ()
    """Runs of the same ingest that had stored a part of the files, which were not read again."""
    rows_replaced: int = 0
    """Rows among the written that took the place of stored ones with another vector."""
    refused: tuple[Refusal, ...]
    unmatched: tuple[str, ...]
    """Files that no template fits; the report holds them all."""
    unmatched_count: int
    commit: int | None
    """Number of the last commit; None where nothing was new."""
    seconds: float
    bytes: int
    """Bytes of the vectors that were written, or would be."""
    models: tuple[str, ...]
    datasets: Mapping[str, int]
    """Data set ("" for none): rows, present ones counted."""
    layers: tuple[int | None, ...]
    sites: tuple[str, ...]
    widths: tuple[int, ...]
    labels: Mapping[str, int]
    """Label: rows; rows without one are not counted."""
    groups: tuple[Mapping[str, Any], ...]
    """Rows by model, site, layer, width and stored type."""
    first_row: Mapping[str, Any] | None
    sample_rows: tuple[Mapping[str, Any], ...]
    """The first, the second and the last row."""
    mapping: FolderMapping | None
    """Which part of a path or key became what; None where a Python reader decides."""
    notes: tuple[str, ...]
    report: str | None
    """Path of the full report, relative to the store."""

    def as_dict(self) -> dict[str, Any]:
        """Return the summary ready for JSON."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        values["mapping"] = self.mapping.as_dict() if self.mapping is not None else None
        values["refused"] = [refusal._asdict() for refusal in self.refused]
        return values


@dataclass(slots=True)
class Tally:
    """Counts of a run, or of one file until it is known to be whole."""

    written: int = 0
    present: int = 0
    repeated: int = 0
    differing: int = 0
    rounded: int = 0
    nonfinite: int = 0
    bytes: int = 0
    groups: Counter[Group] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    datasets: Counter[str] = field(default_factory=Counter)
    first_row: dict[str, Any] | None = None
    second_row: dict[str, Any] | None = None
    last_row: dict[str, Any] | None = None

    def add(self, batch: RowBatch, added: Added, dtype: str | None = None) -> None:
        """Count one batch, of ``dtype`` where that is not what it came as."""
        rows, width = batch.vectors.shape
        self.written += added.written
        self.present += added.present - added.repeated
        self.repeated += added.repeated
        self.differing += added.differing
        self.bytes += added.bytes
        dtype = dtype or str(batch.vectors.dtype)
        places = _tuples(batch, ("model", "site", "layer"))
        for (model, site, layer), count in places.items():
            self.groups[Group(model, site, layer, width, dtype)] += count
        labels = batch.columns.get("label")
        if labels is not None:
            self.labels.update(label for label in labels if label is not None)
        elif (label := batch.constants.get("label")) is not None:
            self.labels[label] += rows
        for (dataset,), count in _tuples(batch, ("dataset",)).items():
            if dataset is not None:
                self.datasets[dataset] += count
        if rows:
            self._sample(
                [_row(batch, row) for row in dict.fromkeys((0, min(1, rows - 1), rows - 1))]
            )

    @property
    def rows(self) -> int:
        """Rows of files that are whole, stored now or before."""
        return self.written + self.present + self.repeated

    @property
    def sample_rows(self) -> tuple[dict[str, Any], ...]:
        """The first, the second and the last row, as far as there are so many."""
        rows = (self.first_row, self.second_row, self.last_row)
        return tuple(row for row in rows if row is not None)

    def _sample(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            if self.first_row is None:
                self.first_row = row
            elif self.second_row is None:
                self.second_row = row
            else:
                self.last_row = row

    def overtake(self, rows: int, repeated: int = 0, repeated_bytes: int = 0) -> None:
        """Count ``rows`` as present: another writer brought them before the commit.

        Args:
            rows: how many.
            repeated: those among them that this run has brought: the source repeats them.
            repeated_bytes: of their vectors.
        """
        self.written -= rows
        self.present += rows - repeated
        self.repeated += repeated
        self.bytes -= repeated_bytes

    def merge(self, other: Tally) -> None:
        """Add the counts of a file that is whole."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.groups.update(other.groups)
        self.labels.update(other.labels)
        self.datasets.update(other.datasets)
        self._sample(other.sample_rows)


def _tuples(batch: RowBatch, names: Sequence[str]) -> Mapping[tuple[Any, ...], int]:
    """Return how often each combination of values of ``names`` occurs."""
    varying = [name for name in names if name in batch.columns]
    if not varying:
        return {tuple(batch.constants.get(name) for name in names): len(batch)}
    columns = [
        batch.columns[name] if name in batch.columns else [batch.constants.get(name)] * len(batch)
        for name in names
    ]
    return Counter(zip(*columns, strict=True))


def _row(batch: RowBatch, row: int) -> dict[str, Any]:
    values = {**batch.constants, **{name: column[row] for name, column in batch.columns.items()}}
    ordered = [name for name in schema.metadata_names() if values.get(name) is not None]
    values = {name: values[name] for name in ordered}
    vector = batch.vectors[row]
    values["activation"] = f"{vector.dtype}[{len(vector)}] " + ", ".join(
        f"{float(number):.4g}" for number in vector[:4]
    )
    return values


def group_rows(groups: Mapping[Group, int]) -> tuple[dict[str, Any], ...]:
    """Return the groups in the store's order, ready for JSON."""
    ordered = sorted(groups.items(), key=lambda item: _order(item[0]))
    return tuple({**group._asdict(), "rows": rows} for group, rows in ordered)


def _order(group: Group) -> tuple[Any, ...]:
    layer = group.layer
    return group.model, group.site, layer is None, layer or 0, group.width, group.dtype


def layers_in_order(layers: set[int | None]) -> tuple[int | None, ...]:
    """Return layers in ascending order, the unknown one last."""
    return tuple(sorted(layers, key=lambda layer: (layer is None, layer or 0)))


def write(root: Path, run_id: str, document: Mapping[str, Any], *, unmatched: Sequence[str]) -> str:
    """Write the report of a run into the store; return its path relative to the store.

    Raises:
        CommitError: it cannot be written.
    """
    relative = f"{layout.REPORTS}/{run_id}.json"
    full = {**document, "unmatched": list(unmatched), "report": relative}
    text = strict_json.dumps(full, indent=1, default=str) + "\n"
    try:
        (root / layout.REPORTS).mkdir(parents=True, exist_ok=True)
        layout.write_durably(root / relative, text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise CommitError(f"{root / relative}: the report cannot be written: {error}") from error
    return relative
