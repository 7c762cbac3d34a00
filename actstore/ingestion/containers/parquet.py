"""Streams tables of vectors from Parquet files, one record batch at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from actstore.errors import IngestError, LayoutError, UnreadableFileError, UnsafeFileError
from actstore.ingestion.containers.sniffing import describe

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS: Final = 2048
"""Rows of one batch unless asked for otherwise: 32 MB of vectors of 4096 float32 numbers."""

_DEFAULT_LIMIT: Final = 4 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSource:
    """A table on disk, not read yet."""

    path: Path
    """The file or folder that was asked for."""
    files: tuple[Path, ...]
    """The files of the table, in the order of their rows."""
    schema: pa.Schema
    """Columns and their types; an extension type (Array2D) shows as the lists behind it."""
    rows: int | None
    """How many rows there are, where the format says so without reading them."""
    stream: Callable[[Sequence[str] | None, int], Iterator[pa.RecordBatch]]
    """What :meth:`batches` calls."""

    def batches(
        self, columns: Sequence[str] | None = None, batch_rows: int = BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """The rows in order, in batches of at most ``batch_rows``, with ``columns`` only.

        Raises LayoutError for a column that is not there (before the first batch), and
        UnreadableFileError where the bytes turn out damaged.
        """
        for column in columns or ():
            if column not in self.schema.names:
                raise LayoutError(
                    f"has no column {column!r}; it has {', '.join(self.schema.names)}", self.path
                )
        return self.stream(columns, batch_rows)

    @property
    def features(self) -> dict[str, Any]:
        """Hugging Face's description of the columns (names of a ClassLabel, …), or empty."""
        raw = (self.schema.metadata or {}).get(b"huggingface", b"{}")
        try:
            found = json.loads(raw)["info"]["features"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def read(path: Path, *, memory_limit: int) -> TableSource:
    """The table in a Parquet file. Raises as :func:`actstore.ingestion.containers.read` says."""
    return table([path], path, memory_limit=memory_limit)


def schema(path: Path) -> pa.Schema:
    """The schema of a Parquet file; raises as :func:`read`."""
    return read(Path(path), memory_limit=_DEFAULT_LIMIT).schema


def batches(
    path: Path, columns: Sequence[str] | None = None, batch_rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """The record batches of a Parquet file; raises as :meth:`TableSource.batches`."""
    return read(Path(path), memory_limit=_DEFAULT_LIMIT).batches(columns, batch_rows)


def table(files: Sequence[Path], path: Path, *, memory_limit: int) -> TableSource:
    """One table out of Parquet files with the same columns."""
    import pyarrow.parquet as pq

    rows = 0
    found: pa.Schema | None = None
    for file in files:
        with damage_explained(file), pq.ParquetFile(file, memory_map=True) as parquet:
            _check_sizes(file, parquet.metadata, memory_limit)
            rows += parquet.metadata.num_rows
            columns = without_extensions(parquet.schema_arrow)
        if found is None:
            found = columns
        elif not found.equals(columns):
            raise different_columns(files[0], found, file, columns)
    if found is None:
        raise UnreadableFileError("holds no Parquet file", path)

    def stream(columns: Sequence[str] | None, batch_rows: int) -> Iterator[pa.RecordBatch]:
        for file in files:
            with damage_explained(file), pq.ParquetFile(file, memory_map=True) as parquet:
                names = None if columns is None else list(columns)
                for batch in parquet.iter_batches(batch_size=batch_rows, columns=names):
                    yield checked(batch, file)

    return TableSource(path=path, files=tuple(files), schema=found, rows=rows, stream=stream)


def without_extensions(columns: pa.Schema) -> pa.Schema:
    """The schema with every extension type replaced by its storage."""
    import pyarrow as pa

    for index, field in enumerate(columns):
        if isinstance(field.type, pa.BaseExtensionType):
            columns = columns.set(index, field.with_type(field.type.storage_type))
    return columns


def checked(batch: pa.RecordBatch, file: Path) -> pa.RecordBatch:
    """The batch with storage in place of extension types, after a check of every offset.

    A damaged file can make arrays that lead outside their own memory.
    """
    import pyarrow as pa

    columns = [
        column.storage if isinstance(column, pa.ExtensionArray) else column
        for column in batch.columns
    ]
    result = pa.RecordBatch.from_arrays(columns, schema=without_extensions(batch.schema))
    try:
        result.validate(full=True)
    except pa.ArrowException as error:
        raise UnreadableFileError(f"is damaged: {str(error)[:200]}", file) from error
    return result


def different_columns(
    first: Path, expected: pa.Schema, other: Path, found: pa.Schema
) -> LayoutError:
    """Two files of one table do not fit together."""
    wrong = [
        name
        for name in dict.fromkeys([*expected.names, *found.names])
        if name not in expected.names
        or name not in found.names
        or expected.field(name).type != found.field(name).type
    ]
    detail = f"they differ in {', '.join(wrong)}" if wrong else "their columns differ in order"
    return LayoutError(
        f"{other}: has other columns than {first.name}: {detail}; ingest them one by one"
    )


@contextmanager
def damage_explained(file: Path) -> Iterator[None]:
    """Turns whatever pyarrow raises over damaged bytes into our errors."""
    import pyarrow as pa

    try:
        yield
    except IngestError:
        raise
    except (MemoryError, pa.ArrowMemoryError) as error:
        raise UnsafeFileError(f"reading it exhausts the memory: {error}", file) from error
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        size = f" ({file.stat().st_size:,} bytes)" if file.is_file() else ""
        # Before it is cut: half a path would not be known as one.
        said = str(error).replace(str(file), file.name)[:200]
        raise UnreadableFileError(
            f"cannot be read, it is {describe(file)}{size}: {said}", file
        ) from error


def _check_sizes(file: Path, metadata: Any, memory_limit: int) -> None:
    size = file.stat().st_size
    for group in range(metadata.num_row_groups):
        # Not row_group.column(): over damaged metadata it aborts the process (pyarrow 26).
        row_group = metadata.row_group(group)
        # At least one byte for each row; run lengths can claim any number of them.
        claimed = max(row_group.num_rows, row_group.total_byte_size)
        if claimed > memory_limit and claimed > 200 * size:
            raise UnsafeFileError(
                f"its row group {group} unfolds to {claimed:,} rows or bytes out of a file "
                f"of {size:,}, as bombs do",
                file,
            )
