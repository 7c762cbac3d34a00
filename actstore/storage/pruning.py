"""Removes old commits for good: their manifests, files and caches, and reports that quote rows."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actstore.errors import CorruptStoreError, DamageError, UsageError
from actstore.storage import (
    card,
    derived,
    files,
    layout,
    metadata_cache,
    shard_columns,
    soundness,
)
from actstore.storage import manifest as manifests
from actstore.storage.disk_errors import writing
from actstore.storage.lease import alone
from actstore.storage.manifest import Manifest
from actstore.storage.staging import planned_paths, prepare
from actstore.storage.turns import removing

_QUOTED = ("example_id", "question", "oracle", "prediction", "source", "extra")
"""Columns whose texts a report can quote; labels count where their example is gone."""
_TELLING = 8
"""Characters from which a text is also looked for inside longer ones."""
_LOCK = "lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What was removed from a store, and what holds the same rows and is not its to remove."""

    commits: tuple[int, ...] = ()
    held: tuple[int, ...] = ()
    """Commits that stay, with their files, because somebody is reading them."""
    files: tuple[str, ...] = ()
    """Shards and label overlays, by their path in the store."""
    bytes: int = 0
    """Of these."""
    caches: tuple[str, ...] = ()
    """Derived files, in the store or in the folder for temporary files."""
    reports: tuple[str, ...] = ()
    """Reports of ingests that quoted texts which no row has any longer."""
    repositories: tuple[str, ...] = ()
    """Repositories on the Hub that the store was pushed to or pulled from, as ``name@branch``."""
    foreign: tuple[str, ...] = ()
    """Files and folders beside the store's own, which were not looked into."""


