"""What may be read because a recipe or a listing names it: the source, and folders allowed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from actstore import paths
from actstore.errors import UsageError
from actstore.ingestion import fetching


def whole(root: Path) -> Path:
    """Return the folder of a source: a repository is one, whichever folder of it is read."""
    fetcher = fetching.of(root)
    return root if fetcher is None else fetcher.root


@dataclass(frozen=True, slots=True)
class Gate:
    """The folders outside of a source from which its recipe may have files read."""

    allowed: tuple[Path, ...] = ()
    """Real paths of folders with all that lies in them, or of single files."""

    @classmethod
    def allowing(cls, folders: str | Path | Sequence[str | Path] | None) -> Self:
        """Return the gate that also lets through what lies in some folders.

        Raises:
            UsageError: one is no folder.
        """
        given = [folders] if isinstance(folders, str | Path) else list(folders or ())
        for folder in given:
            kind = paths.kind_of(paths.local(folder))
            if kind != "a folder":
                raise UsageError(
                    f"--allow-parent {folder}: is {kind or 'not there'}; name the folder whose "
                    "tables may be read"
                )
        return cls(tuple(paths.real(Path(folder)) for folder in given))

    def also(self, found: Iterable[Path]) -> Gate:
        """Return the gate that lets some more files or folders through."""
        return Gate((*self.allowed, *map(paths.real, found)))

    def within(self, root: Path) -> tuple[Path, ...]:
        """Return the real folders in which files named by a source at ``root`` may lie."""
        return (paths.real(whole(root)), *self.allowed)

    def admits(self, path: Path, root: Path) -> bool:
        """Say whether a file or folder may be read for a source at ``root``, links followed."""
        return paths.lies_in(path, self.within(root))
