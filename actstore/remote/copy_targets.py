"""Where a store is copied to: a folder or a bucket, which has it whole or as it was before."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from actstore import paths
from actstore.errors import CommitError, CorruptStoreError, UsageError
from actstore.remote import bucket_commits, meetings
from actstore.remote.address import is_address
from actstore.remote.bucket import Bucket
from actstore.remote.bucket_address import is_bucket, parse_bucket
from actstore.remote.bucket_commits import StoredCommit, manifest_name
from actstore.remote.bucket_pruning import GRACE
from actstore.remote.copy_sources import Commit
from actstore.remote.meetings import Meetings
from actstore.storage import card, layout, turns
from actstore.storage import manifest as manifests
from actstore.storage.disk_errors import content_of, writing
from actstore.storage.file_hashes import sha256_of
from actstore.storage.soundness import Named
from actstore.storage.staging import Staging, check_place, prepare
from actstore.storage.unfinished import passing_folder

_DRAFTS = "sync"
_LOCK = "lock"


class CopyTarget(Protocol):
    """A store that is copied to. Several threads put files at once."""

    name: str
    newest: StoredCommit | None
    """Its newest commit before the copying; None where there is no store yet."""

    @property
    def drafts(self) -> Path:
        """Where files may lie on their way: what is there survives an attempt that broke off."""

    def has(self, entry: Named) -> bool:
        """Say whether a file is there already."""

    def put(self, entry: Named, path: Path) -> None:
        """Put a sound file in its place. One among the drafts may be moved there."""

    def commit(self, commit: Commit) -> bool:
        """Make a commit; False where there is another one of that number.

        Raises:
            CommitError: its files, put there a while ago, are gone.
        """

    def numbers(self) -> list[int]:
        """Return the commits that are there now."""

    def finish(self, text: bytes | None) -> None:
        """Bring the card up to date; ``text`` is the source's."""

    def meetings(self) -> Meetings:
        """Return what it remembers of repositories."""

    def remember(self, carried: Meetings) -> None:
        """Let it remember this too."""


