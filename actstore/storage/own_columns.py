"""Fields of the column ``extra`` as columns of their own, kept beside the metadata cache.

What a user's data brings beyond the schema stands in ``extra`` as a JSON object. Here each
field becomes a column ``extra.NAME``, objects within it ``extra.NAME.INNER``. A field has a
type where all its values agree: bool, int64, double (integers and decimals together, as long
as a double holds them exactly), string; of others, lists among them, each value is its JSON.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actstore.errors import StoreError
from actstore.storage import derived
from actstore.storage.derived import Derived
from actstore.storage.disk_errors import reading

if TYPE_CHECKING:
    import pyarrow as pa

PREFIX = "extra."
MOST = 1_000
"""Fields that become columns, the most frequent first."""
_DEPTH = 4
_SAMPLE = 1_000
"""Different texts that say what the others are like."""
_EXACT = 1 << 53
_LONGEST = (1 << 63) - 1
_COLUMN = "extra"


def own_file(metadata: Path) -> Derived | None:
    """Return a copy of a metadata file with the own columns behind the others, made if missing.

    None where no row has anything in ``extra``: then there are none.

    Args:
        metadata: a snapshot's metadata file, one row per row of the store.

    Raises:
        StoreError: there is no room for it, or one of the two files cannot be read.
    """
    path = path_of(metadata)
    try:
        if not path.exists() and _holds_no_extra(metadata):
            return None
        return derived.made(path, lambda draft: _write(metadata, draft))
    except OSError as error:
        raise StoreError(
            f"the fields of `extra` cannot be kept in {path}, made from {metadata.name}: {error}; "
            "make room, or see to the disk, and ask again"
        ) from error


def path_of(metadata: Path) -> Path:
    """Return where the copy of a metadata file lies."""
    return metadata.with_name(f"own-{metadata.name}")


def types(own: Path) -> dict[str, pa.DataType]:
    """Return the own columns of a file that :func:`own_file` made, with their types.

    Raises:
        ReadError: the system cannot read it.
    """
    import pyarrow.parquet as pq

    with reading(own, derived=True):
        found = pq.read_schema(own)
    return {name: found.field(name).type for name in found.names if name.startswith(PREFIX)}


def _holds_no_extra(metadata: Path) -> bool:
    """Say whether the column is null in every row, as the file's statistics know."""
    import pyarrow.parquet as pq

    footer = pq.read_metadata(metadata)
    at = footer.schema.names.index(_COLUMN)
    groups = [footer.row_group(group) for group in range(footer.num_row_groups)]
    return all(each.column(at).statistics.null_count == each.num_rows for each in groups)


