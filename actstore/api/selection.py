"""A selection: selected rows, with the short ways to what one does with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from actstore import schema
from actstore.errors import MissingExtraError
from actstore.querying import heads, mixture, saving, stacking, tables
from actstore.querying.metadata import ROW_ID
from actstore.querying.selected import SelectedRows

if TYPE_CHECKING:
    import daft
    import pandas as pd
    import polars as pl
    import pyarrow as pa
    import ray.data

    from actstore.analysis.examples.learning import XY
    from actstore.querying.stacking import Stack
    from actstore.training.batches import Batches, BatchOptions
    from actstore.training.normalisation import Kind, Normalisation
    from actstore.training.torch_dataset import SelectionDataset


class Selection(SelectedRows):
    """Some rows of a store at one commit, in a fixed order.

    The order is the store's row order (by model, site, layer, then as rows came in), unless
    :meth:`take` made another. Vectors are read from the memory map when asked for.
    """

    def _repr_html_(self) -> str:
        from actstore.api import notebook

        return notebook.selection_html(self)

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

        return stacking.by(self, columns)

    def heads(self, *, mixed: bool = False) -> np.ndarray:
        """Return the vectors of ``head_out`` or ``attn_pattern`` as ``[rows, heads, width]``.

        The width is that of a head's output, or the number of keys of a pattern, as the record
        of the run has them (``run.settings["shapes"]``).

        Args:
            mixed: as in :meth:`numpy`.

        Raises:
            UsageError: the rows are not by head, or layers differ in their heads.
            MixedVectorsError: the vectors differ in where they were taken, or in width.
        """
        return heads.by_head(self, mixed=mixed)

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

        return stacking.stack(self, column, columns, mixed=mixed)

    def batches(
        self,
        size: int,
        *,
        state: Mapping[str, Any] | None = None,
        **options: Unpack[BatchOptions],
    ) -> Batches:
        """Return an iterator over all rows, ``size`` at a time, the last batch being what is left.

        Its ``state()`` says where it stands; given as ``state=`` it goes on there exactly.

        Args:
            size: rows per batch.
            state: what ``state()`` returned, for the same rows, shuffle and seed.
            options: as keywords:
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

        return training.Batches(self, training.BatchSettings(size=size, **options), state)

    def torch_dataset(
        self,
        size: int,
        *,
        state: Mapping[str, Any] | None = None,
        **options: Unpack[BatchOptions],
    ) -> SelectionDataset:
        """Return the batches as a ``torch.utils.data.IterableDataset``.

        For ``DataLoader(dataset, batch_size=None, num_workers=…)``: each item is a batch.

        Args:
            size: rows per batch.
            state: where to go on; it is used in the pass it was saved in.
            options: as :meth:`batches` takes them; ``columns`` has none when missing.

        Raises:
            UsageError, MixedVectorsError, TooFewRowsError, MismatchError: as there.
        """
        from actstore.training.torch_dataset import SelectionDataset

        return SelectionDataset(self, size, state=state, **options)

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

        return saving.save(self, Path(path), columns, mixed=mixed)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield each row as a dict: its metadata, and its vector as ``activation``."""
        return tables.one_by_one(self)

    @property
    def columns(self) -> list[str]:
        """Names of the metadata columns, ``row_id`` and the fields of ``extra`` among them."""
        return [*schema.metadata_names(), ROW_ID, *self.own_columns]

    @property
    def schema(self) -> pa.Schema:
        """Names and types of :meth:`to_arrow`."""
        return self.head(0).to_arrow().schema

    def head(self, rows: int = 5) -> Selection:
        """Return the first rows."""
        return self.take(slice(0, max(0, rows)))

    def sample(self, rows: int, *, seed: int = 0) -> Selection:
        """Return some rows, drawn by ``seed`` without replacement, in the selection's order."""
        drawn = np.random.default_rng(seed).permutation(len(self))[: max(0, rows)]
        return self.take(np.sort(drawn))

    def to_arrow(self, columns: Sequence[str] | None = None, *, vectors: bool = True) -> pa.Table:
        """Return the rows as an Arrow table.

        Args:
            columns: metadata columns; the schema's and ``row_id`` when missing.
            vectors: with the vectors, as ``activation``, last.

        Raises:
            NotInStoreError: there is no such column.
            MixedVectorsError: the vectors differ in width.
        """
        return tables.to_arrow(self, columns, vectors=vectors)

    def to_polars(
        self, columns: Sequence[str] | None = None, *, vectors: bool = True
    ) -> pl.DataFrame:
        """Return the rows as a Polars frame; arguments and errors as for :meth:`to_arrow`."""
        return tables.to_polars(self, columns, vectors=vectors)

    def to_pandas(
        self, columns: Sequence[str] | None = None, *, vectors: bool = True
    ) -> pd.DataFrame:
        """Return the rows as a pandas frame, each vector as an array; as :meth:`to_arrow`."""
        return tables.to_pandas(self, columns, vectors=vectors)

    def to_ray(self, columns: Sequence[str] | None = None) -> ray.data.Dataset:
        """Return the rows as a Ray Dataset, vectors as the tensor column ``activation``.

        Each task reads some rows out of the store itself, by number: of the shards that hold
        none nothing is read. Nodes need the store under the same path, or its address. Ray
        keeps no order of rows: ``row_id`` has it.

        Args:
            columns: metadata columns; the schema's and ``row_id`` when missing. Fewer are faster.

        Raises:
            MissingExtraError: Ray is not installed.
            NotInStoreError: there is no such column.
            MixedVectorsError: the vectors differ in width.
        """
        try:
            from actstore.querying import ray_dataset
        except ImportError as error:
            raise MissingExtraError("a Ray Dataset", "ray") from error
        return ray_dataset.dataset(self, columns)

    def to_daft(self, columns: Sequence[str] | None = None) -> daft.DataFrame:
        """Return the rows as a lazy Daft frame; arguments and reading as for :meth:`to_ray`.

        Raises:
            MissingExtraError: Daft is not installed.
            NotInStoreError, MixedVectorsError: as there.
        """
        try:
            from actstore.querying import daft_frame
        except ImportError as error:
            raise MissingExtraError("a Daft frame", "daft") from error
        return daft_frame.frame(self, columns)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Hand the rows to any library that knows Arrow, as :meth:`to_arrow` has them."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def xy(
        self,
        label: str = "label",
        *,
        positive: str | float | Sequence[str | float] | None = None,
        groups: str | None = None,
        dtype: str | None = "float32",
        mixed: bool = False,
    ) -> XY:
        """Return ``X, y, groups`` for scikit-learn.

        Rows without a label are left out; the others keep their order.

        Args:
            label: the column that holds the labels, ``extra.NAME`` too.
            positive: value, or values, for which ``y`` is 1, compared as text, so that True is
                the label ``true``; the labels themselves when missing.
            groups: column or SQL expression whose equal values belong together. By default
                rows that share their example or their question do.
            dtype: of ``X``; None for the stored type.
            mixed: as in :meth:`numpy`.

        Raises:
            TooFewRowsError: no row has a label.
            NotInStoreError: there is no such column or value.
            UsageError: ``positive`` names no value, or what no column holds.
            MixedVectorsError: the vectors differ in where they were taken, or in width.
        """
        from actstore.analysis.examples import learning

        return learning.xy(self, label, positive, groups, dtype=dtype, mixed=mixed)

    def split(
        self, by: str | None = None, *, test: float = 0.25, seed: int = 0
    ) -> tuple[Selection, Selection]:
        """Return training and test rows, nothing that belongs together on both sides.

        Args:
            by: column or SQL expression whose equal values stay together; by default rows
                that share their example or their question do.
            test: share of rows to test on; whole groups come as near to it as they can.
            seed: which groups these are.

        Raises:
            TooFewRowsError: all rows belong together.
            UsageError: ``test`` is no share.
        """
        from actstore.analysis.examples import learning

        return learning.split(self, by, test=test, seed=seed)
