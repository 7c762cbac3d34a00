"""What the tests of dropping, renaming and going back share: what a store still holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from actstore.storage import manifest as manifests
from actstore.storage import shard_columns
from actstore.storage.snapshot import Snapshot


def rows_of(source: Path | Snapshot, **wanted: Any) -> np.ndarray:
    """Return the numbers of the rows with these values, of a snapshot or of the latest commit."""
    root = source if isinstance(source, Path) else source.root
    latest = manifests.latest(source) if isinstance(source, Path) else source.manifest
    fits = np.ones(latest.rows, bool)
    for name, value in wanted.items():
        tables = [shard_columns.read_columns(root, entry, [name]) for entry in latest.shards]
        cells = [cell for table in tables for cell in table[name].to_pylist()]
        fits &= np.array([cell == value for cell in cells], bool)
    return np.flatnonzero(fits)


def holds(folder: Path, text: str) -> list[str]:
    """Return the files below a folder that hold a text: in a name, their bytes, or unpacked."""
    found = []
    for path in sorted(folder.rglob("*")):
        inside = text in str(path.relative_to(folder))
        if path.is_file():
            inside |= text.encode() in path.read_bytes()
            if path.suffix == ".parquet":
                file = pq.ParquetFile(path)
                inside |= text in str(file.metadata.metadata)
                table = file.read()
                for name in table.column_names:
                    if name != "activation":
                        inside |= any(text in str(cell) for cell in table[name].to_pylist())
        if inside:
            found.append(path.relative_to(folder).as_posix())
    return found


def flip(path: Path, at: int = -1) -> None:
    """Turn one bit of a file; by default in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at < 0 else at] ^= 1
    path.write_bytes(data)


def files_of(root: Path) -> dict[str, bytes]:
    """Return all files of a store but derived ones, by path."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".cache" not in path.parts and ".staging" not in path.parts
    }


def commits(root: Path) -> list[tuple[str, str]]:
    """Return operation and message of each commit."""
    every = (manifests.load(root, number) for number in manifests.numbers(root))
    return [(each.operation, each.message) for each in every]
