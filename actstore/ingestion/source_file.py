"""The files of a source: as they were seen, and as a recipe's path template sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from actstore.ingestion.recipe import FilePattern

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file that was seen; its path is made when it is asked for, since there may be millions."""

    root: Path
    """The SOURCE it was found under (its folder, where SOURCE is a file)."""
    tail: str
    """Where it lies in there, as the system spells it."""
    relative: str
    """The same as text that can be shown and stored."""
    size: int

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.root / self.tail

    @property
    def spelled(self) -> str:
        """The same as text."""
        return f"{self.root.as_posix().rstrip('/')}/{self.tail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file that fits a recipe's path template."""

    path: Path
    relative: str
    """Posix path relative to SOURCE."""
    parts: Mapping[str, Any]
    """Named parts of the template and the pattern's constants."""
    pattern: FilePattern
    root: Path
    """The SOURCE it was found under (its folder, where SOURCE is a file)."""
    folder: Path
    """The cache's folder: what precedes the template's first part."""
    cache: str | None = None
    """Name of that folder, where the source holds several caches."""
    size: int = 0
    """Bytes on disk."""

    @property
    def content(self) -> Path:
        """What the container opens: the file, or the folder that it stands for."""
        return self.path.parent if self.pattern.folder else self.path


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most ``count`` items, the first and last among them, evenly spaced."""
    if len(items) <= count:
        return list(items)
    return [items[number * (len(items) - 1) // (count - 1)] for number in range(count)]
