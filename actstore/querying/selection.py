"""A selection: some rows of a snapshot, whose vectors and metadata are read when asked for."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from actstore.errors import UsageError
from actstore.querying import mixture
from actstore.querying.metadata import Codes, Metadata
from actstore.storage import floats

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from actstore import schema
    from actstore.querying.stacking import Stack
    from actstore.storage.manifest import ShardEntry
    from actstore.storage.snapshot import Snapshot
    from actstore.training.batches import Batches
    from actstore.training.normalisation import Kind, Normalisation
    from actstore.training.torch_dataset import SelectionDataset


class Batch(NamedTuple):
    """Some rows of a selection."""

    vectors: np.ndarray
    """As stored, or as asked for: ``[rows, width]``."""
    table: pa.Table
    """Their metadata, one row each."""

    def tensor(self, device: torch.device | str | None = None) -> torch.Tensor:
        """Return the vectors as a tensor; to a GPU they travel while the program goes on."""
        import torch

        return torch.from_numpy(self.vectors).to(device, non_blocking=True)


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
        listed: Mapping[str, tuple[Any, ...]] | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._metadata = metadata
        self._shards = shards
        self._description = description
        self.listed: Mapping[str, tuple[Any, ...]] = listed or {}
        """Columns whose values the caller listed, as in ``layer=[12, 18]``, with these values:
        a matrix may hold all of them. Every part of the selection keeps that."""
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

    def part(self, places: np.ndarray, listed: Mapping[str, tuple[Any, ...]]) -> Selection:
        """Return the rows at some positions (int64), of which these values were listed."""
        found = self.at(self.rows[places])
        found.listed = listed
        return found

    def at(self, rows: np.ndarray) -> Selection:
        """Return rows of the same commit by their numbers in it: int64, any order."""
        return Selection(
            self._snapshot,
            self._metadata,
            rows,
            shards=self._shards,
            description=f"part of {self._description or 'all'}",
            listed=self.listed,
        )

    def by(self, *columns: str) -> dict[Any, Selection]:
        """Return the rows by their values of a column, or of several.

        Args:
            columns: any metadata columns.

        Returns:
            A selection for each value, ascending, null last; of several columns the keys are
            tuples. Rows keep their order.

        Raises:
            NotInStoreError: there is no such column.
            UsageError: no column is named.
        """
        from actstore.querying import stacking

        return stacking.by(self, columns)

    def stack(
        self, column: str, *, columns: Sequence[str] | None = None, mixed: bool = False
    ) -> Stack:
        """Return the vectors as an array ``[examples, values of column, width]``.

        Rows are joined by their key (example, data set, mode, variant, position and so on)
        without ``column``, never by their place in the selection. Examples come in the order
        in which the selection first names them, values ascending, null last.

        Args:
            column: ``layer``, ``site``, ``pooling``, ``region``, ``position``, ``model``,
                ``mode`` or ``variant``. With ``layer`` the embeddings (layer -1) go with the
                residual stream.
            columns: metadata columns of the examples' table; when missing, all that have one
                value for each example.
            mixed: take rows that differ in another column that says where a vector was taken,
                though nobody listed its values; each of these values makes examples of its own.

        Raises:
            StackError: an example lacks a vector, or has several of one value; the message
                names the first few.
            MixedVectorsError: rows differ in another column that says where a vector was
                taken, or the vectors differ in width.
            UsageError: nothing can be stacked along that column, or a column of ``columns``
                has several values for one example.
            NotInStoreError: there is no such column.
        """
        from actstore.querying import stacking

        return stacking.stack(self, column, columns, mixed=mixed)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows' metadata.

        Args:
            columns: which columns; all schema columns but the vector and ``row_id`` when
                missing. Labels are as they stand in the snapshot.

        Raises:
            NotInStoreError: there is no such column.
        """
        return self._metadata.read(self.rows, columns)

    def numpy(
        self, *, copy: bool | None = True, out: np.ndarray | None = None, mixed: bool = False
    ) -> np.ndarray:
        """Return the vectors as a matrix ``[rows, width]`` in the stored type.

        Args:
            copy: True for memory of your own; None for a read-only view of the map where
                the rows are one run there, else a copy; False for the view or an error.
            out: C-contiguous matrix to fill, float16 or float32. Filling memory that was
                used before is about twice as fast as filling fresh memory.
            mixed: take rows that differ in model, site, pooling, region or layer, though no
                condition of :meth:`Store.select` listed the values.

        Raises:
            MixedVectorsError: the vectors differ in where they were taken, or in width.
            UsageError: ``copy=False`` and the rows are not one run, or ``out`` does not fit.
        """
        mixture.refuse(self, mixed=mixed)
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
        mixed: bool = False,
    ) -> torch.Tensor:
        """Return the vectors as a tensor ``[rows, width]``.

        Args:
            dtype: a torch dtype or its name; the stored type when missing.
            device: where to put it; the CPU when missing.
            copy: as in :meth:`numpy`. A view is read-only memory: writing to it ends the
                process.
            mixed: as in :meth:`numpy`.

        Raises:
            MixedVectorsError: the vectors differ in where they were taken, or in width.
            UsageError: there is no such dtype, or ``copy=False`` and no view.
        """
        import torch

        wanted = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if dtype is not None and not isinstance(wanted, torch.dtype):
            raise UsageError(f"torch has no dtype {dtype!r}: use one such as 'float32'")
        mixture.refuse(self, mixed=mixed)
        if wanted is torch.float32 and copy and self.dtype == "float16":
            matrix = self._widened(np.empty(self.shape, np.float32))
        else:
            matrix = self.numpy(copy=copy, mixed=True)  # looked at above
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
        shuffle: bool | Literal["exact", "blocks"] = False,
        seed: int = 0,
        columns: Sequence[str] | None = None,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        epoch: int | None = None,
        epochs: int | None = 1,
        state: Mapping[str, Any] | None = None,
        block: int | None = None,
        dtype: schema.VectorType | None = None,
        normalise: Kind | Normalisation | None = None,
        prefetch: int | None = None,
        pin_memory: bool | None = None,
        mixed: bool = False,
    ) -> Batches:
        """Return an iterator over all rows, ``size`` at a time, the last batch being what is left.

        Its ``state()`` says where it stands; given as ``state=`` it goes on there exactly.

        Args:
            size: rows per batch.
            shuffle: in an order drawn from ``seed`` and the pass's number instead of the
                selection's own. ``True`` is ``"exact"`` for a store on this machine: one
                random order of all rows; of a store on the Hub it is ``"blocks"``: runs of
                neighbouring rows in random order, mixed within 64 MiB at a time.
            seed: where the order comes from; the same one gives the same order.
            columns: metadata columns of each batch's table; all when missing. Fewer are
                faster, and ``["row_id"]`` reads no metadata at all.
            rank: which of several processes this is; each row goes to one of them.
            world_size: how many there are.
            drop_last: leave out the rows that make no full batch for every rank.
            epoch: number of the first pass; 0, or that of ``state``, when missing.
            epochs: how many passes, each in another order; None for passes without end.
            state: what ``state()`` returned, for the same rows, shuffle and seed.
            block: rows in a block that is shuffled as one; 1 MiB of vectors when missing.
            dtype: ``"float32"`` widens float16 vectors; as stored when missing.
            normalise: ``"norm"`` scales all vectors by one factor so that their mean norm is
                the square root of their width, ``"mean-norm"`` takes their mean away first;
                computed once, then kept in the store's cache. Or one that was computed.
            prefetch: batches made ahead in threads; 1 when shuffled, else none.
            pin_memory: put vectors where a GPU copies from directly; when missing, if torch
                is loaded and sees one.
            mixed: as in :meth:`numpy`; looked at once, not for each batch.

        Raises:
            UsageError: an argument that cannot work.
            MixedVectorsError: the vectors differ in where they were taken, or in width.
            TooFewRowsError: there would be no batch at all, and more than a plain pass over
                the rows was asked for.
            MismatchError: ``state`` or ``normalise`` belongs to other rows.
            AnalysisError: there is no norm to scale to.
        """
        from actstore.training import batches as training

        settings = training.Settings(
            size=size,
            shuffle=shuffle,
            seed=seed,
            columns=columns,
            rank=rank,
            world_size=world_size,
            drop_last=drop_last,
            epoch=epoch,
            epochs=epochs,
            block=block,
            dtype=dtype,
            normalise=normalise,
            prefetch=prefetch,
            pin_memory=pin_memory,
            mixed=mixed,
        )
        return training.Batches(self, settings, state)

    def torch_dataset(self, size: int, **settings: Any) -> SelectionDataset:
        """Return the batches as a ``torch.utils.data.IterableDataset``.

        For ``DataLoader(dataset, batch_size=None, num_workers=…)``: each item is a batch.

        Args:
            size: rows per batch.
            settings: as :meth:`batches` takes them; ``columns`` has none when missing.

        Raises:
            UsageError, MixedVectorsError, TooFewRowsError, MismatchError: as there.
        """
        from actstore.training.torch_dataset import SelectionDataset

        return SelectionDataset(self, size, **settings)

    def normalisation(self, kind: Kind = "mean-norm", *, mixed: bool = False) -> Normalisation:
        """Return what ``batches(normalise=kind)`` does to each vector, and can undo.

        Args:
            kind: ``norm`` or ``mean-norm``.
            mixed: as in :meth:`numpy`: the mean of several layers is that of none.

        Raises:
            UsageError: there is no such kind.
            TooFewRowsError: nothing is selected.
            MixedVectorsError: the vectors differ in where they were taken, or in width.
            AnalysisError: there is no norm to scale to.
        """
        from actstore.training.normalisation import normalisation

        mixture.refuse(self, mixed=mixed)
        return normalisation(self._snapshot, self.rows, kind, name=repr(self))

    def save(
        self, path: str | Path, columns: Sequence[str] | None = None, *, mixed: bool = False
    ) -> Path:
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
            mixed: as in :meth:`numpy`. A ``.parquet`` file is a table and takes any rows.

        Raises:
            UsageError: another ending, nothing selected, or more text than the format holds.
            MixedVectorsError: the vectors differ in where they were taken, or in width.
        """
        from actstore.querying import saving

        return saving.save(self, Path(path), columns, mixed=mixed)

    def _gather(self) -> np.ndarray:
        if not len(self):
            return np.empty(self.shape, self.dtype)
        return self._snapshot.gather(self.rows)

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

    @property
    def shards(self) -> list[ShardEntry]:
        """The shards that the rows lie in; of no rows, those they could have lain in."""
        return [self._snapshot.shards[number] for number in self._touched().tolist()]

    def values_of(self, column: str) -> set[str | None]:
        """Return the values that the rows have in a column of few, such as ``pooling``."""
        return self._metadata.distinct(self.rows, column)

    def codes_of(self, column: str) -> Codes | None:
        """Return a column of few values for all rows of the store; None for other columns."""
        return self._metadata.codes(column)

    def fills_shards(self) -> bool:
        """Say whether these are all rows of their shards, in their order."""
        rows = sum(shard.rows for shard in self.shards)
        return rows == len(self) and self._ascending()

    def _ascending(self) -> bool:
        return bool((self.rows[1:] > self.rows[:-1]).all())

    def _touched(self) -> np.ndarray:
        """Return the shards the rows lie in; of none, those they could have lain in."""
        if not len(self):
            return self._shards
        if self._ascending():  # as selections are: far fewer searches
            bounds = np.searchsorted(self.rows, self._snapshot.offsets)
            return np.flatnonzero(np.diff(bounds))
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
        return operator.index(value)  # type: ignore[arg-type]  # or it raises
    except TypeError:
        return None