def erase(
    root: Path,
    *,
    keep: int = 1,
    checked: Collection[str] = (),
    caches: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Erased:
    """Remove all but the newest ``keep`` commits, and all that only they needed or quoted.

    Files of the commits that stay are held against their manifests first: as long as one is
    damaged nothing is removed, since an older commit may hold the last sound copy of its rows.
    Manifests go before files, and reports before both: after a crash at any instant each commit
    that is there is whole, and the same call does the rest. A commit that is being read, in this
    process too, stays as it is.

    Args:
        root: folder of the store.
        keep: how many commits stay.
        checked: paths of files that the caller has just found sound.
        caches: empty the folder of derived files, but for the metadata of commits that stay.
        progress: called with the bytes checked so far.

    Raises:
        StoreNotFoundError: there is no store at ``root``.
        DamageError: a file of a commit that stays is missing or was changed.
        UsageError: ``keep`` is below one.
        CommitError: the store cannot be written.
    """
    if keep < 1:
        raise UsageError(f"at least one commit must be kept, got {keep}")
    manifests.load(root)
    prepare(root)
    with writing(root):
        return _erase(root, keep, checked, caches, progress)


def _erase(
    root: Path,
    keep: int,
    checked: Collection[str],
    caches: bool,
    progress: Callable[[int], None] | None,
) -> Erased:
    found = stored_files(root)
    segments = _stored_segments(root)
    # Files are listed before plans and manifests are read: whatever a living writer had
    # placed by then is named by its plan, or meanwhile by a commit.
    used = planned_paths(root)
    numbers = manifests.numbers(root)
    kept = manifests.load_all(root, lambda known: _staying(root, known, keep))
    old = sorted(set(numbers) - {each.number for each in kept})
    named = {path: entry for commit in kept for path, entry in commit.named.items()}
    unused = [path for path in found if path not in used | named.keys()]
    segments = [path for path in segments if path not in used | named.keys()]
    if old or unused:
        entries = [entry for path, entry in named.items() if path not in checked]
        try:
            soundness.check(root, entries, progress=progress)
        except DamageError:
            # Another pruning may have taken a commit, and then its files, since it was listed.
            if {each.number for each in kept} <= set(manifests.numbers(root)):
                raise
            return _erase(root, keep, checked, caches, progress)
    reports = _remove(root, _quoting_reports(root, unused, kept))
    stale = _named(root, filter(derived.discard, _stale_caches(root, kept)))
    if caches:
        stale += _remove_work(root)
    forgotten = []
    removed = []
    size = 0
    with removing(root):
        # Commits that were made since, or that somebody has begun to read.
        needed = manifests.load_all(root, lambda known: sorted(set(known) - set(numbers)))
        for number in old:
            manifest = layout.manifest_path(root, number)
            with alone(manifest) as nobody:
                if nobody:
                    manifest.unlink(missing_ok=True)
                    forgotten.append(number)
                else:
                    needed += filter(None, [manifests.load_if_there(root, number)])
        if forgotten:
            # Or a power failure could bring back a commit whose files are gone.
            layout.sync_folder(root / layout.MANIFESTS)
        still = {path for commit in needed for path in commit.named}
        for path in unused:
            if path not in still:
                with contextlib.suppress(FileNotFoundError):  # somebody has removed it by hand
                    size += (root / path).stat().st_size
                    (root / path).unlink()
                    removed.append(path)
        _remove(root, (root / path for path in segments if path not in still))
        _remove_empty(root)
    card.refresh(root)
    return Erased(
        commits=tuple(forgotten),
        held=tuple(number for number in numbers[:-keep] if number not in forgotten),
        files=tuple(removed),
        bytes=size,
        caches=stale,
        reports=reports,
        repositories=tuple(_repositories(root)),
        foreign=tuple(
            sorted(each.name for each in root.iterdir() if each.name not in layout.KNOWN)
        ),
    )


def _staying(root: Path, numbers: list[int], keep: int) -> list[int]:
    return [
        number
        for at, number in enumerate(numbers)
        if at >= len(numbers) - keep or _is_read(root, number)
    ]


def _is_read(root: Path, number: int) -> bool:
    with alone(layout.manifest_path(root, number)) as nobody:
        return not nobody


def _stored_segments(root: Path) -> list[str]:
    names = (path.relative_to(root).as_posix() for path in (root / layout.SEGMENTS).glob("*.json"))
    return sorted(filter(layout.is_segment, names))


def stored_files(root: Path) -> list[str]:
    """Return the paths of all shards and label overlays that are there, of any commit."""
    return sorted(
        file.relative_to(root).as_posix()
        for folder in (layout.ACTIVATIONS, layout.LABELS)
        for file in (root / folder).rglob("*.parquet")
    )


def _remove(root: Path, paths: Iterable[Path]) -> tuple[str, ...]:
    gone = list(paths)
    for path in gone:
        path.unlink(missing_ok=True)
    return _named(root, gone)


def _named(root: Path, paths: Iterable[Path]) -> tuple[str, ...]:
    """Return what to call files: by their path in the store if they lie there."""
    return tuple(
        path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
        for path in paths
    )


def _stale_caches(root: Path, kept: list[Manifest]) -> list[Path]:
    found = metadata_cache.others(root / layout.CACHE, kept)
    # Indexes hold vectors, be they of rows that are gone; they are built again when asked for.
    found += [path for path in (root / layout.CACHE).glob("*.usearch*") if path.is_file()]
    with contextlib.suppress(OSError):
        elsewhere = files.temporary_folder(str(root.resolve()))
        found += metadata_cache.others(elsewhere, kept)
        elsewhere.rmdir()  # unless there is something in it
    return found


def _remove_work(root: Path) -> tuple[str, ...]:
    """Remove what is in the cache folder beside metadata: what interrupted pulls have left.

    A pull that is under way holds its lock, and keeps its files.
    """
    gone = []
    for folder in sorted(each for each in (root / layout.CACHE).glob("*") if each.is_dir()):
        with contextlib.suppress(OSError):
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for path in folder.iterdir():
                    if path.name != _LOCK:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
                        gone.append(path.relative_to(root).as_posix())
            finally:
                os.close(lock)
    return tuple(gone)


def _remove_empty(root: Path) -> None:
    """Remove folders that no shard is in any longer: they are called after models and sites."""
    folders = [path for path in (root / layout.ACTIVATIONS).rglob("*") if path.is_dir()]
    for folder in sorted(folders, key=lambda path: -len(path.parts)):
        with contextlib.suppress(OSError):  # there is something in it
            folder.rmdir()


def _quoting_reports(root: Path, unused: list[str], kept: list[Manifest]) -> list[Path]:
    """Return the reports that quote a text of a row that goes and of none that stays."""
    reports = sorted((root / layout.REPORTS).glob("*.json"))
    shards = [path for path in unused if path.startswith(f"{layout.ACTIVATIONS}/")]
    if not reports or not shards:
        return []
    try:
        texts = _vanishing(root, shards, kept)
    except CorruptStoreError:
        return reports  # an old shard is damaged: who knows what was in it
    return [path for path in reports if texts and _quotes(path, texts)]


def _vanishing(root: Path, unused: list[str], kept: list[Manifest]) -> set[str]:
    columns = [*_QUOTED, "label"]
    before: dict[str, set[str]] = {name: set() for name in columns}
    labels: dict[str, set[str]] = {}
    for path in unused:
        table = _read(root, path, columns)
        for name in _QUOTED:
            before[name].update(filter(None, table[name].unique().to_pylist()))
        pairs = table.group_by(["example_id", "label"]).aggregate([])
        both = (pairs[name].to_pylist() for name in ("example_id", "label"))
        for example, label in zip(*both, strict=True):
            if label is not None:
                labels.setdefault(example, set()).add(label)
    live = {entry.path: entry for each in kept for entry in each.shards}
    stays: set[str] = set()
    for entry in live.values():
        table = shard_columns.read_columns(root, entry, columns)
        for name in _QUOTED:
            left = table[name].unique().to_pylist()
            before[name].difference_update(left)
        stays.update(filter(None, table["label"].unique().to_pylist()))
    texts = set().union(*(before[name] for name in _QUOTED))
    for example in before["example_id"]:
        texts |= labels.get(example, set()) - stays
    return texts


def _read(root: Path, path: str, columns: list[str]) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(root / path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise CorruptStoreError(f"{path} of {root} cannot be read: {error}", path) from error


def _quotes(report: Path, texts: set[str]) -> bool:
    try:
        found = set(_texts(json.loads(report.read_bytes())))
    except (OSError, ValueError, RecursionError):
        return True  # nobody can say what it holds
    if found & texts:
        return True
    everything = "\n".join(found)
    return any(len(text) >= _TELLING and text in everything for text in texts)


def _texts(value: Any) -> Iterator[str]:
    """Yield every text of a JSON document, names and numbers as text too."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif value is not None:
        yield str(value)


def _repositories(root: Path) -> Iterator[str]:
    for path in sorted((root / layout.REMOTES).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(path.read_bytes())
            yield f"{known['repository']}@{known['revision']}"
