"""The public face of a store: open it, ask it in SQL, select rows, find neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack, get_args

import numpy as np

from actstore import paths
from actstore.api.changes import StoreChanges
from actstore.api.selection import Selection
from actstore.errors import NotInStoreError, UsageError
from actstore.querying import filters, info, named, vector_math
from actstore.querying import nearest as neighbours
from actstore.querying.info import StoreInfo
from actstore.querying.reader import opened
from actstore.querying.sql import Database, Parameters
from actstore.querying.value_codes import ranked
from actstore.querying.vector_math import Metric
from actstore.remote.address import is_address
from actstore.remote.bucket_address import is_bucket
from actstore.storage.checksums import Check
from actstore.storage.snapshot import Snapshot, latest_snapshot
from actstore.wording import counted

if TYPE_CHECKING:
    import duckdb
    import numpy.typing as npt
    import polars as pl
    import pyarrow as pa
    import torch

    from actstore.exporting.run import ExportOptions, ExportSummary, Progress
    from actstore.querying.approximate import Built
    from actstore.querying.column_filters import ColumnFilters
    from actstore.training.clt import CltBatches, CltOptions


class Store(StoreChanges):
    """A store at one commit.

    What it answers never changes while it is open, whatever others write; :meth:`refresh`
    goes on to the latest commit. Rows have an order: by model, site, layer (unknown last),
    then as they came in; their number in it is ``row_id``. Usable as a context manager.
    """

    def _use(self, snapshot: Snapshot) -> None:
        super()._use(snapshot)
        self._unsealed: Database | None = None

    def __repr__(self) -> str:
        without = f", without {counted(len(self.skipped), 'damaged shard')}" if self.skipped else ""
        return f"Store({self.name!r}, commit {self.commit}, {self.rows} rows{without})"

    def _repr_html_(self) -> str:
        from actstore.api import notebook

        return notebook.store_html(self.info())

    @property
    def labels(self) -> dict[str | None, int]:
        """Rows per label, most frequent first; None counts rows without one."""
        return info.label_counts(self._open())

    def info(self) -> StoreInfo:
        """Return what the store holds, in numbers."""
        return info.describe(self._open())

    def sql(
        self, query: str, parameters: Parameters | None = None, *, allow_external: bool = False
    ) -> duckdb.DuckDBPyRelation:
        """Return one SQL statement as a lazy DuckDB relation.

        The view ``activations`` has the schema's columns and ``row_id``. Between vectors
        (the column, parameters, lists) there are ``dot(a, b)``, ``cosine(a, b)`` (the
        cosine similarity), ``distance(a, b)`` (L2), ``norm(v)`` and the aggregate
        ``vector_mean(v)``.

        Args:
            query: one statement that reads.
            parameters: values of ``$name`` (a mapping) or ``?`` (a sequence); a vector may
                be a list, a NumPy array or a tensor.
            allow_external: let SQL reach other files and change things.

        Raises:
            SqlError: the statement is refused or wrong. What goes wrong while its rows are
                fetched is DuckDB's own error.
        """
        return self._database(allow_external).relation(query, parameters)

    def named(
        self,
        name: str | Path,
        values: dict[str, Any] | None = None,
        *,
        allow_external: bool = False,
    ) -> duckdb.DuckDBPyRelation:
        """Return a named query, such as ``label-counts``, as a lazy DuckDB relation.

        Args:
            name: of a query that comes with actstore, or the path of a ``.sql`` file.
            values: by parameter name.
            allow_external: as in :meth:`sql`.

        Raises:
            UsageError: there is no such query, or a value is missing or of a wrong type.
            SqlError: the query is refused or wrong.
        """
        query = named.find(name)
        bound = query.bind(values or {})
        return self._database(allow_external).relation(query.sql, bound or None)

    def stream(
        self,
        query: str,
        parameters: Parameters | None = None,
        *,
        allow_external: bool = False,
    ) -> pa.RecordBatchReader:
        """Run one SQL statement and return its rows as a stream of Arrow batches.

        Raises:
            SqlError: the statement is refused or fails, now or while batches are read.
        """
        return self._database(allow_external).reader(query, parameters)

    def frame(self) -> pl.LazyFrame:
        """Return all rows as a Polars LazyFrame.

        Filters and column choice reach the metadata; vectors are read from the map for the
        rows that are left, and only if asked for.
        """
        from actstore.querying import polars_frame

        return polars_frame.frame(self._open())

    def select(
        self, where: str | Mapping[str, Any] | None = None, /, **equals: Unpack[ColumnFilters]
    ) -> Selection:
        """Return the rows that meet all conditions, in row order.

        Vectors and metadata are read when the selection is asked for them.

        Args:
            where: an SQL condition, such as ``"norm > 50 AND task = 'maze'"``; or a mapping, for
                columns that are no keywords: ``{"extra.group": "a"}``.
            equals: ``column=value``, or several values as a list; None means null. A site
                may be spelled as TransformerLens or transformers do. Rows whose values of
                model, site, pooling, region or layer were listed may stand in one matrix.

        Raises:
            NotInStoreError: there is no such column, or no row has such a value; the
                message names what is there. A ``where`` that nothing meets is no error.
            UsageError: a value of the wrong type.
            SqlError: ``where`` is not one condition.
        """
        return self._select(where, equals, Selection)

    def rows_at(self, row_ids: Sequence[int] | np.ndarray) -> Selection:
        """Return rows by their ``row_id``, in the given order.

        Raises:
            UsageError: a number is out of range.
        """
        return self._rows_at(row_ids, Selection)

    def clt_batches(
        self,
        size: int = 1024,
        where: str | None = None,
        *,
        n_targets: int = 16,
        layers: Sequence[int] | np.ndarray | int | None = None,
        state: Mapping[str, Any] | None = None,
        **options: Unpack[CltOptions],
    ) -> CltBatches:
        """Return batches of ``mlp_in`` and of later layers' ``mlp_out``, joined by token.

        Args:
            size: tokens per batch.
            where: an SQL condition on the rows.
            n_targets: how many layers after its own a layer has as targets, at most.
            layers: of ``mlp_in``; all that have a target when missing.
            state: what ``state()`` returned, to go on there.
            options: what :meth:`Selection.batches` and :meth:`select` take.

        Raises:
            ActstoreError: as :class:`~actstore.training.clt.CltBatches` says.
        """
        from actstore.training import clt

        settings, equals = clt.separate(size, options)
        if "site" in equals:
            raise UsageError(f"clt_batches is of the sites {', '.join(clt.SITES)}: leave out site")
        equals["site"] = list(clt.SITES)
        rows = self.select(where, **equals)
        return clt.CltBatches(rows, settings, n_targets=n_targets, layers=layers, state=state)

    def nearest(
        self,
        query: npt.ArrayLike | torch.Tensor,
        k: int = 10,
        where: str | None = None,
        *,
        metric: Metric = "cosine",
        include_self: bool = False,
        columns: Sequence[str] | None = None,
        mixed: bool = False,
        index: bool = False,
        **equals: Unpack[ColumnFilters],
    ) -> pa.Table:
        """Return the ``k`` rows nearest to a vector or to a row of the store, or to each of many.

        Every row is compared, so the result is exact. Rows of another width than the
        query's are left out.

        Args:
            query: a vector (list, NumPy array, tensor), or an ``example_id``, or a
                ``row_id``; several as a matrix ``[queries, width]`` or a list of
                ``example_id``, for which the rows are read once.
            k: how many rows, for each query.
            where: an SQL condition on the rows to search.
            metric: ``cosine`` or ``dot``, the largest first, or ``l2``, the smallest first.
            include_self: whether the row that is the query may be in the result.
            columns: metadata columns of the result; all and ``row_id`` when missing.
            mixed: search rows of several models, sites, poolings, regions or layers, which
                no condition listed.
            index: ask the index that :meth:`index` built, which may miss rows.
            equals: as in :meth:`select`, for the rows to search; where ``query`` is an
                ``example_id``, they also say which of its rows is meant.

        Returns:
            A table with ``score`` (float32), best first (equal scores in row order), and
            the metadata. Of several queries the results follow one another, and ``query``
            (int64) says which of them each is for, counted from 0.

        Raises:
            NotInStoreError: there is no such example, or a condition names what is not there.
            UsageError: the example has several rows under these conditions, or a bad argument.
            MixedVectorsError: the rows to search are of several places, and nobody asked for
                that.
        """
        rows, vectors = self._queries(query, equals)
        return neighbours.nearest(
            self.select(where, **equals),
            vectors,
            k,
            metric=metric,
            columns=None if columns is None else list(columns),
            mixed=mixed,
            of_rows=rows,
            include_self=include_self,
            index=index,
        )

    def index(
        self,
        where: str | None = None,
        *,
        metric: Metric = "cosine",
        **equals: Unpack[ColumnFilters],
    ) -> Built:
        """Build an approximate index of a whole layer, for :meth:`nearest` with ``index=True``.

        It is a derived file beside the shards, and no longer used once the layer's rows change.

        Args:
            where: an SQL condition; the rows must still be those of whole layers.
            metric: what it searches by.
            equals: as in :meth:`select`.

        Raises:
            as :func:`actstore.querying.approximate.build`.
        """
        from actstore.querying import approximate

        return approximate.build(self.select(where, **equals), metric)

    def export(
        self,
        to: str,
        folder: str | Path,
        where: str | None = None,
        *,
        progress: Progress | None = None,
        **options: Unpack[ExportOptions],
    ) -> ExportSummary:
        """Write rows as the files of a layout; see :func:`actstore.exporting.run.export`."""
        from actstore.exporting.run import export

        return export(self, to, folder, where, progress=progress, **options)

    @property
    def poolings(self) -> list[str]:
        """Poolings, by name."""
        return sorted(filter(None, self._distinct("pooling")))

    @property
    def datasets(self) -> list[str | None]:
        """Data sets, by name; None (not recorded) last."""
        return sorted(self._distinct("dataset"), key=ranked)

    @property
    def tasks(self) -> list[str | None]:
        """Tasks, by name; None (not recorded) last."""
        return sorted(self._distinct("task"), key=ranked)

    def _distinct(self, column: str) -> set[str | None]:
        return self._metadata.distinct(np.arange(self._open().rows), column)

    @property
    def columns(self) -> list[str]:
        """Names of the metadata columns, ``row_id`` and the fields of ``extra`` among them."""
        return self.select().columns

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the rows as an Arrow table."""
        return self.select().schema

    def head(self, rows: int = 5) -> Selection:
        """Return the first rows."""
        return self.select().head(rows)

    def sample(self, rows: int, *, seed: int = 0) -> Selection:
        """Return some rows, drawn by ``seed`` without replacement, in row order."""
        return self.select().sample(rows, seed=seed)

    def query(
        self, query: str, parameters: Parameters | None = None, *, allow_external: bool = False
    ) -> duckdb.DuckDBPyRelation:
        """Return one SQL statement as a lazy DuckDB relation: :meth:`sql` by another name."""
        return self.sql(query, parameters, allow_external=allow_external)

    def refresh(self) -> Self:
        """Go on to the latest commit; selections made before keep theirs. Returns itself."""
        unsealed, before = self._unsealed, self._snapshot
        super().refresh()
        if unsealed is not None and self._snapshot is not before:
            unsealed.close()
        return self

    def close(self) -> None:
        """Give files and connections back; matrices handed out stay valid."""
        if self._unsealed is not None:
            self._unsealed.close()
        super().close()

    def _database(self, allow_external: bool) -> Database:
        snapshot = self._open()
        if not allow_external:
            return self._sealed
        if self._unsealed is None:
            self._unsealed = Database(snapshot, allow_external=True)
        return self._unsealed

    def _queries(
        self, query: npt.ArrayLike | torch.Tensor, equals: ColumnFilters
    ) -> tuple[list[int] | None, np.ndarray]:
        """Return the rows that queries are, None of vectors, and float32 ``[(queries,) width]``."""
        snapshot = self._open()
        if isinstance(query, str):
            rows = [self._row_of(query, equals)]
        elif isinstance(query, int | np.integer) and not isinstance(query, bool):
            rows = [int(self.rows_at([int(query)]).rows[0])]
        elif isinstance(query, list | tuple) and query and isinstance(query[0], str):
            rows = [self._row_of(str(name), equals) for name in query]
            return rows, vector_math.as_queries(snapshot.gather(np.array(rows)))
        else:
            return None, vector_math.as_queries(query)
        return rows, vector_math.as_query(snapshot.gather(np.array(rows)))

    def _row_of(self, example: str, equals: ColumnFilters) -> int:
        """Return the row that an example has under some conditions."""
        mine: ColumnFilters = {**equals, "example_id": example}
        found = self.select(**mine)
        if len(found) == 1:
            return int(found.rows[0])
        if not len(found):
            raise NotInStoreError(
                f"example {example!r} has no row with {filters.describe(None, equals)}"
            )
        raise UsageError(neighbours.several(example, found))


