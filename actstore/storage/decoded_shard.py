"""A shard that cannot be mapped, since it is compressed or foreign: its vectors, decoded."""

from __future__ import annotations

from io import IOBase
from pathlib import Path
from threading import Lock

import numpy as np

from actstore import schema
from actstore.errors import ActstoreError, CorruptStoreError
from actstore.storage.manifest import ShardEntry


class DecodedShard:
    """A shard that cannot be mapped (compressed, foreign): read through pyarrow.

    Args:
        source: its path, or a binary file to read it from.
        entry: what the manifest says.

    Raises:
        CorruptStoreError: it is not what the manifest says.
    """

    def __init__(self, source: Path | IOBase, entry: ShardEntry) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._entry = entry
        self._lock = Lock()  # the file has one position
        self._last: tuple[int, np.ndarray] | None = None
        try:
            # What is Python's is read by this thread alone: shard_columns says why.
            self._own = isinstance(source, Path)
            self._file = pq.ParquetFile(
                source, page_checksum_verification=True, pre_buffer=self._own
            )
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, ActstoreError):
                raise
            raise self._damaged(error) from error
        footer = self._file.metadata
        counts = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        self._starts = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=self._starts[1:])
        if self._starts[-1] != entry.rows:
            raise self._damaged(f"{self._starts[-1]} rows, the manifest says {entry.rows}")
        names = self._file.schema_arrow.names
        type_ = self._file.schema_arrow.field(schema.VECTOR).type if schema.VECTOR in names else ""
        if getattr(type_, "list_size", entry.width) != entry.width:  # before it takes memory
            raise self._damaged(f"vectors of {type_}, the manifest says width {entry.width}")

    def close(self) -> None:
        self._file.close()

    def view(self, start: int, stop: int) -> np.ndarray | None:
        return None

    def run(self, start: int, out: np.ndarray) -> None:
        np.copyto(out, self.take(np.arange(start, start + len(out))))

    def take(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), self._entry.width), self._entry.dtype)
        groups = np.searchsorted(self._starts, rows, "right") - 1
        for group in np.unique(groups):
            chosen = groups == group
            out[chosen] = self._group(int(group))[rows[chosen] - self._starts[group]]
        return out

    def fetch(self, rows: np.ndarray) -> None:
        pass

    def _group(self, group: int) -> np.ndarray:
        """Return the vectors of one row group; the last one asked for is kept."""
        with self._lock:
            if self._last is None or self._last[0] != group:
                self._last = group, self._decode(group)
            return self._last[1]

    def _decode(self, group: int) -> np.ndarray:
        import pyarrow as pa
        import pyarrow.compute as pc

        try:
            table = self._file.read_row_group(group, columns=[schema.VECTOR], use_threads=self._own)
            column = table[schema.VECTOR]
        except (OSError, KeyError, pa.ArrowException) as error:
            if isinstance(error, ActstoreError):
                raise
            raise self._damaged(error) from error
        lengths = set(pc.unique(pc.list_value_length(column)).to_pylist())
        values = pc.list_flatten(column)
        dtype = {"halffloat": "float16", "float": "float32"}.get(str(values.type), str(values.type))
        if lengths != {self._entry.width} or values.null_count or dtype != self._entry.dtype:
            raise self._damaged(
                f"vectors of {values.type} x {', '.join(map(str, lengths))} with "
                f"{values.null_count} nulls, the manifest says {self._entry.dtype} x "
                f"{self._entry.width}"
            )
        matrix: np.ndarray = values.to_numpy().reshape(-1, self._entry.width)
        return matrix

    def _damaged(self, what: object) -> CorruptStoreError:
        return CorruptStoreError(
            f"shard {self._entry.path} is not what the manifest says ({what}): "
            "restore it from a copy",
            self._entry.path,
        )
