"""What a layout says about its files, before any vector is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from actstore.errors import ExportError
from actstore.storage import strict_json

Gather = Callable[[np.ndarray], np.ndarray]
"""Returns the vectors of some row numbers, ``[rows, width]`` as stored."""


class Matrices(NamedTuple):
    """A file that is made from whole matrices."""

    path: str
    """Relative to the target, posix."""
    rows: Sequence[np.ndarray]
    """Row numbers of each matrix."""
    write: Callable[[Path, list[np.ndarray]], None]
    """Gets the file's path and the vectors of each entry of ``rows``."""


class Stream(NamedTuple):
    """A file that may be too large for memory: it asks for its vectors part by part."""

    path: str
    size: int
    """Rows that it will ask for."""
    write: Callable[[Path, Gather], None]


class TextFile(NamedTuple):
    """A file without vectors."""

    path: str
    content: str


File = Matrices | Stream | TextFile


@dataclass(slots=True)
class ExportNotes:
    """What the user should know beside the files; each said once."""

    lines: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Add a note."""
        if text not in self.lines:
            self.lines.append(text)


def checked_path(path: str) -> PurePosixPath:
    """Return a path that stays below the target.

    Raises:
        ExportError: it would lead out of it; a store may come from anyone.
    """
    pure = PurePosixPath(path)
    if (
        not pure.parts
        or pure.is_absolute()
        or ".." in pure.parts
        or "\0" in path
        or "\\" in path
        or any(len(part.encode()) > 255 for part in pure.parts)
    ):
        raise ExportError(
            f"the rows name {path!r} as their file, which does not lie below a folder; they "
            "were not written by an ingest: leave them out with --where"
        )
    return pure


def file_name(text: str) -> str:
    """Return text as one part of a path."""
    name = "".join("_" if c in '/\\\0:*?"<>|\n\r\t' else c for c in text).strip()
    name = name.encode("utf-8", "replace")[:200].decode("utf-8", "ignore")
    return name if name.strip(".") else f"_{name}"


def folder_name(identifier: str | None) -> str:
    """Return an id such as ``org/name`` as one folder, as the originals do."""
    return file_name((identifier or "unknown").replace("/", "__"))


def json_text(value: Any, indent: int | None = 2) -> str:
    """Return JSON as the originals write it."""
    return strict_json.dumps(value, indent=indent)


def json_lines(values: Sequence[Any]) -> str:
    """Return one JSON object per line."""
    return "".join(strict_json.dumps(value) + "\n" for value in values)


def listed(values: Sequence[Any], limit: int = 5) -> str:
    """Return some values for a message."""
    more = f" and {len(values) - limit:,} more" if len(values) > limit else ""
    return ", ".join(map(str, values[:limit])) + more


def home(paths: Sequence[str]) -> Iterator[str]:
    """Yield the folders where the tables of some files belong, each ending in ``/`` or empty.

    The target itself, or the files' own folders where there are several: their tables
    speak of different examples under the same ids.
    """
    folders = sorted({str(PurePosixPath(path).parent) for path in paths})
    if len(folders) == 1:
        yield ""
    else:
        yield from (f"{folder}/" if folder != "." else "" for folder in folders)