def open(
    path: str | Path,
    at: int | None = None,
    *,
    create: bool = False,
    check: Check = "lazy",
    skip_damaged: bool = False,
) -> Store:
    """Open the store at ``path``, at commit ``at`` or the latest.

    With ``create`` a store that is not there yet is made; it has no rows and no commit.

    ``hf://datasets/org/name`` opens the store in a repository on the Hugging Face Hub, with
    ``@revision`` that of a branch, tag or commit. Nothing but its manifest is fetched then;
    later the metadata when something asks for it, and of the vectors the rows that are read.
    The token is that of ``hf auth login`` or HF_TOKEN.

    ``s3://bucket/store``, ``gs://`` and ``az://`` open a store in a bucket, in the same way; it
    can be written to. Credentials, region and endpoint come from the usual variables, such as
    AWS_ACCESS_KEY_ID, AWS_REGION and AWS_ENDPOINT_URL. ``memory://name`` is a store in this
    process's memory, ``file:///path`` a folder.

    Metadata and labels are always held against their checksums. ``check`` says when vectors
    are: ``"lazy"`` when this process first reads them, ``"always"`` at each reading, which
    notices a disk that fails meanwhile, ``"never"`` not at all. A view
    (:meth:`Selection.numpy` with ``copy=None``) is checked when it is made. Rows of a store on
    the Hub or in a bucket are checked on their way, whatever ``check`` says.

    With ``skip_damaged`` shards that are missing or changed are left out, and the rest is there
    to read: ``skipped`` lists them, each with its rows and what is wrong with it. All bytes of
    the commit are read for that, once in a process. Row numbers and the fingerprint are then
    those of what is left; whatever would write to the store is refused.

    Raises:
        StoreNotFoundError: there is no store; the message says what is there.
        SnapshotNotFoundError: the store has no such commit.
        CorruptStoreError: the commit's manifest is damaged.
        DamageError: with ``skip_damaged``: no shard is sound, or a label file is not, which
            would change the labels of other rows.
        HubError: the repository cannot be read, or holds no sound store; the leaf says why.
        BucketError: the bucket cannot be read; the leaf says why.
        MissingExtraError: a store in a bucket needs the extra ``bucket``.
        UsageError: ``create`` was asked for with a commit, on the Hub or with ``skip_damaged``;
            ``skip_damaged`` on the Hub or in a bucket; there is no such ``check``.
    """
    if check not in get_args(Check):
        raise UsageError(f"check is one of {', '.join(get_args(Check))}, got {check!r}")
    if create and (at is not None or is_address(str(path))):
        raise UsageError("a store is created in a folder, without a commit to open it at")
    if create and skip_damaged:
        raise UsageError("create is for writing, skip_damaged for reading: choose one of them")
    if create and is_bucket(path):
        from actstore.remote.bucket_source import open_bucket

        again = partial(open_bucket, path, create=True)
        return Store(again(), again)
    if create:
        path = paths.local_store(path)
        return Store(latest_snapshot(path, check), partial(latest_snapshot, path, check))
    return Store(*opened(path, at, check, skip_damaged=skip_damaged))
