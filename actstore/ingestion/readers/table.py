"""Reads tables with a vector column: Parquet files, Hugging Face data sets, other stores' shards.

Columns that bear the schema's names are taken as they are; the vector column's name tells
site and layer where it is a hook name (``blocks.3.hook_resid_post``, as SAELens writes), and
the layer alone where it is ``layer_3`` or ``L3``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.errors import ForeignFileError, LayoutError, UnreadableFileError
from actstore.ingestion import fetching
from actstore.ingestion.axes import CHUNK_BYTES, pooled
from actstore.ingestion.containers.parquet import TableSource
from actstore.ingestion.documents import to_json
from actstore.ingestion.expression import Reference
from actstore.ingestion.options import Pool, model_unknown
from actstore.ingestion.plan import effective_columns, expressions_of
from actstore.ingestion.readers import Context, Reader, reader
from actstore.ingestion.readers.scope import FileScope, column_value
from actstore.ingestion.recipe import ColumnSource, Recipe
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.values import convert
from actstore.ingestion.vector_columns import VectorColumn, Vectors, extract, vector_columns
from actstore.storage.own_columns import PREFIX
from actstore.storage.rows import RowBatch

if TYPE_CHECKING:
    import pyarrow as pa


_TOKENS = ("token_ids", "input_ids", "tokens")
_OWN = frozenset({"norm", "run_id"})
"""Columns that the store fills in by itself."""
_MOST_ROWS = 2048
_LAYER_ALONE = re.compile(r"(?:layers?[_.]?|L)(\d+)")
_SHARD = re.compile(r"-(\d+)-of-(\d+)")


class _TableFacts(NamedTuple):
    """What is known of a table before its rows are read."""

    split: str | None
    first_row: int
    """Number of the first row within the data set."""
    source: str


@reader("table")
class TableReader(Reader):
    """Streams the rows of a table, batch by batch."""

    streams = True

    def __init__(self, recipe: Recipe, context: Context) -> None:
        super().__init__(recipe, context)
        self._wanted = context.options.map.get(schema.VECTOR)
        self._columns = effective_columns(recipe.columns, context.options)
        joins = [each for side in recipe.sidecars for each in side.on.values()]
        taken = [each for source in self._columns.values() for each in expressions_of(source)]
        self.wanted = {
            ref.rest.partition(".")[0]
            for each in (*joins, *taken)
            for ref in each.references
            if ref.root == "file"
        }
        """Columns of the table that some expression takes."""

    def fits(self, document: Any) -> bool:
        """Say whether some table has a vector column."""
        try:
            return any(vector_columns(t.schema, self._wanted) for _, t in _tables(document))
        except LayoutError:
            return False

    def one_each(self, file: SourceFile) -> bool:
        """A table holds many examples."""
        return False

    def read(self, file: SourceFile, document: Any) -> Iterator[RowBatch]:
        """Yield the rows of all splits."""
        for split, table in _tables(document):
            chosen = self.chosen(table.schema)
            if not chosen:
                raise ForeignFileError(
                    f"no column holds vectors; the table has {', '.join(table.schema.names)} "
                    "(name one with --map activation=COLUMN)"
                )
            yield from self._table(file, table, chosen, self._place(file, table, split))

    def chosen(self, columns: pa.Schema) -> list[VectorColumn]:
        """Return the vector columns that are stored: the one that the user named, or all.

        Raises:
            LayoutError: the one that the user named is not there, or holds no vectors.
        """
        return vector_columns(columns, self._wanted)

    def _place(self, file: SourceFile, table: TableSource, split: str | None) -> _TableFacts:
        source = file.relative
        parent = file.path.parent
        if file.pattern.folder:
            source = source.rpartition("/")[0] or parent.name
            if (parent.parent / "dataset_dict.json").is_file():
                split = parent.name
        elif split is not None:
            source = f"{source}/{split}"
        first = 0
        if "example_id" not in table.schema.names:
            first = _rows_before(file)
        return _TableFacts(split or file.parts.get("split"), first, source)

    def _table(
        self, file: SourceFile, table: TableSource, chosen: list[VectorColumn], place: _TableFacts
    ) -> Iterator[RowBatch]:
        left = self.context.options.first_k
        row = place.first_row
        for batch in table.batches(batch_rows=_batch_rows(table, chosen)):
            if left is not None:
                batch = batch.slice(0, left)
                left -= batch.num_rows
            if batch.num_rows:
                rows = _Rows(self, file, batch, row, place, _class_names(table))
                for column in chosen:
                    yield rows.with_vectors(column)
                row += batch.num_rows
            if left == 0:
                return

    @property
    def columns(self) -> Mapping[str, ColumnSource]:
        """What the recipe and the user say about columns."""
        return self._columns


class _Rows:
    """The rows of one record batch."""

    def __init__(
        self,
        reader: TableReader,
        file: SourceFile,
        batch: pa.RecordBatch,
        first: int,
        place: _TableFacts,
        classes: Mapping[str, Sequence[str]],
    ) -> None:
        self._reader = reader
        self._context = reader.context
        self._file = file
        self._batch = batch
        self._first = first
        self._place = place
        self._classes = classes
        self._values: dict[str, list[Any]] = {}
        self._taken: set[str] = set()
        self._metadata = self._read_metadata()
        self._tokens = next((name for name in _TOKENS if name in batch.schema.names), None)

    def with_vectors(self, column: VectorColumn) -> RowBatch:
        """Return the rows with the vectors of one column.

        Raises:
            LayoutError: vectors are missing or differ in width.
            UsageError: the model is not recorded.
        """
        vectors = extract(column, self._batch.column(column.name), self._first)
        if self._context.shapes is not None:
            shape = (self._batch.num_rows, vectors.values.shape[1])
            key = f"{self._place.source}#{column.name}"
            self._context.shapes[key] = (shape, str(vectors.values.dtype))
        constants = self._constants(column)
        varying: dict[str, Sequence[Any]] = {
            name: values for name, values in self._metadata.items() if name not in constants
        }
        varying["extra"] = self._extra(column, vectors)
        pool = self._context.options.pool
        if vectors.counts is None:
            if pool is not None:
                self._context.notes.say(f"--pool {pool} changes nothing: one vector per row")
            return _batch(vectors.values, constants, varying)
        counts = vectors.counts.tolist()
        if self._tokens is None and len(counts) > 1 and {*counts} == {counts[0]}:
            self._context.notes.say(
                f"column {column.name!r}: {counts[0]} vectors in every row, taken for tokens; "
                "where they are layers, save each as a column of its own: layer_0, layer_1, …"
            )
        if pool is not None:
            constants |= {"pooling": pool, "position": None}
            varying.pop("position", None)
            varying["token_count"] = counts
            return _batch(_pooled(vectors, pool), constants, varying)
        repeated = {
            name: list(
                itertools.chain.from_iterable(
                    itertools.repeat(value, count)
                    for value, count in zip(values, counts, strict=True)
                )
            )
            for name, values in varying.items()
        }
        repeated["position"] = [position for count in counts for position in range(count)]
        repeated |= self._token_ids(counts)
        return _batch(vectors.values, {**constants, "pooling": "none"}, repeated)

    def _constants(self, column: VectorColumn) -> dict[str, Any]:
        known = self._metadata
        constants: dict[str, Any] = {}
        name = "" if column.name == schema.VECTOR else column.name
        alone = _LAYER_ALONE.fullmatch(name)
        site, layer = schema.canonical_site(name) if name else ("unknown", None)
        if alone is not None:  # as in files of matrices, the name of a layer is no site
            site, layer = "unknown", int(alone[1])
        constants.update({} if "site" in known else {"site": site})
        constants.update({} if "layer" in known else {"layer": layer})
        constants.update({} if "pooling" in known else {"pooling": "unknown"})
        if "source" not in known:
            constants["source"] = f"{self._place.source}#{column.name}"
        if "split" not in known:
            constants["split"] = self._place.split
        if any(model is None for model in known["model"]):
            raise model_unknown()
        return constants

    def _read_metadata(self) -> dict[str, list[Any]]:
        rows = self._batch.num_rows
        found: dict[str, list[Any]] = {}
        for name in schema.metadata_names():
            if name in _OWN or name == "extra":
                continue
            source = self._reader.columns.get(name)
            own = name in self._batch.schema.names
            fixed = getattr(self._context.options, name, None) is not None
            mapped = name in self._context.options.map or name in self._reader.recipe.columns
            if source is not None and (fixed or mapped or not own):
                values = self._evaluated(name, source)
                if fixed or mapped or any(value is not None for value in values):
                    found[name] = values
            elif own:
                found[name] = [convert(name, value) for value in self._column(name)]
        if "example_id" not in found:
            numbers = range(self._first, self._first + rows)
            found["example_id"] = [self._row_name(number) for number in numbers]
            found.setdefault("example_index", list(numbers))
        found.setdefault("model", [None] * rows)
        return found

    def _row_name(self, number: int) -> str:
        name = self._file.parts.get("name")
        return str(number) if name is None else f"{name}:{number}"

    def _evaluated(self, name: str, source: ColumnSource) -> list[Any]:
        references = tuple(ref for each in expressions_of(source) for ref in each.references)
        rows = self._batch.num_rows
        direct = _direct(source, references)
        if direct is not None:
            if direct not in self._batch.schema.names:
                raise LayoutError(
                    f"no column {direct!r} for {name}; the table has "
                    f"{', '.join(self._batch.schema.names)}"
                )
            return [convert(name, value) for value in self._column(direct)]
        if not any(ref.root in ("file", "sidecar", "column", "row") for ref in references):
            scope = FileScope(self._file, {}, {}, self._context)
            return [column_value(name, source, scope)] * rows
        wanted = self._reader.wanted | set(schema.metadata_names())
        columns = {own: self._column(own) for own in wanted if own in self._batch.schema.names}
        values = []
        for row in range(rows):
            document = {own: cells[row] for own, cells in columns.items()}
            scope = FileScope(self._file, document, self._reader.columns, self._context)
            scope.row = self._first + row
            values.append(column_value(name, source, scope))
        return values

    def _column(self, name: str) -> list[Any]:
        self._taken.add(name)
        if name not in self._values:
            values = self._batch.column(name).to_pylist()
            names = self._classes.get(name)
            if names is not None:
                values = [
                    names[value] if isinstance(value, int) and 0 <= value < len(names) else value
                    for value in values
                ]
            self._values[name] = values
        return self._values[name]

    def _extra(self, column: VectorColumn, vectors: Vectors) -> list[str | None]:
        import pyarrow as pa

        left: dict[str, list[Any]] = {}
        for field in self._batch.schema:
            name = field.name
            if name in self._taken or name in _OWN or name in ("extra", column.name, self._tokens):
                continue
            if name.startswith(PREFIX) and "extra" in self._batch.schema.names:
                continue  # an export's: they are fields of `extra`, taken out
            if "binary" in str(field.type):  # images and sound are no text
                self._context.notes.say(f"column {name!r} holds bytes and is left out")
            elif not vector_columns(pa.schema([field])):
                left[name] = self._batch.column(name).to_pylist()
            elif len(self._reader.chosen(self._batch.schema)) == 1:
                self._context.notes.say(f"vector column {name!r} is left out")
        if self._tokens is not None and vectors.counts is None:
            left[self._tokens] = self._batch.column(self._tokens).to_pylist()
        if "extra" in self._batch.schema.names:
            stored: list[str | None] = self._batch.column("extra").to_pylist()
            if not left:
                return stored
            left["extra"] = stored
        return [
            to_json({name: cells[row] for name, cells in left.items() if cells[row] is not None})
            for row in range(self._batch.num_rows)
        ]

    def _token_ids(self, counts: list[int]) -> dict[str, list[Any]]:
        if self._tokens is None or "token_id" in self._metadata:
            return {}
        flat: list[Any] = []
        for ids, count in zip(self._batch.column(self._tokens).to_pylist(), counts, strict=True):
            if not isinstance(ids, list) or len(ids) != count:
                got = len(ids) if isinstance(ids, list) else "no"
                raise LayoutError(f"column {self._tokens!r}: {got} ids for {count} vectors")
            flat += [convert("token_id", each) for each in ids]
        return {"token_id": flat}


def _tables(document: Any) -> list[tuple[str | None, TableSource]]:
    return list(document.items()) if isinstance(document, dict) else [(None, document)]


def _class_names(table: TableSource) -> dict[str, Sequence[str]]:
    """Return the names behind the numbers of Hugging Face's ClassLabel columns."""
    return {
        name: feature["names"]
        for name, feature in table.features.items()
        if isinstance(feature, dict)
        and feature.get("_type") == "ClassLabel"
        and isinstance(feature.get("names"), list)
    }


