"""SQL functions over the memory-mapped vectors: what DuckDB gets, and what is computed here."""

from __future__ import annotations

import itertools
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore.errors import UsageError
from actstore.querying import scoring, vector_math
from actstore.querying.scoring import Query
from actstore.querying.vector_math import Metric
from actstore.storage import floats

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from actstore.storage.snapshot import Snapshot

# Vectors of any widths and literal lists, as FLOAT[]: DuckDB casts its fixed-size arrays
# to that without a copy. As that, squares of cosine and norm could overflow, or be lost. The
# functions over row numbers are what `pushdown` writes instead.
MACROS = """
CREATE MACRO dot(a, b) AS list_inner_product(a::FLOAT[], b::FLOAT[]);
CREATE MACRO cosine(a, b) AS list_cosine_similarity(a::DOUBLE[], b::DOUBLE[])::FLOAT;
CREATE MACRO distance(a, b) AS list_distance(a::FLOAT[], b::FLOAT[]);
CREATE MACRO norm(v) AS sqrt(list_inner_product(v::DOUBLE[], v::DOUBLE[]));
CREATE MACRO vector_mean(v) AS mean_of_vectors(list(v::FLOAT[]));
CREATE MACRO dot_at(row, v) AS scored_dot(row, vector_handle(v::FLOAT[]));
CREATE MACRO distance_at(row, v) AS scored_distance(row, vector_handle(v::FLOAT[]));
CREATE MACRO cosine_at(row, length, v) AS scored_cosine(row, length, vector_handle(v::FLOAT[]));
CREATE MACRO vector_mean_at(row) AS mean_of_rows(list(row));
"""

# Twice what DuckDB's threads can have in flight, 2,048 rows each; older ones are forgotten.
_KEPT_HANDLES = 4_096 * max(2, os.cpu_count() or 1)
_KEPT_BUFFERS = 4


