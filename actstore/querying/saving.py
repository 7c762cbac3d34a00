"""Writes a selection to one file: Parquet, safetensors, npz or torch."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore import schema
from actstore.errors import UsageError
from actstore.querying import mixture
from actstore.storage import strict_json, unfinished

if TYPE_CHECKING:
    import pyarrow as pa

    from actstore.querying.selected import SelectedRows

_BATCH_BYTES = 32 << 20
# safetensors refuses a header above 100 MB.
_HEADER_BYTES = 90_000_000


def save(
    selection: SelectedRows, path: Path, columns: Sequence[str] | None, *, mixed: bool = False
) -> Path:
    """Write ``selection`` to ``path`` in the format of its ending; see ``Selection.save``."""
    formats = {".parquet": _parquet, ".safetensors": _safetensors, ".npz": _npz, ".pt": _torch}
    write = formats.get(path.suffix.lower())
    if write is None:
        raise UsageError(
            f"{path.name} should end in one of {', '.join(formats)}: the ending says the format"
        )
    if not len(selection):
        raise UsageError(f"nothing is selected, so there is nothing to save to {path}")
    if columns is not None and write is _parquet:
        raise UsageError("a .parquet file always has all columns: leave columns= out")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} to save {path.name} in")
    if write is not _parquet:
        # A Parquet file is a table whose rows say where they are from; the others are a matrix.
        mixture.refuse(selection, mixed=mixed)
    _ = selection.shape  # mixed widths are refused before anything is written
    with unfinished.replacing(path) as draft:
        write(selection, draft, columns)
    return path


def _columns(selection: SelectedRows, columns: Sequence[str] | None) -> pa.Table:
    """Return the metadata to save: what was asked for, or every column that holds something."""
    table = selection.table(columns)
    if columns is None:
        table = table.select(
            [name for name in table.column_names if table[name].null_count < len(table)]
        )
    return table


def _parquet(selection: SelectedRows, draft: Path, columns: Sequence[str] | None) -> None:
    from actstore.storage.metadata_table import Fragment
    from actstore.storage.shard import ShardWriter

    width, dtype = selection.shape[1], selection.dtype
    writer = ShardWriter(draft, width=width, dtype=dtype)
    size = max(1, _BATCH_BYTES // (width * np.dtype(dtype).itemsize))
    try:
        for start in range(0, len(selection), size):
            part = selection[start : start + size]
            vectors, table = part.numpy(mixed=True), part.table(schema.metadata_names())
            writer.append(vectors, Fragment({}, table.to_pydict(), range(len(table))))
        writer.finish()
    except BaseException:
        writer.abort()
        raise


def _safetensors(selection: SelectedRows, draft: Path, columns: Sequence[str] | None) -> None:
    from safetensors.numpy import save_file

    tensors = {schema.VECTOR: selection.numpy(mixed=True)}
    lists: dict[str, list[Any]] = {}
    for name, column in _each(_columns(selection, columns)):
        if _is_number(column) and not column.null_count:
            tensors[name] = np.ascontiguousarray(column.to_numpy())
        else:
            lists[name] = column.to_pylist()
    text = strict_json.dumps(lists)
    if len(text.encode()) > _HEADER_BYTES:
        sizes = sorted(lists, key=lambda name: -len(json.dumps(lists[name])))
        raise UsageError(
            f"the text of {len(selection)} rows is too large for a .safetensors header; "
            f"choose columns= without {sizes[0]}, or save as .parquet"
        )
    save_file(tensors, draft, metadata={"format": "actstore", "columns": text})


def _npz(selection: SelectedRows, draft: Path, columns: Sequence[str] | None) -> None:
    import pyarrow.types as types

    with zipfile.ZipFile(draft, "w", allowZip64=True) as archive:
        _member(archive, schema.VECTOR, selection.numpy(mixed=True), zipfile.ZIP_STORED)
        for name, column in _each(_columns(selection, columns)):
            truth = types.is_boolean(column.type)
            text = not truth and not _is_number(column)
            if column.null_count:
                nulls = column.is_null().to_numpy()
                _member(archive, f"{name}_null", nulls, zipfile.ZIP_DEFLATED)
                column = column.fill_null("" if text else False if truth else 0)
            values = _texts(name, column) if text else column.to_numpy()
            # NumPy gives each text the space of the longest; that compresses well.
            _member(archive, name, values, zipfile.ZIP_DEFLATED)


def _texts(name: str, column: pa.ChunkedArray) -> np.ndarray:
    values = column.to_pylist()
    if any(value.endswith("\0") for value in values):
        raise UsageError(
            f"a text of {name} ends with a zero character, which NumPy takes for padding and would "
            f"drop: choose columns= without {name}, or save as .parquet or .pt"
        )
    return np.array(values, "U")


def _member(archive: zipfile.ZipFile, name: str, values: np.ndarray, compression: int) -> None:
    entry = zipfile.ZipInfo(f"{name}.npy")
    entry.compress_type = compression
    with archive.open(entry, "w", force_zip64=True) as file:
        np.lib.format.write_array(file, np.ascontiguousarray(values), allow_pickle=False)


def _torch(selection: SelectedRows, draft: Path, columns: Sequence[str] | None) -> None:
    import torch

    table = _columns(selection, columns)
    vectors = selection.tensor(mixed=True)
    torch.save({schema.VECTOR: vectors, "metadata": table.to_pydict()}, draft)


def _each(table: pa.Table) -> Iterator[tuple[str, pa.ChunkedArray]]:
    yield from zip(table.column_names, table.columns, strict=True)


def _is_number(column: pa.ChunkedArray) -> bool:
    import pyarrow.types as types

    return bool(types.is_integer(column.type) or types.is_floating(column.type))
