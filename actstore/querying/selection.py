"""A selection: some rows of a snapshot, whose vectors and metadata are read when asked for."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore.errors import UsageError
from actstore.querying.metadata import Metadata
from actstore.storage import floats

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from actstore import schema
    from actstore.storage.snapshot import Snapshot


class Batch(NamedTuple):
    """Some rows of a selection."""

    vectors: np.ndarray
    """As stored, ``[rows, width]``."""
    table: pa.Table
    """Their metadata, one row each."""


class Selection:
    """Some rows of a store at one commit, in a fixed order.

    The order is the store's row order (by model, site, layer, then as rows came in), unless
    :meth:`take` made another. Vectors are read from the memory map when asked for.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        metadata: Metadata,
        rows: np.ndarray,
        *,
        shards: np.ndarray,
        description: str = "",
    ) -> None:
        self._snapshot = snapshot
        self._metadata = metadata
        self._shards = shards
        self._description = description
        self.rows = rows
        """Row numbers in the snapshot, int64 ``[len(self)]``: ``row_id`` in SQL."""

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        widths = sorted({self._snapshot.shards[n].width for n in self._touched().tolist()})
        vectors = f" x {' or '.join(map(str, widths))}" if widths else ""
        chosen = f", {self._description}" if self._description else ""
        return f"Selection({len(self)} rows{vectors}{chosen})"

    def _repr_html_(self) -> str:
        from actstore.analysis import notebook

        return notebook.selection_html(self)

    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> Selection:
        """Return part of the selection: a slice, positions, or a mask of booleans."""
        return self.take(index)

    @property
    def snapshot(self) -> Snapshot:
        """The commit that the rows are of."""
        return self._snapshot

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width of :meth:`numpy`.

        Raises:
            MixedVectorsError: the vectors differ in width.
        """
        return len(self), self._vector_shape()[0]

    @property
    def dtype(self) -> schema.VectorType:
        """Type of :meth:`numpy`: ``float16`` or ``float32``."""
        return self._vector_shape()[1]

    def take(self, index: slice | Sequence[int] | np.ndarray) -> Selection:
        """Return the rows at the given positions, in the given order.

        Raises:
            UsageError: a position is out of range, or a mask of another length.
        """
        if not isinstance(index, slice):
            if not isinstance(index, np.ndarray) and not isinstance(index, Sequence):
                raise UsageError(
                    f"a selection is cut by a slice, positions or a mask, got {index!r}; "
                    "rows one after the other come from .batches(size)"
                )
            index = np.asarray(index) if len(index) else np.empty(0, np.int64)
        try:
            rows = self.rows[index]
        except (IndexError, TypeError) as error:
            raise UsageError(f"{error}: the selection has {len(self)} rows") from error
        return self.at(rows)

    def at(self, rows: np.ndarray) -> Selection:
        """Return rows of the same commit by their numbers in it: int64, any order."""
        return Selection(
            self._snapshot,
            self._metadata,
            rows,
            shards=self._shards,
            description=f"part of {self._description or 'all'}",
        )

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows' metadata.

        Args:
            columns: which columns; all schema columns but the vector and ``row_id`` when
                missing. Labels are as they stand in the snapshot.

        Raises:
            NotInStoreError: there is no such column.
        """
        return self._metadata.read(self.rows, columns)

    def numpy(self, *, copy: bool | None = True, out: np.ndarray | None = None) -> np.ndarray:
        """Return the vectors as a matrix ``[rows, width]`` in the stored type.

        Args:
            copy: True for memory of your own; None for a read-only view of the map where
                the rows are one run there, else a copy; False for the view or an error.
            out: C-contiguous matrix to fill, float16 or float32. Filling memory that was
                used before is about twice as fast as filling fresh memory.

        Raises:
            MixedVectorsError: the vectors differ in width.
            UsageError: ``copy=False`` and the rows are not one run, or ``out`` does not fit.
        """
        if out is not None:
            if not copy:
                raise UsageError("out= is filled by copying: leave copy= out")
            if out.dtype == np.float32 and self.dtype == "float16":
                return self._widened(out)
            return self._snapshot.gather(self.rows, out)
        if copy:
            return self._gather()
        view = self._view()
        if view is None and copy is False:
            raise UsageError(
                f"the {len(self)} rows are not one run in one row group, so there is no view of "
                "them: use copy=None to copy only where needed"
            )
        return self._gather() if view is None else view

    def tensor(
        self,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        *,
        copy: bool | None = True,
    ) -> torch.Tensor:
        """Return the vectors as a tensor ``[rows, width]``.

        Args:
            dtype: a torch dtype or its name; the stored type when missing.
            device: where to put it; the CPU when missing.
            copy: as in :meth:`numpy`. A view is read-only memory: writing to it ends the
                process.

        Raises:
            MixedVectorsError: the vectors differ in width.
            UsageError: there is no such dtype, or ``copy=False`` and no view.
        """
        import torch

        wanted = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if dtype is not None and not isinstance(wanted, torch.dtype):
            raise UsageError(f"torch has no dtype {dtype!r}: use one such as 'float32'")
        if wanted is torch.float32 and copy and self.dtype == "float16":
            matrix = self._widened(np.empty(self.shape, np.float32))
        else:
            matrix = self.numpy(copy=copy)
        if matrix.flags.writeable:
            tensor = torch.from_numpy(matrix)
        else:
            with warnings.catch_warnings():
                # "not writable": said above, and the caller asked for it.
                warnings.simplefilter("ignore", UserWarning)
                tensor = torch.from_numpy(matrix)
        return tensor.to(device=device, dtype=wanted)

    def batches(
        self,
        size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        columns: Sequence[str] | None = None,
    ) -> Iterator[Batch]:
        """Yield all rows, ``size`` at a time, the last batch being what is left.

        Args:
            size: rows per batch.
            shuffle: in an order drawn from ``seed`` instead of the selection's own; the
                same seed gives the same order.
            seed: where the order comes from.
            columns: metadata columns of each batch's table; all when missing. Fewer are
                faster, and ``["row_id"]`` reads no metadata to speak of.

        Raises:
            UsageError: ``size`` is not positive.
            MixedVectorsError: the vectors differ in width.
        """
        if size < 1:
            raise UsageError(f"a batch holds at least one row, got size={size}")
        self._vector_shape()
        return self._batches(size, shuffle, seed, columns)

    def _batches(
        self, size: int, shuffle: bool, seed: int, columns: Sequence[str] | None
    ) -> Iterator[Batch]:
        table = self.table(columns)
        order = np.random.default_rng(seed).permutation(len(self)) if shuffle else None
        for start in range(0, len(self), size):
            if order is None:
                rows = self.rows[start : start + size]
                part = table.slice(start, size)
            else:
                chosen = order[start : start + size]
                rows = self.rows[chosen]
                part = table.take(chosen)
            yield Batch(self._stored_type(self._snapshot.gather(rows)), part)

    def save(self, path: str | Path, columns: Sequence[str] | None = None) -> Path:
        """Write vectors and metadata to one file, in one step: whole or not at all.

        What the file holds, by its ending:

        - ``.parquet``: the store's own schema; pyarrow, DuckDB, Polars and ``load_dataset``
          read it.
        - ``.safetensors``: tensors ``activation`` and each number column without nulls; the
          other columns as JSON lists under ``columns`` in the file's metadata.
        - ``.npz``: arrays ``activation`` and each column; a column with nulls has an array
          ``NAME_null`` that marks them. Opens with ``allow_pickle=False``.
        - ``.pt``: ``{"activation": tensor, "metadata": {column: list}}``; opens with
          ``weights_only=True``.

        Args:
            path: the file, replaced if it exists.
            columns: metadata columns to write; all that are not wholly null when missing.
                A ``.parquet`` file always has all.

        Raises:
            UsageError: another ending, nothing selected, or more text than the format holds.
            MixedVectorsError: the vectors differ in width.
        """
        from actstore.querying import saving

        return saving.save(self, Path(path), columns)

    def _gather(self) -> np.ndarray:
        if not len(self):
            return np.empty(self.shape, self.dtype)
        return self._snapshot.gather(self.rows)

    def _stored_type(self, vectors: np.ndarray) -> np.ndarray:
        """Give every part of the selection the type of the whole."""
        return floats.widen(vectors) if vectors.dtype != self.dtype else vectors

    def _widened(self, out: np.ndarray) -> np.ndarray:
        """Fill float32 ``out`` from float16 rows, block by block."""
        if out.shape != self.shape or not out.flags.c_contiguous:
            return self._snapshot.gather(self.rows, out)  # says what does not fit
        step = max(1, (1 << 20) // max(1, out.shape[1]))
        for start in range(0, len(self), step):
            part = self._snapshot.gather(self.rows[start : start + step])
            floats.widen(part, out[start : start + step])
        return out

    def _view(self) -> np.ndarray | None:
        if not len(self):
            return self._gather()
        first, last = int(self.rows[0]), int(self.rows[-1])
        if last - first != len(self) - 1 or not bool((np.diff(self.rows) == 1).all()):
            return None
        return self._snapshot.view(first, last + 1)

    def _touched(self) -> np.ndarray:
        """Return the shards the rows lie in; of none, those they could have lain in."""
        if not len(self):
            return self._shards
        numbers = np.searchsorted(self._snapshot.offsets, self.rows, "right") - 1
        return np.flatnonzero(np.bincount(numbers))

    def _vector_shape(self) -> tuple[int, schema.VectorType]:
        return self._snapshot.shape(self._snapshot.offsets[self._touched()])


def describe(where: str | None, equals: dict[str, Any]) -> str:
    """Return conditions in short, for a selection's ``repr``."""
    parts = [] if where is None else [" ".join(where.split())]
    parts += [f"{name}={value!r}" for name, value in equals.items()]
    text = ", ".join(parts)
    return text if len(text) <= 80 else text[:79] + "…"


def position(value: object) -> int | None:
    """Return ``value`` as an integer if it is one."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