@contextlib.contextmanager
def copy_target(place: str | Path, *, dry_run: bool) -> Iterator[CopyTarget]:
    """Open a place to copy a store to.

    Raises:
        UsageError: it is on the Hub.
        StoreError: it is a folder that holds other things.
        BucketError: the bucket cannot be read, or ignores conditions.
    """
    if is_bucket(place):
        bucket = Bucket(parse_bucket(place))
        if not dry_run:
            bucket.check_conditions()
        with passing_folder("sync") as home:
            yield _ToBucket(bucket, home)
    elif is_address(str(place)):
        raise UsageError(f"{place} is on the Hub, which stores are pushed to: actstore push")
    else:
        root = paths.require_folder_or_nothing(paths.local_store(place))
        if dry_run:
            check_place(root)
            yield _ToFolder(root, None)
            return
        prepare(root)
        staging = Staging(root)  # marks the folder as being written to
        try:
            with _alone(root):
                yield _ToFolder(root, staging)
        finally:
            staging.close()


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keep a second copying into a folder out, and a pruning from its drafts."""
    folder = root / layout.CACHE / _DRAFTS
    with writing(root):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommitError(f"another sync into {root} is under way: wait for it") from None
        yield
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


class _ToFolder:
    def __init__(self, root: Path, staging: Staging | None) -> None:
        self.name = str(root)
        self.drafts = root / layout.CACHE / _DRAFTS
        self._root = root
        self._staging = staging
        self._known: set[tuple[str, str]] = set()
        self.newest: StoredCommit | None = None
        for number in self.numbers():
            found = manifests.load(root, number)
            self._known |= {(path, entry.sha256) for path, entry in found.named.items()}
            data = content_of(layout.manifest_path(root, number))
            self.newest = StoredCommit(number, data)

    def numbers(self) -> list[int]:
        return manifests.numbers(self._root)

    def has(self, entry: Named) -> bool:
        path = self._root / entry.path
        if not path.is_file() or path.stat().st_size != entry.bytes:
            return False
        return (entry.path, entry.sha256) in self._known or sha256_of(path)[0] == entry.sha256

    def put(self, entry: Named, path: Path) -> None:
        target = self._root / entry.path
        with writing(self._root):
            if path.parent != self.drafts:
                path = Path(shutil.copyfile(path, self.drafts / entry.sha256))
                if sha256_of(path) != (entry.sha256, entry.bytes):
                    raise CorruptStoreError(f"{entry.path} was changed while it was copied")
            layout.sync_file(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
            layout.sync_folder(target.parent)

    def commit(self, commit: Commit) -> bool:
        assert self._staging is not None
        target = layout.manifest_path(self._root, commit.manifest.number)
        draft = self._staging.folder / target.name
        with writing(self._root):
            _sync_folders(self._root / layout.ACTIVATIONS, self._root)
            layout.write_durably(draft, commit.data)
            with turns.naming(self._root):
                self._require(commit)
                before = self.newest.number if self.newest is not None else 0
                if before < commit.manifest.number < manifests.newest(self._root):
                    return False  # another writer's of this number may have been pruned since
                if not layout.link(draft, target):
                    return False
            layout.sync_folder(target.parent)
        return True

    def _require(self, commit: Commit) -> None:
        """Refuse to make a commit of files that a pruning has removed since they were put there."""
        for path in commit.manifest.named:
            if not (self._root / path).exists():
                raise CommitError(
                    f"{path} of {self._root} was pruned while commit {commit.manifest.number} was "
                    "copied: sync again, which brings what is missing"
                )

    def finish(self, text: bytes | None) -> None:
        if self.newest is None and text is not None:
            layout.replace_durably(self._root / layout.CARD, text)
        card.refresh(self._root)

    def meetings(self) -> Meetings:
        return meetings.in_folder(self._root)

    def remember(self, carried: Meetings) -> None:
        folder = self._root / layout.REMOTES
        with writing(self._root):
            folder.mkdir(exist_ok=True)
            for name, data in carried.items():
                layout.replace_durably(folder / name, data)


class _ToBucket:
    def __init__(self, bucket: Bucket, drafts: Path) -> None:
        self.name = str(bucket.address)
        self.drafts = drafts
        self._bucket = bucket
        self.newest = bucket_commits.newest(bucket)
        rooms = (layout.ACTIVATIONS, layout.LABELS, layout.SEGMENTS)
        found = [each for room in rooms for each in bucket.objects(room)]
        named = set()
        if self.newest is not None:
            named = set(bucket_commits.decode(self.newest, bucket).named)
        # Older ones that no commit names may be pruned before this copying ends.
        recent = datetime.now(UTC) - GRACE / 2
        self._sizes = {
            each.path: each.size for each in found if each.path in named or each.modified > recent
        }

    def numbers(self) -> list[int]:
        return bucket_commits.numbers(self._bucket)

    def has(self, entry: Named) -> bool:
        # Objects appear whole, and a name is given once: equal size is the same file.
        return self._sizes.get(entry.path) == entry.bytes

    def put(self, entry: Named, path: Path) -> None:
        self._bucket.put(entry.path, path)
        if path.parent == self.drafts:
            path.unlink()

    def commit(self, commit: Commit) -> bool:
        number = commit.manifest.number
        made = self._bucket.create(manifest_name(number), commit.data)
        if made and (self.newest is None or number > self.newest.number):
            bucket_commits.hint_at(self._bucket, number)
        return made

    def finish(self, text: bytes | None) -> None:
        if text is not None and text != self._bucket.read(layout.CARD, most=64 << 20):
            self._bucket.put(layout.CARD, text)

    def meetings(self) -> Meetings:
        return meetings.in_bucket(self._bucket)

    def remember(self, carried: Meetings) -> None:
        for name, data in carried.items():
            self._bucket.put(f"{layout.REMOTES}/{name}", data)


def _sync_folders(folder: Path, root: Path) -> None:
    """Make the names of all folders durable, up to the store's own."""
    for each in (*(path for path in folder.rglob("*") if path.is_dir()), folder, root):
        if each.is_dir():
            layout.sync_folder(each)