def _direct(source: ColumnSource, references: tuple[Reference, ...]) -> str | None:
    """Return the table's column that an expression takes unchanged, or None."""
    if len(references) != 1 or source.map or source.pattern or source.default is not None:
        return None
    alone = len(source.expression.pieces) == 1
    return references[0].rest if alone and references[0].root == "file" else None


def _batch_rows(table: TableSource, chosen: list[VectorColumn]) -> int:
    """Return how many rows make about :data:`CHUNK_BYTES` of vectors."""
    first = next(table.batches([column.name for column in chosen], 1), None)
    if first is None or not first.num_rows:
        return _MOST_ROWS
    size = sum(
        extract(column, first.column(column.name).slice(0, 1), 0).values.nbytes for column in chosen
    )
    return int(min(_MOST_ROWS, max(1, CHUNK_BYTES // max(1, size))))


def _rows_before(file: SourceFile) -> int:
    """Return how many rows the earlier shards of a table in several files hold.

    Raises:
        LayoutError: one of them is missing, so rows cannot be numbered.
    """
    shard, shards = file.parts.get("shard"), file.parts.get("shards")
    if not shard or shards is None:
        return 0
    import pyarrow as pa
    import pyarrow.parquet as pq

    prefix = _SHARD.split(file.path.name, maxsplit=1)[0]
    earlier: dict[int, Path] = {}
    for path in file.path.parent.iterdir():
        match = _SHARD.search(path.name)
        if match and path.name.startswith(prefix + match[0]) and int(match[2]) == shards:
            earlier[int(match[1])] = path
    rows = 0
    for number in range(shard):
        if number not in earlier:
            raise LayoutError(
                f"shard {number} of {shards} is missing, so its rows cannot be numbered; "
                "fetch it, or name ids with --map example_id=COLUMN"
            )
        try:
            with fetching.end_of(earlier[number]):
                rows += pq.read_metadata(earlier[number]).num_rows
        except (OSError, pa.ArrowException) as error:
            raise UnreadableFileError(
                f"{earlier[number].name}, which comes before it, cannot be read: {error}"
            ) from error
    return rows


def _pooled(vectors: Vectors, pool: Pool) -> np.ndarray:
    assert vectors.counts is not None
    if not vectors.counts.all():
        raise LayoutError("a row without any token cannot be pooled; leave such rows out")
    ends = np.cumsum(vectors.counts)
    starts = ends - vectors.counts
    return np.concatenate(
        [
            pooled(vectors.values[None, start:end], pool)
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ]
    )


def _batch(
    vectors: np.ndarray, constants: Mapping[str, Any], columns: Mapping[str, Sequence[Any]]
) -> RowBatch:
    return RowBatch(
        vectors=vectors,
        constants={name: value for name, value in constants.items() if name not in columns},
        columns=columns,
    )
