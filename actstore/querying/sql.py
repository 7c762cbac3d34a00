"""SQL over a snapshot: a sealed DuckDB with the view ``activations``, read only."""

from __future__ import annotations

import atexit
import os
import re
import signal
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from actstore import schema
from actstore.errors import CorruptStoreError, DamageError, SqlError, UsageError
from actstore.querying import own_sql, pushdown, quoting, sql_hints, vector_math
from actstore.querying.pushdown import PushedDown
from actstore.querying.sql_functions import VectorFunctions

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from actstore.storage.snapshot import Snapshot

Parameters = Mapping[str, Any] | Sequence[Any]

_EXPLAIN = re.compile(r"\s*explain\b(\s+analyze\b)?(\s*\([^)]*\))?", re.IGNORECASE)
_PIVOT = re.compile(r"\s*pivot(_wider)?\b", re.IGNORECASE)
_READING = "SELECT, WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE, PIVOT or EXPLAIN"
_UNREAD = re.compile(r'(Cannot open|Could not read from) file "')
_KEPT_REWRITES = 256
_OPEN: weakref.WeakSet[Database] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # A connection with Python functions that outlives the interpreter makes DuckDB's
    # binding layer print pages of "leaked instances".
    for database in list(_OPEN):
        database.close()


def _let_go(database: Database) -> None:
    """Do nothing: that this was going to be called kept the database until now."""


