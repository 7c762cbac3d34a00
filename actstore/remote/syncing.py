"""Copies a store's commits from one place to another: what is missing, checked, in order."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from actstore.errors import CorruptStoreError, DivergedError, UsageError
from actstore.remote.copy_sources import Commit, CopySource, copy_source
from actstore.remote.copy_targets import CopyTarget, copy_target
from actstore.remote.meetings import to_carry
from actstore.storage import layout
from actstore.storage.soundness import Named
from actstore.storage.threads import Pool
from actstore.wording import counted

Progress = Callable[[int, int], None]
"""Given the bytes that are there and those that there will be."""
_FILES = 4
"""Files on their way at once."""
_ROOMS = (f"{layout.ACTIVATIONS}/", f"{layout.LABELS}/")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/ -]*\.parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """What a copying did, or would do."""

    source: str
    target: str
    commit: int
    """The newest commit of both now."""
    commits: tuple[int, ...]
    """Commits that the target did not have."""
    files: int
    """Shards and label overlays that were copied."""
    bytes: int
    """Of these."""
    there: int
    """Files of these commits that were there already."""
    rows: int
    """Rows of the newest commit."""
    dry_run: bool


def sync(
    source: str | Path,
    target: str | Path,
    *,
    snapshots: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Synced:
    """Bring a place up to the newest commit of a store.

    The target ends as the same store, commit for commit: same numbers, same bytes. A target
    that has a store already gets every commit that came since; an empty one the newest alone,
    unless ``snapshots`` asks for the older ones too. Files come first and are checked against
    their SHA-256 on the way, commits after them in their order: at whatever instant it ends,
    the target is a whole store, and the same call goes on from there. What the source remembers
    of repositories goes along, so that a push out of the target knows what was there before.

    Args:
        source: a folder, an address in a bucket, or one on the Hub.
        target: a folder or an address in a bucket; made when missing.
        snapshots: copy all older commits too that the source has.
        dry_run: change nothing; say what would be done.
        progress: told how much is there.

    Raises:
        UsageError: both are the same, or the target is on the Hub.
        StoreNotFoundError: the source is no store.
        DivergedError: the target has commits of its own.
        DamageError, BucketFileError, RemoteStoreError: a file of the source is damaged.
        ActstoreError: one of the two cannot be read or written.
    """
    if _same(source, target):
        raise UsageError(f"{source} is both the source and the target")
    with closing(copy_source(source)) as one, copy_target(target, dry_run=dry_run) as other:
        numbers = _to_copy(one, other, snapshots)
        commits = [one.commit(number) for number in numbers]
        newest = one.commit(one.numbers[-1])
        copying = _Copying(one, other, commits, progress)
        if not dry_run:
            copying.run()
            other.finish(one.card())
            pulled = any(each.manifest.operation == "pull" for each in commits)
            if known := one.meetings():
                other.remember(to_carry(known, other.meetings(), pulled=pulled))
        return Synced(
            source=one.name,
            target=other.name,
            commit=newest.manifest.number,
            commits=tuple(numbers),
            files=len(copying.missing),
            bytes=sum(entry.bytes for entry in copying.missing),
            there=copying.there,
            rows=newest.manifest.rows,
            dry_run=dry_run,
        )


def _same(source: str | Path, target: str | Path) -> bool:
    return str(source).rstrip("/") == str(target).rstrip("/") or (
        Path(source).exists() and Path(target).exists() and Path(source).samefile(target)
    )


def _to_copy(source: CopySource, target: CopyTarget, snapshots: bool) -> list[int]:
    """Return the commits that the target lacks.

    Raises:
        DivergedError: it is no earlier state of the source.
    """
    newest = target.newest
    if newest is None:
        return source.numbers if snapshots else source.numbers[-1:]
    apart = (
        f"{target.name} is at commit {newest.number}, and that is no commit of {source.name}: each "
        "has commits that the other lacks, and a copy would lose some. Sync into another place"
    )
    if newest.number not in source.numbers:
        if newest.number < source.numbers[0]:
            raise DivergedError(
                f"{source.name} no longer has commit {newest.number}, at which {target.name} is, "
                "nor what came after it (they were pruned), so nobody can say that the one came of "
                "the other: sync into another place"
            )
        raise DivergedError(apart)
    if source.commit(newest.number).data != newest.data:
        raise DivergedError(apart)
    later = [number for number in source.numbers if number > newest.number]
    if later and later != list(range(newest.number + 1, later[-1] + 1)):
        # Another writer could take a number in between, and be overlooked.
        raise DivergedError(
            f"{source.name} no longer has all commits from {newest.number + 1} to {later[-1]} "
            f"(some were pruned), so {target.name} cannot be brought from {newest.number} to "
            f"{later[-1]} commit by commit: sync into another place"
        )
    if snapshots:
        there = set(target.numbers())
        return [number for number in source.numbers if number not in there]
    return later


class _Copying:
    """The files of some commits on their way."""

    def __init__(
        self,
        source: CopySource,
        target: CopyTarget,
        commits: list[Commit],
        progress: Progress | None,
    ) -> None:
        self._source = source
        self._target = target
        self._commits = commits
        self._progress = progress
        self._lock = threading.Lock()
        self._here = 0
        files: dict[str, Named] = {}
        for each in commits:
            files |= each.manifest.named
        for path in files:
            # What is written goes by these names, and the store may be somebody else's.
            rows = path.startswith(_ROOMS) and _FILE.fullmatch(path)
            if not rows and not layout.is_segment(path):
                raise CorruptStoreError(
                    f"{source.name} names a file {path[:200]!r}, which no store has"
                )
        self.missing = [entry for entry in files.values() if not target.has(entry)]
        self.there = len(files) - len(self.missing)
        self._total = sum(entry.bytes for entry in self.missing)

    def run(self) -> None:
        """Copy the files, then make the commits."""

        def copy(alike: list[Named]) -> None:
            for entry in alike:
                draft = self._target.drafts / entry.sha256
                self._target.put(entry, self._source.fetch(entry, draft, self._advance))

        # Files of one content, such as labels that were set twice, share a draft.
        by_content: dict[str, list[Named]] = {}
        for entry in self.missing:
            by_content.setdefault(entry.sha256, []).append(entry)
        with Pool(_FILES) as pool:
            for _ in pool.map(copy, by_content.values()):
                pass
        wanted = {commit.manifest.number for commit in self._commits}
        for commit in self._commits:
            if not self._target.commit(commit):
                raise self._overtaken(commit.manifest.number)
        first = self._target.newest.number if self._target.newest else 0
        strange = [
            number
            for number in self._target.numbers()
            if number > first and number not in wanted and number < (max(wanted, default=0))
        ]
        if strange:
            raise self._overtaken(strange[0])

    def _overtaken(self, number: int) -> DivergedError:
        return DivergedError(
            f"another writer has made commit {number} of {self._target.name} meanwhile: what was "
            f"copied before stands, and {counted(len(self.missing), 'file')} need not be copied "
            "again; keep one of the two apart, nothing was lost"
        )

    def _advance(self, more: int) -> None:
        with self._lock:
            self._here += more
            here = self._here
        if self._progress is not None:
            self._progress(here, self._total)
