"""The cached metadata files of a store's latest commits: found, made and tidied."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from actstore.errors import ActstoreError, StoreError
from actstore.storage import derived, metadata_file, own_columns
from actstore.storage.derived import Derived
from actstore.storage.files import LocalFiles, StoreFiles
from actstore.storage.lease import pin
from actstore.storage.manifest import Manifest, ShardEntry
from actstore.storage.older_metadata import Older, identity

if TYPE_CHECKING:
    import pyarrow as pa

_KEPT = 3
_FORM = "row groups"
"""Part of a file's name: those that earlier versions made otherwise are not taken for it."""
_MANY = 64
"""Shards from which on their writer leaves their metadata behind: to read it takes a second."""
_FEW_ROWS = 100_000
"""Rows whose metadata a writer holds for that, at most."""


def cached_file(files: StoreFiles, manifest: Manifest) -> Derived:
    """Return the metadata file of a commit, made now if it is not there yet.

    Raises:
        CorruptStoreError: a shard or label file is missing or damaged.
        StoreError: there is no room for the file, in the store nor in the temporary folder.
    """
    name = _file_name(manifest)
    problems: list[str] = []
    for make in files.cache_folders():
        try:
            return _cached_in(make(), name, files, manifest)
        except OSError as error:  # read-only, full, or failing
            if isinstance(error, ActstoreError):
                raise
            problems.append(str(error))
    raise StoreError(
        f"there is no room for the metadata of {files.name}: {'; '.join(problems)}; make room, or "
        "set TMPDIR to a folder that has some and can be read and written"
    )


class Leavings:
    """The metadata of what a writer has written, for the first query to find it together.

    Of thousands of small shards it takes far longer to read than to keep: a footer each.
    """

    def __init__(self) -> None:
        self._tables: dict[str, pa.Table] = {}
        self._rows = 0

    def add(self, entry: ShardEntry, table: pa.Table | None) -> None:
        """Keep the metadata of a shard; None, or of other rows: it is in the file alone."""
        if self._rows <= _FEW_ROWS and table is not None and table.num_rows == entry.rows:
            self._tables[entry.path] = table
            self._rows += table.num_rows
        if self._rows > _FEW_ROWS:
            self._tables.clear()

    def leave(self, root: Path) -> None:
        """Make the metadata file of the latest commit, if there is much that it saves to read."""
        if len(self._tables) < _MANY:
            return
        with contextlib.suppress(OSError, ActstoreError):  # whoever asks for it makes it then
            manifest, lease = pin(root)
            with lease:
                cached_file(_Kept(root, self._tables), manifest).lease.release()


class _Kept(LocalFiles):
    """Files of a store of which some have their metadata in memory."""

    def __init__(self, root: Path, tables: Mapping[str, pa.Table]) -> None:
        super().__init__(root)
        self._tables = tables

    def table(self, entries: Sequence[ShardEntry], names: list[str]) -> pa.Table:
        import pyarrow as pa

        unread = [entry for entry in entries if entry.path not in self._tables]
        if len(unread) == len(entries):
            return super().table(entries, names)
        read = super().table(unread, names) if unread else None
        parts, start = [], 0
        for entry in entries:
            kept = self._tables.get(entry.path)
            if kept is not None:
                parts.append(kept.select(names))
            elif read is not None:
                parts.append(read.slice(start, entry.rows))
                start += entry.rows
        return pa.concat_tables(parts)


def _cached_in(folder: Path, name: str, files: StoreFiles, manifest: Manifest) -> Derived:
    found = derived.made(folder / name, lambda draft: _make(draft, folder, files, manifest))
    _remove_old(folder, found.path)
    return found


def _make(draft: Path, folder: Path, files: StoreFiles, manifest: Manifest) -> None:
    import pyarrow as pa

    previous = _best_previous(folder, manifest)
    if previous is not None:
        try:
            with contextlib.closing(previous):
                metadata_file.write(draft, files, manifest, previous)
            return
        except (OSError, EOFError, pa.ArrowException) as error:
            if isinstance(error, ActstoreError):
                raise
            # It is derived and may be damaged: do without.
    metadata_file.write(draft, files, manifest, None)


def _file_name(manifest: Manifest) -> str:
    parts = [_FORM, *map(identity, manifest.shards), *map(identity, manifest.labels)]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return f"metadata-{digest}.parquet"


def others(folder: Path, kept: Iterable[Manifest]) -> list[Path]:
    """Return the cached files in a folder, drafts too, that are not of one of these commits."""
    names = {_file_name(manifest) for manifest in kept}
    names |= {own_columns.path_of(Path(name)).name for name in names}
    patterns = ("metadata-*.parquet", "own-metadata-*.parquet", ".*metadata-*.parquet.*")
    found = [path for pattern in patterns for path in folder.glob(pattern)]
    return sorted(path for path in found if path.name not in names)


def _remove_old(folder: Path, newest: Path) -> None:
    others = [path for path in _newest_first(folder) if path != newest]
    for path in others[_KEPT - 1 :]:
        derived.discard(path)
        derived.discard(own_columns.path_of(path))


def _newest_first(folder: Path) -> list[Path]:
    found: list[tuple[float, Path]] = []
    for path in folder.glob("metadata-*.parquet"):
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)]


def _best_previous(folder: Path, manifest: Manifest) -> Older | None:
    """Return the newest cached file that the new one can be made from."""
    import pyarrow as pa

    for path in _newest_first(folder):
        if not derived.is_sound(path):
            continue
        try:
            found = Older(path)
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            continue
        if found.serves(manifest):
            return found
        found.close()
    return None