class Database:
    """DuckDB in memory over one snapshot.

    The view ``activations`` has every schema column, with labels as they stand now and the
    vector as ``FLOAT[width]`` (``FLOAT[]`` where widths differ), and then ``row_id``, the
    row's number in the snapshot. Vectors are read from the map, for the rows that a query
    still needs them for.

    A query that names a field of ``extra`` (``extra.group``) runs on a view that has these
    fields as columns too (``own``); it is made when it is first asked for.

    Unless ``allow_external``, SQL reads nothing but the view and changes nothing: DuckDB's
    access to files, extensions and settings is off, and one reading statement is taken at
    a time.
    """

    def __init__(
        self, snapshot: Snapshot, *, allow_external: bool = False, own: bool = False
    ) -> None:
        self._snapshot = snapshot
        self._allow_external = allow_external
        self._own = own
        self._with_own: Database | None = None
        self._lock = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._functions = VectorFunctions(snapshot)
        self._pushed_down: dict[str, PushedDown | None] = {}

    def close(self) -> None:
        """Close the connection; relations that came from it can no longer be read."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if self._with_own is not None:
                self._with_own.close()
                self._with_own = None

    def relation(self, query: str, parameters: Parameters | None = None) -> duckdb.DuckDBPyRelation:
        """Return one statement as a lazy DuckDB relation.

        Args:
            query: one reading statement.
            parameters: values of ``$name`` (a mapping) or ``?`` (a sequence); vectors may
                be NumPy arrays or tensors.

        Raises:
            SqlError: the statement is refused or cannot be bound. What goes wrong later,
                while rows are fetched, is DuckDB's own error.
        """
        return self._relation(query, parameters)[1]

    def _relation(
        self, query: str, parameters: Parameters | None
    ) -> tuple[duckdb.DuckDBPyConnection, duckdb.DuckDBPyRelation]:
        """Return the connection that a statement runs on, and its relation."""
        if own_sql.mentions(query) and not self._own:
            return self._over_own_columns()._relation(query, parameters)
        with explained():
            # A cursor of its own: results of one connection end one another.
            cursor = self._connect().cursor()
            kind = self._check(cursor, query)
            if self._own and own_sql.mentions(query):
                query = own_sql.rewritten(cursor, query, self._snapshot.own_columns)
            found = None
            if kind == "SELECT":
                found = self._on_the_map(cursor, query, parameters)
            if found is None:
                found = cursor.sql(query, params=_plain(parameters))
        if found is None:
            raise SqlError("the statement returns no rows")
        # Whoever drops the store may still read the relation, which does not hold us.
        weakref.finalize(found, _let_go, self).atexit = False
        return cursor, found

    def table(self, query: str, parameters: Parameters | None = None) -> pa.Table:
        """Run one statement and return its rows as an Arrow table.

        Raises:
            SqlError: the statement is refused or fails.
        """
        with explained():
            cursor, relation = self._relation(query, parameters)
            with _heeding_ctrl_c(cursor):
                return relation.to_arrow_table()

    def reader(
        self, query: str, parameters: Parameters | None = None, rows: int = 10_000
    ) -> pa.RecordBatchReader:
        """Run one statement and return its rows as a stream of batches.

        Raises:
            SqlError: the statement is refused or fails, now or while batches are read.
        """
        import pyarrow as pa

        with explained():
            cursor, relation = self._relation(query, parameters)
            with _heeding_ctrl_c(cursor):
                reader = relation.to_arrow_reader(rows)

        def following() -> pa.RecordBatch | None:
            with explained(), _heeding_ctrl_c(cursor):
                return next(reader, None)

        def batches() -> Iterator[pa.RecordBatch]:
            while (batch := following()) is not None:
                yield batch
            relation.close()  # until then it keeps the connection

        return pa.RecordBatchReader.from_batches(reader.schema, batches())

    def _on_the_map(
        self, cursor: duckdb.DuckDBPyConnection, query: str, parameters: Parameters | None
    ) -> duckdb.DuckDBPyRelation | None:
        """Return the query with its vector arithmetic pushed down, if that can be done."""
        import duckdb

        if query not in self._pushed_down:
            if len(self._pushed_down) >= _KEPT_REWRITES:
                self._pushed_down.clear()
            self._pushed_down[query] = pushdown.push_down(cursor, query)
        faster = self._pushed_down[query]
        if faster is None:
            return None
        try:
            if isinstance(parameters, Mapping):
                # Four thousand numbers as a parameter cost DuckDB more than their product
                # with a thousand rows.
                handles = {
                    name: self._functions.handle(vector_math.as_query(parameters[vector]))
                    for name, vector in faster.handles.items()
                    # NULL, alone or within, or a list as text: DuckDB knows what to make of them.
                    if not _has_null(parameters[vector]) and not isinstance(parameters[vector], str)
                }
                left = {name: parameters[name] for name in faster.parameters - handles.keys()}
                values = {**_plain(left), **handles}
            else:
                values = _plain(parameters)
            return cursor.sql(faster.text, params=values)
        except UsageError as error:
            raise SqlError(str(error)) from error
        except (duckdb.Error, KeyError):
            return None  # the original says what is wrong, or does what this could not

    def _over_own_columns(self) -> Database:
        with self._lock:
            if self._with_own is None:
                self._with_own = Database(
                    self._snapshot, allow_external=self._allow_external, own=True
                )
            return self._with_own

    def _connect(self) -> duckdb.DuckDBPyConnection:
        # Made again if another commit's reader has cleared the cache; a cheap look if not.
        snapshot = self._snapshot
        path = snapshot.own_columns_file() if self._own else snapshot.metadata_file()
        with self._lock:
            if self._connection is None:
                self._connection = self._open(path)
                # Dropped without being closed it takes its functions with it, and what still
                # runs on it, such as a relation made from one of ours, would crash.
                weakref.finalize(self, self._connection.close).atexit = False
                _OPEN.add(self)
            return self._connection

    def _open(self, metadata: Path) -> duckdb.DuckDBPyConnection:
        import duckdb

        scratch = Path(tempfile.gettempdir()) / f"actstore-duckdb-{os.getpid()}-{id(self)}"
        connection = duckdb.connect(
            config={
                "python_enable_replacements": "false",
                "temp_directory": str(scratch),
            }
        )
        try:
            connection.execute("SET parquet_metadata_cache = true")
            # Pieces of work short enough that the main thread looks up for Ctrl-C between them.
            connection.execute("SET scheduler_process_partial = true")
            self._functions.register(connection)
            columns = [
                f"vector_at(file_row_number) AS {column.name}"
                if column.name == schema.VECTOR
                else column.name
                for column in schema.columns()
            ]
            own = self._snapshot.own_columns if self._own else {}
            columns += ["file_row_number AS row_id", *map(quoting.name, own)]
            source = quoting.text(str(metadata))
            connection.execute(
                f"CREATE VIEW {pushdown.VIEW} AS SELECT {', '.join(columns)} "
                f"FROM read_parquet({source}, file_row_number = true)"
            )
            if not self._allow_external:
                connection.execute(f"SET allowed_paths = [{source}]")
                connection.execute("SET enable_external_access = false")
                connection.execute("SET lock_configuration = true")
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, cursor: duckdb.DuckDBPyConnection, query: str) -> str:
        """Return the statement's kind.

        Raises:
            SqlError: there is not exactly one statement, or it would change something.
        """
        statements = cursor.extract_statements(query)
        if len(statements) != 1:
            raise SqlError(f"one SQL statement is expected, got {len(statements)}")
        statement = statements[0]
        kind = str(statement.type.name)
        if self._allow_external or kind == "SELECT":
            return kind
        if kind == "MULTI" and _PIVOT.match(statement.query):
            return kind
        if kind == "EXPLAIN":
            # EXPLAIN ANALYZE runs what it explains.
            opening = _EXPLAIN.match(statement.query)
            inner = statement.query[opening.end() :] if opening else ""
            if [found.type.name for found in cursor.extract_statements(inner)] == ["SELECT"]:
                return kind
        raise SqlError(
            f"only statements that read are allowed ({_READING}), got {kind}; "
            "--allow-external (allow_external=True) takes others"
        )


def _has_null(value: Any) -> bool:
    return value is None or (isinstance(value, list | tuple) and None in value)


def _plain(parameters: Parameters | None) -> Any:
    """Return parameters as DuckDB takes them: arrays, tensors and scalars become Python's."""
    if parameters is None:
        return None
    if isinstance(parameters, Mapping):
        return {name: _plain_value(value) for name, value in parameters.items()}
    return [_plain_value(value) for value in parameters]


