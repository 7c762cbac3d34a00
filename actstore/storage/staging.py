"""Unfinished work of one writer: its folder, its lock, and cleaning up after dead writers."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from actstore import paths
from actstore.errors import ActstoreError, CommitError, PathError, StoreError
from actstore.storage import card, layout
from actstore.storage import manifest as manifests
from actstore.storage.disk_errors import writing
from actstore.storage.threads import disk, in_parallel

_LOCK = "lock"
_PLAN = "plan.json"
_NEW = ".new"
_LINK = "link"
_TRIES = 10
"""Of moving a file into a folder that others remove while it is empty."""
_FEW_FOLDERS = 3
"""Folders that are synced faster one by one than by threads."""
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class Staging:
    """A folder in the store for files that no commit names yet.

    Its lock is held while the writer lives, so the next writer can tell a dead one's
    leavings from work in progress. Before files are moved to their final place the plan
    is written, so that a crash between moving and committing leaves no orphans.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / layout.STAGING / layout.new_transaction()
        self._lock = -1
        self._placed: dict[str, None] = {}
        # Locked before it gets its name, or another writer could take it for abandoned.
        unnamed = self.folder.with_name(self.folder.name + _NEW)
        try:
            with writing(root):
                while self._lock < 0:
                    unnamed.mkdir(parents=True, exist_ok=True)
                    self._lock = _locked(unnamed / _LOCK)
                _check_links(root, unnamed)
                unnamed.rename(self.folder)
        except BaseException:
            if self._lock >= 0:
                os.close(self._lock)
            for folder in (unnamed, self.folder):
                shutil.rmtree(folder, ignore_errors=True)
            _remove_unused(root)
            raise

    def place(self, files: dict[str, Path]) -> None:
        """Move finished, synced files to their final paths (relative to the store).

        What was placed before and is not committed stays, and is remembered.

        Raises:
            CommitError: the disk is full or failed; nothing stays behind.
        """
        if not self._placed:
            self._base = manifests.newest(self.root)
        self._placed |= dict.fromkeys(files)
        plan = {"base": self._base, "paths": list(self._placed)}
        try:
            with writing(self.root):
                # In one step: a pruning that reads half a plan takes what was placed for nobody's.
                layout.replace_durably(self.folder / _PLAN, json.dumps(plan).encode())
                targets = {self.root / relative: source for relative, source in files.items()}
                for target, source in targets.items():
                    _move(source, target)
                # Those above too: another writer may have made them just now, and not synced them.
                _sync_folders({above for path in targets for above in _between(self.root, path)})
        except BaseException:
            self.withdraw()
            raise

    @property
    def placed(self) -> tuple[str, ...]:
        """Files that are in their place and that no commit names yet."""
        return tuple(self._placed)

    def take_back(self, path: str) -> None:
        """Remove one file that was placed, and that what is committed next does not name."""
        self._placed.pop(path, None)
        with contextlib.suppress(OSError):
            (self.root / path).unlink(missing_ok=True)

    def withdraw(self) -> None:
        """Remove what was placed and no commit names.

        An error or Ctrl-C may come just after the commit was made: then its files stay.
        """
        with contextlib.suppress(OSError, ActstoreError):
            _undo(self.root, self.folder)
            self.done()
        self._placed.clear()

    def done(self) -> None:
        """Forget the plan: what was placed is committed."""
        self._placed.clear()
        with contextlib.suppress(OSError):
            (self.folder / _PLAN).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder, and what was placed and not committed; give the lock back."""
        if self._lock >= 0:
            try:
                with contextlib.suppress(OSError, ActstoreError):
                    _undo(self.root, self.folder)
                    _remove(self.folder)
            finally:
                os.close(self._lock)
                self._lock = -1
                _remove_unused(self.root)


def _check_links(root: Path, folder: Path) -> None:
    """Refuse a file system without hard links before anything is written: commits are links.

    Raises:
        CommitError: it has none.
    """
    link = folder / _LINK
    try:
        os.link(folder / _LOCK, link)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise CommitError(
            f"the file system of {root} has no hard links ({error.strerror}), and a commit is one: "
            "put the store on another file system (FAT, exFAT and some network drives have none)"
        ) from error
    link.unlink()


def _locked(path: Path) -> int:
    """Lock a new file; -1 where another writer took it for a dead one's and removed it."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    except FileNotFoundError:  # its folder is gone
        return -1
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.samestat(os.fstat(lock), path.stat()):
            return lock
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return -1


def _remove_unused(root: Path) -> None:
    """Remove the folders of a store that never got a commit, where nobody else is writing."""
    with contextlib.suppress(OSError):
        if not manifests.newest(root):
            with contextlib.suppress(FileNotFoundError):
                (root / layout.SEGMENTS).rmdir()
            for folder in (root / layout.STAGING, root / layout.MANIFESTS, root):
                folder.rmdir()  # fails, and ends this, as soon as one is not empty


