"""The export: plans the files of a layout, reads vectors window by window, writes them."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

import numpy as np

from actstore import schema
from actstore.errors import ExportError, UsageError
from actstore.exporting import folder as folders
from actstore.exporting.export_context import ExportContext
from actstore.exporting.planned_files import File, Matrices, Stream, TextFile, checked_path
from actstore.querying.column_filters import ColumnFilters

if TYPE_CHECKING:
    from actstore.querying.reader import StoreReader
    from actstore.querying.selected import SelectedRows

LAYOUTS = {
    "clt": "clt",
    "spatialeval": "spatialeval",
    "faithfulness": "faithfulness",
    "contrastive": "contrastive",
    "amber": "amber",
    "hook-pickle": "hook_pickle",
    "safetensors": "safetensors",
    "npz": "npz",
    "parquet": "parquet",
    "saelens": "saelens",
}
"""Names of layouts and the modules that write them."""
COMPRESSIONS = ("none", "snappy", "zstd", "gzip", "lz4", "brotli")
DTYPES = ("bfloat16", "float16", "float32", "float64")
METADATA = ("parquet", "jsonl")

_WINDOW = 64 << 20
"""Bytes of vectors that are read at once for several files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSummary:
    """What an export wrote."""

    to: str
    folder: str
    files: int
    rows: int
    """Rows of the store that were chosen."""
    bytes: int
    commit: int
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """What the caller of :func:`export` chose, beside conditions on rows."""

    layers: Sequence[int | None] | int | None = None
    dtype: str | None = None
    targets: int | None = None
    context: int | None = None
    compression: str = "zstd"
    metadata: str = "parquet"
    overwrite: bool = False


class SettingOptions(TypedDict, total=False):
    """The fields of :class:`ExportSettings` as keywords, for editors and type checkers."""

    layers: Sequence[int | None] | int | None
    dtype: str | None
    targets: int | None
    context: int | None
    compression: str
    metadata: str
    overwrite: bool


class ExportOptions(SettingOptions, ColumnFilters, total=False):
    """The same, and conditions on rows."""


Progress = Callable[[int, int, int], None]
"""Takes the bytes of vectors done, the rows done, and all bytes."""


