"""Streams Hugging Face data sets: ``save_to_disk`` folders, Arrow files, folders of Parquet.

Read with pyarrow alone; importing ``datasets`` takes longer than most ingests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from actstore.errors import LayoutError, UnreadableFileError
from actstore.ingestion.containers.parquet import (
    BATCH_ROWS,
    TableSource,
    checked,
    damage_explained,
    different_columns,
    table,
    without_extensions,
)
from actstore.ingestion.containers.sniffing import describe, sniff

if TYPE_CHECKING:
    import pyarrow as pa

_SHARD: Final = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?\.parquet")
_DEFAULT_LIMIT: Final = 4 << 30


def read(path: Path, *, memory_limit: int) -> TableSource | dict[str, TableSource]:
    """The table of a data set, or ``{split: table}`` where it has several splits.

    ``path`` is a folder written by ``save_to_disk`` (a Dataset's or a DatasetDict's), a folder
    of Parquet files, one Arrow file or one Parquet file. Array2D columns come as lists of lists.
    Raises as :func:`actstore.ingestion.containers.read` says.
    """
    if not path.is_dir():
        return _file(path, memory_limit)
    if (path / "dataset_dict.json").is_file():
        splits = _json(path / "dataset_dict.json").get("splits")
        if not isinstance(splits, list) or not all(isinstance(name, str) for name in splits):
            raise UnreadableFileError(f"{path / 'dataset_dict.json'}: does not list its splits")
        return {name: _saved(path / _inside(path, name)) for name in splits}
    if (path / "state.json").is_file():
        return _saved(path)
    shards = sorted(path.rglob("*.parquet"))
    if shards:
        return _parquet_folder(path, shards, memory_limit)
    arrows = sorted(path.glob("*.arrow"))
    if arrows:
        return _arrow_table(arrows, path)
    raise UnreadableFileError(
        "holds no data set: neither state.json of save_to_disk nor Parquet files", path
    )


def schema(path: Path) -> pa.Schema:
    """The columns of a data set of one split; raises as :func:`read`."""
    return _single(path).schema


def batches(
    path: Path, columns: Sequence[str] | None = None, batch_rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """The record batches of a data set of one split; raises as :meth:`TableSource.batches`."""
    return _single(path).batches(columns, batch_rows)


def _single(path: Path) -> TableSource:
    found = read(Path(path), memory_limit=_DEFAULT_LIMIT)
    if isinstance(found, dict):
        raise LayoutError(f"has the splits {', '.join(found)}; read one of them", path)
    return found


def _file(path: Path, memory_limit: int) -> TableSource:
    kind = sniff(path)
    if kind == "parquet":
        return table([path], path, memory_limit=memory_limit)
    if kind == "huggingface":
        return _arrow_table([path], path)
    raise UnreadableFileError(f"is neither an Arrow nor a Parquet file but {describe(path)}", path)


def _saved(folder: Path) -> TableSource:
    state = _json(folder / "state.json")
    listed = state.get("_data_files")
    if not isinstance(listed, list) or not listed:
        raise UnreadableFileError(f"{folder / 'state.json'}: names no data files")
    if state.get("_indices_data_files"):
        # Written before datasets 2.0, where a selection was kept beside the whole table.
        raise LayoutError(
            f"{folder}: keeps its selection of rows apart; "
            "save it again with flatten_indices().save_to_disk()"
        )
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in listed]
    return _arrow_table([folder / _inside(folder, name) for name in names], folder)


def _inside(folder: Path, name: Any) -> str:
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise UnreadableFileError(f"{folder}: refers to {name!r:.80}, which is no name inside it")
    return name


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise UnreadableFileError(f"cannot be read: {error.strerror}", path) from error
    except (ValueError, RecursionError) as error:
        raise UnreadableFileError(f"is not JSON: {str(error)[:200]}", path) from error
    if not isinstance(found, dict):
        raise UnreadableFileError("is not a JSON object", path)
    return found


def _parquet_folder(
    path: Path, shards: list[Path], memory_limit: int
) -> TableSource | dict[str, TableSource]:
    splits: dict[str, list[Path]] = {}
    for shard in shards:
        match = _SHARD.fullmatch(shard.name)
        splits.setdefault(match["split"] if match else "", []).append(shard)
    if len(splits) > 1 and "" not in splits:
        return {
            split: table(files, path, memory_limit=memory_limit) for split, files in splits.items()
        }
    return table(shards, path, memory_limit=memory_limit)


def _arrow_table(files: Sequence[Path], path: Path) -> TableSource:
    found: pa.Schema | None = None
    for file in files:
        with damage_explained(file), _open(file) as reader:
            columns = without_extensions(reader.schema)
        if found is None:
            found = columns
        elif not found.equals(columns):
            raise different_columns(files[0], found, file, columns)
    if found is None:
        raise UnreadableFileError("holds no Arrow file", path)

    def stream(columns: Sequence[str] | None, batch_rows: int) -> Iterator[pa.RecordBatch]:
        for file in files:
            with damage_explained(file), _open(file) as reader:
                for batch in _batches(reader):
                    part = batch if columns is None else batch.select(list(columns))
                    part = checked(part, file)
                    for start in range(0, part.num_rows, batch_rows):
                        yield part.slice(start, batch_rows)

    return TableSource(path=path, files=tuple(files), schema=found, rows=None, stream=stream)


def _open(file: Path) -> Any:
    import pyarrow as pa

    source = pa.memory_map(str(file))
    # datasets writes the stream format; the file format begins with its name.
    if source.read(6) == b"ARROW1":
        source.seek(0)
        return pa.ipc.open_file(source)
    source.seek(0)
    return pa.ipc.open_stream(source)


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if hasattr(reader, "num_record_batches"):
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)
    else:
        yield from reader