def _remove(folder: Path) -> None:
    """Remove a staging folder, its lock last: a crash midway leaves it for the next writer."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name != _LOCK:
                path.unlink()
        (folder / _LOCK).unlink(missing_ok=True)
        folder.rmdir()


def _move(source: Path, target: Path) -> None:
    """Move a file, into a folder that is made if it is not there."""
    for tried in range(_TRIES):
        try:
            source.rename(target)
            return
        except FileNotFoundError:
            if tried == _TRIES - 1 or not source.exists():
                raise
        with contextlib.suppress(FileNotFoundError):  # a prune has just removed an empty one
            target.parent.mkdir(parents=True, exist_ok=True)


def _between(root: Path, path: Path) -> Iterator[Path]:
    """Return the folders that a file lies in, up to that of its store."""
    for folder in path.parents:
        yield folder
        if folder == root:
            return


def _sync_folders(folders: Collection[Path]) -> None:
    """Make the names in folders durable, side by side: the disk's journal is written once."""
    if len(folders) < _FEW_FOLDERS:
        for folder in folders:
            layout.sync_folder(folder)
    else:
        in_parallel(layout.sync_folder, folders, disk)


def prepare(root: Path) -> None:
    """Make the store's folders, after clearing what dead writers left.

    Raises:
        PathError: the path is an address, a file, or none at all.
        StoreError: it is a folder that holds other things.
        CommitError: it cannot be written.
    """
    paths.require_folder_or_nothing(root)
    with writing(root):
        check_place(root)
        _make(root)
        if not (root / layout.MANIFESTS).is_dir():
            (root / layout.MANIFESTS).mkdir(exist_ok=True)
            layout.sync_folder(root)
        recover(root)
        card.catch_up(root)


def _make(root: Path) -> None:
    """Make a store's folder and those above it, so that their names outlast a power failure."""
    missing = [folder for folder in (root, *root.parents) if not folder.is_dir()]
    root.mkdir(parents=True, exist_ok=True)
    _sync_folders({folder.parent for folder in missing})


def check_place(root: Path) -> None:
    """Refuse a path that is no store and cannot become one.

    Raises:
        StoreError: the path is a file, or a folder that holds other things.
        PathError: it lies in the folder of a store, or its name is not UTF-8.
    """
    try:
        os.fspath(root).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(root).decode("utf-8", "backslashreplace")
        raise PathError(
            f"{shown}: the name is not UTF-8, and what reads Parquet opens no other: give the "
            "store another name"
        ) from None
    if root.exists() and not root.is_dir():
        raise StoreError(f"{root} is a file: give --store a folder")
    if (root / layout.MANIFESTS).is_dir():
        return
    around = layout.store_around(root)
    if around is not None:
        raise PathError(
            f"{root} lies in the store {around}, which removes what is not its own when it is "
            "pruned: choose a place outside of it"
        )
    if root.exists():
        foreign = sorted(child.name for child in root.iterdir() if child.name not in layout.KNOWN)
        if foreign:
            raise StoreError(
                f"{root} is no store and not empty (it holds {', '.join(foreign[:3])}): "
                "give --store a new or empty folder"
            )


def recover(root: Path) -> int:
    """Remove what writers that died have left; live writers' work is not touched.

    Returns how many they were.
    """
    home = root / layout.STAGING
    if not home.is_dir():
        return 0
    dead = 0
    for folder in sorted(home.iterdir()):
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except NotADirectoryError:
            continue
        except FileNotFoundError:
            with contextlib.suppress(OSError):
                folder.rmdir()  # its writer has just made it or was removing it, or died then
            if folder.exists() and not (folder / _LOCK).exists():
                # The lock is the first file that comes and the last that goes: without it the
                # rest is what a power failure left.
                _undo(root, folder)
                shutil.rmtree(folder, ignore_errors=True)
                dead += 1
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            _undo(root, folder)
            _remove(folder)
            dead += 1
        finally:
            os.close(lock)
    return dead


def is_held(folder: Path) -> bool:
    """Say whether the writer of a staging folder is seen from here, and seen to be alive.

    From another machine it is only where both see one file system with locks that count for
    both: elsewhere writers would take each other for dead.
    """
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(lock)
    return False


def planned_paths(root: Path) -> set[str]:
    """Return the files that living writers have placed or are about to place."""
    found: set[str] = set()
    for path in (root / layout.STAGING).glob(f"*/{_PLAN}"):
        plan = _read_plan(path)
        if plan is not None:
            found |= set(plan.paths)
    return found


class _Intent(NamedTuple):
    """Files about to be placed."""

    base: int
    """Number of the latest commit before."""
    paths: list[str]


def _read_plan(path: Path) -> _Intent | None:
    """Return a plan; None when there is none, or none that this program has written."""
    try:
        plan = _Intent(**json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    own = isinstance(plan.base, int) and isinstance(plan.paths, list)
    # Its files get removed, and the store may come from somebody else.
    return plan if own and all(map(_is_ours, plan.paths)) else None


def _is_ours(path: object) -> bool:
    if not isinstance(path, str) or not manifests.is_inside(path):
        return False
    inside = path.startswith((f"{layout.ACTIVATIONS}/", f"{layout.LABELS}/"))
    return (inside and path.endswith(".parquet")) or layout.is_segment(path)


def _undo(root: Path, folder: Path) -> None:
    """Remove files that a dead writer placed and never committed."""
    plan = _read_plan(folder / _PLAN)
    if plan is None:
        return
    later = manifests.load_all(root, lambda numbers: [each for each in numbers if each > plan.base])
    committed = {path for commit in later for path in commit.named}
    for path in plan.paths:
        if path not in committed:
            (root / path).unlink(missing_ok=True)