def _plain_value(value: Any) -> Any:
    if hasattr(value, "detach"):  # a torch tensor
        value = value.detach().cpu()
    return value.tolist() if hasattr(value, "tolist") else value


@contextmanager
def _heeding_ctrl_c(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Let Ctrl-C end what runs on a connection.

    Python's exception alone does not always: where it comes as DuckDB takes what a function of
    ours has returned, it is lost, and the statement goes on.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        connection.interrupt()
        before(number, frame)

    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def explained() -> Iterator[None]:
    """Turn DuckDB's errors into ours, and an interrupted query into KeyboardInterrupt.

    Raises:
        SqlError: DuckDB refused or failed.
        DamageError: vectors that it asked for are damaged.
        CorruptStoreError: they cannot be read.
    """
    import duckdb

    try:
        yield
    except duckdb.InterruptException as error:
        raise KeyboardInterrupt from error
    except duckdb.Error as error:
        if "executing the UDF: KeyboardInterrupt" in str(error):  # it keeps no other trace of it
            raise KeyboardInterrupt from error
        message = _message(str(error))
        if "executing the UDF: DamageError" in str(error):
            raise DamageError(message, [(message.partition(" of ")[0], message)]) from error
        if "executing the UDF: CorruptStoreError" in str(error):
            raise CorruptStoreError(message) from error
        raise SqlError(message) from error
    except RuntimeError as error:
        if "interrupted" in str(error).lower():
            raise KeyboardInterrupt from error
        raise


def _message(text: str) -> str:
    """Return DuckDB's message in one line, without its picture of the query."""
    hint = sql_hints.advice(text)
    text = re.split(r"\n\s*LINE \d+:", text)[0]
    kind, _, rest = text.partition(":")
    text = rest if kind.endswith(("Error", "Exception")) else text
    if "while executing the UDF" in text:
        text = re.sub(r"^.*while executing the UDF: (\w+: )?", "", text, flags=re.DOTALL)
    if hint is not None:
        # DuckDB's own guesses are among all that it knows, ours among what a store has.
        text = re.split(r"\s*(?:Did you mean|Candidate (?:bindings|tables):)", text)[0]
        end = "" if text.rstrip().endswith(("!", ".")) else "."
        text = f"{text.rstrip()}{end} {hint}"
    text = " ".join(text.split())
    if "disabled by configuration" in text or "configuration has been locked" in text:
        return (
            "SQL may read the store and nothing else: "
            f"{text} (--allow-external or allow_external=True lifts this)"
        )
    if _UNREAD.match(text):
        return f"{text}. Nothing that is stored is lost: look at the disk, and run this again"
    if "Table with name" in text:
        return f"{text.split(' Did you mean')[0]} The store's table is {pushdown.VIEW}."
    return text