def _write(metadata: Path, draft: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(metadata, memory_map=True, read_dictionary=[_COLUMN]) as file:
        column = file.read([_COLUMN])[_COLUMN].unify_dictionaries().combine_chunks()
        fields = _fields(column)
        plain = pq.ParquetFile(metadata, memory_map=True)
        target = plain.schema_arrow
        for name, values in fields.items():
            target = target.append(pa.field(PREFIX + name, values.type))
        with (
            plain,
            pq.ParquetWriter(
                draft,
                target,
                compression="snappy",
                write_statistics=derived.with_statistics(target),
                use_dictionary=[name for name in target.names if name != "norm"],
            ) as writer,
        ):
            first = 0
            for group in range(plain.num_row_groups):
                table = plain.read_row_group(group)
                codes = column.indices.slice(first, table.num_rows)
                own = [values.take(codes) for values in fields.values()]
                writer.write_table(
                    pa.Table.from_arrays([*table.columns, *own], schema=target),
                    row_group_size=table.num_rows or 1,
                )
                first += table.num_rows


def _fields(column: pa.DictionaryArray) -> dict[str, pa.Array]:
    """Return each field's value for each different text, most frequent fields first."""
    texts = column.dictionary
    found = _parsed_by_arrow(texts) if len(texts) > _SAMPLE else None
    found = _fields_of(texts) if found is None else found
    # The same name in two spellings is one column to SQL, so it is none of them.
    spellings = Counter(name.lower() for name in found)
    names = [
        name
        for name, values in found.items()
        if spellings[name.lower()] == 1 and values.null_count < len(values)
    ]
    names.sort(key=lambda name: found[name].null_count)
    return {name: found[name] for name in names[:MOST]}


def _fields_of(texts: pa.StringArray) -> dict[str, pa.Array]:
    """Return each field's value for each text, read by Python."""
    return {name: _typed(len(texts), *found) for name, found in _by_hand(texts).items()}


def _parsed_by_arrow(texts: pa.StringArray) -> dict[str, pa.Array] | None:
    """Return the fields by Arrow's reader of JSON, much faster; None where it would differ.

    The first texts say what to expect; a field that they lack, one of several types, lists
    and numbers that a double does not hold are left to Python.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import json as reader

    wanted = _nested({name: _kind(v) for name, (_, v) in _by_hand(texts[:_SAMPLE]).items()})
    if wanted is None:
        return None
    # A line break between tokens means nothing, and within a string there is none.
    lines = [text.replace("\n", " ") or "{}" for text in texts.to_pylist()]
    # Arrow's own memory, not Python's: its threads read it (shard_columns says why).
    joined = pa.array(["\n".join(lines)], pa.large_string())
    try:
        table = reader.read_json(
            pa.BufferReader(joined.buffers()[2]),
            parse_options=reader.ParseOptions(
                explicit_schema=wanted, unexpected_field_behavior="error"
            ),
        )
    except pa.ArrowException:
        return None
    if table.num_rows != len(texts):
        return None
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    doubles = [values for values in columns.values() if values.type == pa.float64()]
    if any((pc.max(pc.abs(values)).as_py() or 0) >= _EXACT for values in doubles):
        return None
    return columns


def _nested(kinds: dict[str, pa.DataType | None]) -> pa.Schema | None:
    """Return a schema with structs for dotted names; None where a field is not of one type."""
    import pyarrow as pa

    tree: dict[str, Any] = {}
    for name, kind in kinds.items():
        *path, last = name.split(".")
        place = tree
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                return None
        if last in place or kind is None:
            return None
        place[last] = kind

    def fields(tree: dict[str, Any]) -> list[pa.Field]:
        return [
            pa.field(name, pa.struct(fields(kind)) if isinstance(kind, dict) else kind)
            for name, kind in tree.items()
        ]

    return pa.schema(fields(tree)) if tree else None


def _by_hand(texts: pa.StringArray) -> dict[str, tuple[list[int], list[Any]]]:
    """Return by field the numbers of the texts that have it, and its values there."""
    found: dict[str, tuple[list[int], list[Any]]] = {}
    for number, text in enumerate(texts.to_pylist()):
        for name, value in _flat(_parsed(text), "", 0):
            places, values = found.setdefault(name, ([], []))
            places.append(number)
            values.append(value)
    return found


def _parsed(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _flat(value: dict[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict) and inner and depth < _DEPTH:
            yield from _flat(inner, f"{prefix}{name}.", depth + 1)
        else:
            yield _whole(prefix + name), inner


def _typed(length: int, places: list[int], values: list[Any]) -> pa.Array:
    import pyarrow as pa

    kind = _kind(values)
    if kind is None or kind == pa.string():
        values = [_text(value) for value in values]
    elif kind == pa.float64():
        values = [None if value is None else float(value) for value in values]
    column: list[Any] = [None] * length
    for place, value in zip(places, values, strict=True):
        column[place] = value
    return pa.array(column, kind or pa.string())


def _kind(values: list[Any]) -> pa.DataType | None:
    """Return the type that all values have; None for several, lists and objects."""
    import pyarrow as pa

    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int} and all(-_LONGEST <= v <= _LONGEST for v in values if v is not None):
        return pa.int64()
    if kinds and kinds <= {int, float} and all(map(_is_exact, values)):
        return pa.float64()
    return pa.string() if kinds <= {str} else None


def _is_exact(value: Any) -> bool:
    return not isinstance(value, int) or -_EXACT <= value <= _EXACT


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return _whole(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _whole(text: str) -> str:
    """Return a text with stray halves of characters, which no file can hold, as their escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
