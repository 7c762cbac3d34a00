"""Writes the rows a command found: a table to read, or CSV, JSON, Markdown, Parquet to keep."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from actstore.commands import output
from actstore.errors import UsageError
from actstore.storage import unfinished
from actstore.wording import counted

if TYPE_CHECKING:
    import pyarrow as pa

_SUFFIXES = {
    "csv": "csv",
    "json": "json",
    "jsonl": "jsonl",
    "md": "markdown",
    "parquet": "parquet",
    "txt": "table",
}
TABLE_ROWS = 40
"""Rows that a table shows on a terminal; the line below it says how many there are."""


def write_rows(
    reader: pa.RecordBatchReader, format: str | None = None, target: Path | None = None
) -> int:
    """Write all rows of ``reader`` to ``target``, or to standard output without one.

    The format is taken from the name of ``target`` when it is not given, and is a
    table otherwise. Vectors and texts are complete in every format but the table.
    ``target`` appears whole or not at all.

    Returns:
        How many rows there were.

    Raises:
        UsageError: Parquet was asked for on standard output, or the name of ``target``
            says no format.
    """
    chosen = format or _format_of(target)
    reader = _distinct(reader)
    if chosen == "parquet":
        if target is None:
            raise UsageError("parquet is binary: name a file with -o FILE.parquet")
        with replacing(target) as path:
            return _parquet(reader, path)
    if target is None:
        return _text(reader, chosen, sys.stdout)
    with replacing(target) as path, path.open("w", encoding="utf-8", newline="") as file:
        return _text(reader, chosen, file)


def without_empty(table: pa.Table, format: str | None, target: Path | None) -> pa.Table:
    """Return ``table``, for a reader's eye without the columns that hold nothing at all."""
    if (format or _format_of(target)) != "table":
        return table
    return table.select(
        [name for name in table.column_names if table[name].null_count < max(1, len(table))]
    )


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a temporary file beside ``target`` that takes its place once the block is done.

    Raises:
        UsageError: the folder of ``target`` does not exist.
    """
    if not target.absolute().parent.is_dir():
        raise UsageError(f"cannot write {target}: there is no folder {target.parent}")
    with unfinished.replacing(target) as draft:
        yield draft


def _format_of(target: Path | None) -> str:
    if target is None:
        return "table"
    suffix = target.suffix.lower().lstrip(".")
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    known = ", ".join(f".{name}" for name in _SUFFIXES)
    raise UsageError(f"the name of {target} says no format: end it in {known}, or give --format")


def _distinct(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """Number columns that share a name, since a record holds each name once."""
    import pyarrow as pa

    names = output.distinct(reader.schema.names)
    fields = [field.with_name(name) for field, name in zip(reader.schema, names, strict=True)]
    schema = pa.schema(fields)
    if names == reader.schema.names:
        return reader
    batches = (pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in reader)
    return pa.RecordBatchReader.from_batches(schema, batches)


def _text(reader: pa.RecordBatchReader, format: str, file: TextIO) -> int:
    if format == "table":
        return _table(reader, file)
    rows = 0
    if format in ("csv", "markdown"):

        def records() -> Iterator[Sequence[object]]:
            nonlocal rows
            for batch in reader:
                rows += batch.num_rows
                for record in _records(batch):
                    yield list(record.values())

        output.write_table(reader.schema.names, records(), format, file)
        return rows
    opening, separator, closing = ("[", ",\n ", "]\n") if format == "json" else ("", "\n", "\n")
    file.write(opening)
    for batch in reader:
        for record in _records(batch):
            file.write((separator if rows else "") + output.json_text(record))
            rows += 1
    file.write(closing if rows or format == "json" else "")
    return rows


def _table(reader: pa.RecordBatchReader, file: TextIO) -> int:
    rows = shown = 0
    most = TABLE_ROWS if file.isatty() else None

    def records() -> Iterator[Sequence[object]]:
        nonlocal rows, shown
        for batch in reader:
            left = batch.num_rows if most is None else max(0, most - rows)
            rows += batch.num_rows
            for record in batch.slice(0, left).to_pylist():
                shown += 1
                yield list(record.values())

    with contextlib.redirect_stdout(file):
        coming = records()
        first = next(coming, None)
        if first is None:
            print("no rows")
            return rows
        output.print_table(reader.schema.names, itertools.chain([first], coming))
        hidden = f", the first {shown} shown; --format csv or jsonl gives all"
        print(f"({counted(rows, 'row')}{hidden if rows > shown else ''})")
    return rows


def _parquet(reader: pa.RecordBatchReader, path: Path) -> int:
    import pyarrow.parquet as pq

    rows = 0
    with pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _records(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return the rows as dicts, 32-bit floats by their shortest digits.

    0.1 stored in 32 bits is 0.10000000149011612 in Python's 64; written as 0.1 it
    reads back as the same 32 bits.
    """
    import pyarrow as pa

    def shortest(column: pa.Array) -> pa.Array:
        if pa.types.is_float32(column.type):
            return column.cast(pa.string()).cast(pa.float64())
        nested = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
        if nested and pa.types.is_float32(column.type.value_type):
            return column.cast(pa.list_(pa.string())).cast(pa.list_(pa.float64()))
        return column

    columns = [shortest(column) for column in batch.columns]
    records: list[dict[str, Any]] = pa.RecordBatch.from_arrays(
        columns, names=batch.schema.names
    ).to_pylist()
    return records