class VectorFunctions:
    """The functions of one snapshot, and what they keep between calls.

    DuckDB calls them from its own threads, some thousand rows at a time.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._lock = Lock()
        self._handles: OrderedDict[int, Query] = OrderedDict()
        self._known: dict[bytes, int] = {}
        self._next = itertools.count()
        self._buffers: list[np.ndarray] = []

    @cached_property
    def _shard_widths(self) -> np.ndarray:
        return np.array([shard.width for shard in self._snapshot.shards], np.int64)

    @cached_property
    def widths(self) -> list[int]:
        """The widths that vectors have, ascending."""
        return sorted(set(self._shard_widths.tolist()))

    @property
    def vector_type(self) -> str:
        """The SQL type of a stored vector: ``FLOAT[width]``, or ``FLOAT[]`` of several widths."""
        return f"FLOAT[{self.widths[0]}]" if len(self.widths) == 1 else "FLOAT[]"

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make the functions and macros known to ``connection``'s database."""
        from duckdb.func import FunctionNullHandling, PythonUDFType

        def add(name: str, function: Callable[..., Any], types: list[Any], result: str) -> None:
            # What may be null where nothing that goes in is: a mean of nulls, for one.
            special = name.startswith(("scored", "mean"))
            connection.create_function(
                name,
                function,
                types,
                result,
                type=PythonUDFType.ARROW,
                null_handling=FunctionNullHandling.SPECIAL
                if special
                else FunctionNullHandling.DEFAULT,
                side_effects=False,
            )

        # Lambdas, because DuckDB evaluates annotations, and those of ours name pyarrow.
        vector = self.vector_type
        add("vector_at", lambda rows: self._vector_at(rows), ["BIGINT"], vector)
        add("vector_handle", lambda vectors: self._handle(vectors), ["FLOAT[]"], "BIGINT")
        add("mean_of_rows", lambda lists: self._mean_of_rows(lists), ["BIGINT[]"], vector)
        add("mean_of_vectors", lambda lists: self._mean_of_vectors(lists), ["FLOAT[][]"], "FLOAT[]")
        scored = self._scored
        add("scored_dot", lambda r, q: scored("dot", r, None, q), ["BIGINT"] * 2, "FLOAT")
        add("scored_distance", lambda r, q: scored("l2", r, None, q), ["BIGINT"] * 2, "FLOAT")
        types = ["BIGINT", "FLOAT", "BIGINT"]
        add("scored_cosine", lambda r, n, q: scored("cosine", r, n, q), types, "FLOAT")
        connection.execute(MACROS)

    def _vector_at(self, row_ids: pa.ChunkedArray) -> pa.Array:
        rows = row_ids.to_numpy()
        if len(rows):
            self._widths_of(rows[[rows.argmin(), rows.argmax()]])  # refuses what is out of range
        if len(self.widths) != 1:
            return vector_math.lists(self._snapshot, rows)
        width = self.widths[0]
        first = int(rows[0])
        consecutive = rows[-1] - first == len(rows) - 1 and bool((np.diff(rows) == 1).all())
        stored = self._snapshot.view(first, first + len(rows)) if consecutive else None
        if stored is None:
            stored = self._snapshot.gather(rows)
        if stored.dtype == np.float16:
            stored = floats.widen(stored, self._buffer(len(rows), width))
        return _fixed_lists(stored)

    def _widths_of(self, rows: np.ndarray) -> np.ndarray:
        shards = np.searchsorted(self._snapshot.offsets, rows, "right") - 1
        if len(rows) and not (shards.min() >= 0 and shards.max() < len(self._shard_widths)):
            raise UsageError(f"row numbers go from 0 to {self._snapshot.rows - 1}")
        return self._shard_widths[shards]

    def _buffer(self, rows: int, width: int) -> np.ndarray:
        """Return memory that comes back here once DuckDB has let go of it.

        Fresh memory of this size is zeroed page by page by the system, which takes as
        long as the widening itself.
        """
        size = rows * width
        with self._lock:
            at = next((i for i, held in enumerate(self._buffers) if held.size >= size), None)
            memory = np.empty(size, np.float32) if at is None else self._buffers.pop(at)
        # The array that leaves is a view of its own, so that its end can be seen.
        lent = memory[:size].reshape(rows, width)
        weakref.finalize(lent, self._take_back, memory).atexit = False
        return lent

    def _take_back(self, memory: np.ndarray) -> None:
        with self._lock:
            self._buffers.append(memory)
            if len(self._buffers) > _KEPT_BUFFERS:
                smallest = min(range(len(self._buffers)), key=lambda i: self._buffers[i].size)
                del self._buffers[smallest]

    def _handle(self, vectors: pa.ChunkedArray) -> pa.Array:
        """Keep query vectors and return a number for each.

        DuckDB would repeat a constant vector once per row on its way into a function; a
        number is cheap to repeat, and a constant comes here as one row.
        """
        import pyarrow as pa

        numbers = []
        for chunk in vectors.chunks:
            if chunk.flatten().null_count:  # which would become NaN
                raise UsageError("a query vector has a NULL among its values: give it numbers")
            values = chunk.values.to_numpy(zero_copy_only=False)
            bounds = chunk.offsets.to_numpy()
            for start, stop in itertools.pairwise(bounds.tolist()):
                numbers.append(self.handle(values[start:stop]))
        return pa.array(numbers, pa.int64())

    def handle(self, vector: np.ndarray) -> int:
        """Keep a query vector, float32 ``[width]``, and return its number.

        Raises:
            UsageError: no stored vector has its width.
        """
        if len(vector) not in self.widths:
            have = " or ".join(map(str, self.widths)) or "no"
            raise UsageError(
                f"the query vector has {len(vector)} values, the stored vectors have {have}"
            )
        content = vector.tobytes()
        with self._lock:
            number = self._known.get(content)
            if number is None:
                number = next(self._next)
                self._known[content] = number
                self._handles[number] = Query(np.frombuffer(content, np.float32))
                if len(self._handles) > _KEPT_HANDLES:
                    _, forgotten = self._handles.popitem(last=False)
                    del self._known[forgotten.vector.tobytes()]
            self._handles.move_to_end(number)
            return number

    def _query(self, number: int) -> Query:
        with self._lock:
            query = self._handles.get(number)
            if query is None:
                raise UsageError(f"there is no query vector {number}")
            self._handles.move_to_end(number)
            return query

    def _scored(
        self,
        metric: Metric,
        row_ids: pa.ChunkedArray,
        norms: pa.ChunkedArray | None,
        handles: pa.ChunkedArray,
    ) -> pa.Array:
        """Score each row's vector against its query; null where widths differ."""
        import pyarrow as pa

        result = np.zeros(len(row_ids), np.float32)
        null = row_ids.is_null().to_numpy() | handles.is_null().to_numpy()
        rows = row_ids.fill_null(0).to_numpy()
        numbers = handles.fill_null(0).to_numpy()
        lengths = None if norms is None else norms.to_numpy()
        widths = self._widths_of(rows) if len(self.widths) > 1 else None
        for number in np.unique(numbers[~null]).tolist():
            query = self._query(number)
            chosen = ~null & (numbers == number)
            if widths is not None:
                null |= chosen & (widths != len(query))
                chosen &= ~null
            where = slice(None) if chosen.all() else np.flatnonzero(chosen)
            part = None if lengths is None else lengths[where]
            result[where] = scoring.scores(self._snapshot, rows[where], query, metric, part)
        return pa.array(result, mask=null if null.any() else None)

    def _mean_of_rows(self, lists: pa.ChunkedArray) -> pa.Array:
        """Mean stored vector of each list of rows, those that are null left out; null of none."""
        results: list[np.ndarray | None] = []
        for chunk in lists.chunks:
            known = chunk.values.is_valid().to_numpy(zero_copy_only=False)
            rows = chunk.values.fill_null(0).to_numpy()
            for start, stop in itertools.pairwise(chunk.offsets.to_numpy().tolist()):
                chosen = np.sort(rows[start:stop][known[start:stop]])
                width = np.unique(self._widths_of(chosen))
                if len(width) > 1:
                    raise UsageError(
                        f"vectors of widths {', '.join(map(str, width))} have no common mean: "
                        "select or group by model and site"
                    )
                results.append(
                    vector_math.mean(self._snapshot, chosen, int(width[0])) if len(width) else None
                )
        return _vectors(results, self.widths[0] if len(self.widths) == 1 else None)

    def _mean_of_vectors(self, lists: pa.ChunkedArray) -> pa.Array:
        """Mean of each list of vectors, those that are null left out; null of none."""
        results: list[np.ndarray | None] = []
        for chunk in lists.chunks:
            for start, stop in itertools.pairwise(chunk.offsets.to_numpy().tolist()):
                vectors = chunk.values[start:stop].drop_null()
                widths = np.unique(np.diff(vectors.offsets.to_numpy()))
                if len(widths) > 1:
                    raise UsageError(
                        f"vectors of widths {', '.join(map(str, widths))} have no common mean"
                    )
                if not len(vectors):
                    results.append(None)
                    continue
                matrix = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1)
                results.append(matrix.mean(axis=0, dtype=np.float64).astype(np.float32))
        return _vectors(results, None)


def _fixed_lists(matrix: np.ndarray) -> pa.Array:
    """Return float32 ``[n, width]`` as Arrow lists of fixed size, without a copy."""
    import pyarrow as pa

    rows, width = matrix.shape
    # Through the buffer protocol, so that Arrow holds on to this very array.
    values = pa.Array.from_buffers(pa.float32(), rows * width, [None, pa.py_buffer(matrix)])
    return pa.FixedSizeListArray.from_arrays(values, width)


def _vectors(results: list[np.ndarray | None], width: int | None) -> pa.Array:
    import pyarrow as pa

    value = pa.list_(pa.float32()) if width is None else pa.list_(pa.float32(), width)
    return pa.array(results, value)