def export(
    store: StoreReader,
    to: str,
    folder: str | Path,
    where: str | None = None,
    *,
    progress: Progress | None = None,
    **options: Unpack[ExportOptions],
) -> ExportSummary:
    """Write rows of a store as the files of a layout.

    The folder appears when all of it is written, and not at all if anything fails. Equal
    rows give equal bytes.

    Args:
        store: where the rows are.
        to: name of a layout, see :data:`LAYOUTS`.
        folder: where to write; new, empty, or an earlier export with ``overwrite``.
        where: SQL condition over the metadata.
        progress: told how far it is.
        options: fields of :class:`ExportSettings`, and further conditions as ``Store.select``
            takes them; one by one:
        layers: only these.
        site: only these sites.
        model: only these models.
        dtype: type of the tensors; by default the one that the ingest found, else the
            stored one. Only types that hold every value exactly work.
        targets: ``clt``: how many later outputs each file holds; as ingested, else 16.
        context: ``saelens``: tokens per context; without it all examples must be equally long.
        compression: ``parquet``: one of :data:`COMPRESSIONS`.
        metadata: ``safetensors`` and ``npz``: format of the table beside each file.
        overwrite: replace an earlier export.

    Raises:
        ExportError: the rows do not make up the layout, the target is taken, the disk is
            full; the message says what to do.
        NotInStoreError, SqlError: a condition does not work.
        UsageError: an argument does not.
    """
    own = {field.name for field in dataclasses.fields(ExportSettings)}
    chosen = ExportSettings(
        **cast(SettingOptions, {name: value for name, value in options.items() if name in own})
    )
    equals = {name: value for name, value in options.items() if name not in own}
    scene = _scene(store, to, where, equals, chosen)
    overwrite = chosen.overwrite
    target = Path(folder)
    folders.check_free(target, overwrite=overwrite)
    module = importlib.import_module(f"actstore.exporting.{LAYOUTS[to]}")
    files: list[File] = list(module.plan(scene))
    _check_paths(files)
    selection = scene.selection
    meter = _Meter(selection, files, progress)
    # What is bfloat16 in the files takes twice as much in the store.
    with folders.replacing(target, overwrite=overwrite, needed=meter.total // 2) as draft:
        for file in _written(draft, files, selection, meter):
            meter.done(file)
        folders.mark(
            draft, {"layout": to, "commit": store.commit, "rows": len(selection), "format": 1}
        )
        sizes = [path.stat().st_size for path in draft.rglob("*") if path.is_file()]
    return ExportSummary(
        to=to,
        folder=str(target),
        files=len(sizes) - 1,
        rows=len(selection),
        bytes=sum(sizes),
        commit=store.commit,
        notes=tuple(scene.notes.lines),
    )


def _scene(
    store: StoreReader,
    to: str,
    where: str | None,
    equals: Mapping[str, Any],
    chosen: ExportSettings,
) -> ExportContext:
    if to not in LAYOUTS:
        raise UsageError(f"there is no layout {to!r}; export to one of {', '.join(LAYOUTS)}")
    choices = {"compression": COMPRESSIONS, "dtype": (*DTYPES, None), "metadata": METADATA}
    for name, allowed in choices.items():
        if getattr(chosen, name) not in allowed:
            words = ", ".join(each for each in allowed if each)
            raise UsageError(f"{name}={getattr(chosen, name)!r}: use one of {words}")
    for name in ("targets", "context"):
        number = getattr(chosen, name)
        if number is not None and number < 1:
            raise UsageError(f"{name}={number}: at least 1")
    given = {name: value for name, value in equals.items() if value is not None}
    if chosen.layers is not None:
        given["layer"] = chosen.layers
    if "site" in given:
        sites = [given["site"]] if isinstance(given["site"], str) else list(given["site"])
        given["site"] = [schema.canonical_site(site)[0] for site in sites]
    return ExportContext(
        store=store,
        layout=to,
        where=where,
        equals=given,
        dtype=chosen.dtype,
        targets=chosen.targets,
        context=chosen.context,
        compression=chosen.compression,
        metadata=chosen.metadata,
    )


def _check_paths(files: Iterable[File]) -> None:
    seen: set[str] = set()
    for file in files:
        path = str(checked_path(file.path))
        if path in seen:
            raise ExportError(
                f"several tensors would become {path}; choose one model, data set or site "
                "with --model, --where or --sites"
            )
        seen.add(path)


def _written(
    draft: Path, files: Sequence[File], selection: SelectedRows, meter: _Meter
) -> Iterator[File]:
    """Write all files; yield each that is there."""
    for window in _windows(files, meter):
        matrices = [file for file in window if isinstance(file, Matrices)]
        vectors = _gathered(selection, matrices)
        for file in window:
            path = draft / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                raise ExportError(
                    f"{file.path}: this disk takes it for another file whose name differs in "
                    "upper and lower case; export to another disk, or fewer rows"
                )
            if isinstance(file, Matrices):
                file.write(path, next(vectors))
            elif isinstance(file, TextFile):
                path.write_text(file.content, encoding="utf-8", newline="")
            else:
                file.write(path, meter.gather)
            yield file


def _windows(files: Sequence[File], meter: _Meter) -> Iterator[list[File]]:
    """Put small files together, so that their vectors are read at once."""
    window: list[File] = []
    size = 0
    for file in files:
        own = meter.size(file) if isinstance(file, Matrices) else 0
        if window and size + own > _WINDOW:
            yield window
            window, size = [], 0
        window.append(file)
        size += own
    if window:
        yield window


def _gathered(selection: SelectedRows, files: Sequence[Matrices]) -> Iterator[list[np.ndarray]]:
    """Yield the matrices of each file, having read those of one width and type together."""
    snapshot = selection.snapshot
    parts = [rows for file in files for rows in file.rows]
    kinds = [snapshot.shape(rows) for rows in parts]
    found: list[np.ndarray] = [np.empty((0, 0))] * len(parts)
    for kind in dict.fromkeys(kinds):
        numbers = [number for number, each in enumerate(kinds) if each == kind]
        whole = snapshot.gather(np.concatenate([parts[number] for number in numbers]))
        start = 0
        for number in numbers:
            found[number] = whole[start : start + len(parts[number])]
            start += len(parts[number])
    start = 0
    for file in files:
        yield found[start : start + len(file.rows)]
        start += len(file.rows)


class _Meter:
    """Knows how many bytes of vectors there are and how many are done."""

    def __init__(
        self, selection: SelectedRows, files: Sequence[File], progress: Progress | None
    ) -> None:
        self._snapshot = selection.snapshot
        shards = self._snapshot.shards
        self._bytes = np.array([each.width * np.dtype(each.dtype).itemsize for each in shards])
        self._mean = max(1, int(self._bytes.max())) if len(self._bytes) else 1
        self._progress = progress
        self._finished = 0
        self._rows = 0
        self.total = sum(map(self.size, files))

    def size(self, file: File) -> int:
        """Return the bytes of vectors that a file takes; of a stream at most."""
        if isinstance(file, Matrices):
            return sum(self._size(rows) for rows in file.rows if len(rows))
        return file.size * self._mean if isinstance(file, Stream) else len(file.content)

    def _size(self, rows: np.ndarray) -> int:
        ends = (int(rows[0]), int(rows[-1]))
        shard = int(np.searchsorted(self._snapshot.offsets, ends[0], "right")) - 1
        return len(rows) * int(self._bytes[shard])

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return vectors for a stream."""
        vectors = self._snapshot.gather(rows)
        self._step(vectors.nbytes, len(rows))
        return vectors

    def done(self, file: File) -> None:
        """Count a finished file."""
        if isinstance(file, Matrices):
            self._step(self.size(file), sum(map(len, file.rows)))
        elif isinstance(file, TextFile):
            self._step(self.size(file), 0)

    def _step(self, size: int, rows: int) -> None:
        self._finished += size
        self._rows += rows
        if self._progress is not None:
            self._progress(self._finished, self._rows, max(self.total, self._finished))
