"""A folder to work on a store that lies in a bucket: what is new is uploaded, then committed."""

from __future__ import annotations

import contextlib
import random
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from actstore import paths
from actstore.errors import ActstoreError, BucketFileError
from actstore.remote import bucket_commits, meetings
from actstore.remote import cache as caches
from actstore.remote.bucket import Bucket
from actstore.remote.bucket_address import is_bucket, parse_bucket
from actstore.remote.bucket_commits import StoredCommit, manifest_name
from actstore.remote.bucket_source import BucketSource
from actstore.remote.files import RemoteFiles
from actstore.storage import backing, layout
from actstore.storage import manifest as manifests
from actstore.storage.manifest import LabelEntry, Manifest, ShardEntry
from actstore.storage.mapping import ShardReader
from actstore.storage.threads import Pool
from actstore.storage.unfinished import passing_folder

if TYPE_CHECKING:
    import pyarrow as pa

_UPLOADS = 8
"""Files uploaded side by side; large ones go up in parts, several at once, besides."""
_LONGEST_WAIT = 1.0
"""Seconds that a writer who came second waits at most before it tries again, at first."""
_READS = 16


@contextlib.contextmanager
def working(
    place: str | Path,
    *,
    there: bool = False,
    at: int | None = None,
    history: bool = False,
    dry: bool = False,
) -> Iterator[Path]:
    """Give a store as a folder to write to while the block runs, wherever it lies.

    A store on this machine is its own folder. One in a bucket gets a temporary folder with the
    manifest of its latest commit: what is read comes from the bucket, what is committed goes
    there, and the folder is gone afterwards. Files that wait for a commit lie in it: TMPDIR says
    where there is room for them.

    Args:
        place: a folder, or an address in a bucket.
        there: whether nothing can be done where there is no store yet.
        at: number of an earlier commit to have in the folder too.
        history: have the manifests of all commits in the folder, and what the store remembers of
            repositories that it was pushed to.
        dry: whether nothing will be written, so that nobody asks whether it could be.

    Raises:
        PathError: it is an address of another kind.
        StoreNotFoundError, SnapshotNotFoundError: there is no store, or no commit ``at``, in the
            bucket, and one is needed.
        BucketConditionError: the server ignores conditions, so that commits could be lost.
        BucketError: the bucket cannot be read or written.
    """
    if not is_bucket(place):
        yield paths.local_store(place)
        return
    with _standing_in(place, dry=dry) as behind:
        found = bucket_commits.newest(behind.bucket)
        if found is not None:
            behind.keep(found)
        elif there:
            bucket_commits.read_commit(behind.bucket)  # says what is there instead
        if at is not None:
            behind.keep(bucket_commits.read_commit(behind.bucket, at))
        if history:
            behind.keep_history()
            behind.keep_remotes()
        yield behind.root
        behind.keep_reports()


@contextlib.contextmanager
def looking(place: str | Path, at: int | None = None, *, history: bool = False) -> Iterator[Path]:
    """Give a store as a folder to read from while the block runs, wherever it lies.

    Args:
        place: a folder, or an address in a bucket.
        at: number of the commit; the latest when missing.
        history: have the manifests of all commits in the folder.

    Raises:
        PathError: it is an address of another kind.
        StoreNotFoundError, SnapshotNotFoundError: there is none in the bucket.
        BucketError: the bucket cannot be read.
    """
    if not is_bucket(place):
        yield paths.local_store(place)
        return
    with _standing_in(place, dry=True) as behind:
        behind.keep(bucket_commits.read_commit(behind.bucket, at))
        if history:
            behind.keep_history()
        yield behind.root


@contextlib.contextmanager
def repairing(place: str | Path, *, dry: bool = False) -> Iterator[Path]:
    """Give a store as a folder to repair while the block runs, wherever it lies.

    Of one in a bucket the folder has the manifests of all commits, and what they share, sound or
    not.

    Args:
        place: a folder, or an address in a bucket.
        dry: whether nothing will be written.

    Raises:
        PathError, BucketConditionError, BucketError: as :func:`working`.
        StoreNotFoundError: there is no store in the bucket.
    """
    if not is_bucket(place):
        yield paths.local_store(place)
        return
    with _standing_in(place, dry=dry) as behind:
        if not behind.keep_as_it_is():
            bucket_commits.read_commit(behind.bucket)  # says what is there instead
        yield behind.root


@contextlib.contextmanager
def _standing_in(place: str | Path, *, dry: bool) -> Iterator[BucketBacking]:
    bucket = Bucket(parse_bucket(place))
    # So that what names the folder nevertheless says which store is meant.
    name = layout.slug(bucket.address.prefix.rpartition("/")[2] or bucket.address.bucket)
    with passing_folder(name) as home:
        root = home / name
        (root / layout.MANIFESTS).mkdir(parents=True)
        behind = BucketBacking(bucket, root)
        with backing.standing_for(root, behind), _named(root, bucket):
            if not dry:
                bucket.check_conditions()
            yield behind


@contextlib.contextmanager
def _named(root: Path, bucket: Bucket) -> Iterator[None]:
    """Let errors name the store, not the folder that stands for it."""
    try:
        yield
    except ActstoreError as error:
        if error.args:
            error.args = (
                str(error.args[0]).replace(str(root), str(bucket.address)),
                *error.args[1:],
            )
        raise


class BucketBacking:
    """A store in a bucket that a folder stands for.

    Args:
        bucket: the store.
        root: the folder.
    """

    def __init__(self, bucket: Bucket, root: Path) -> None:
        self.bucket = bucket
        self.root = root
        self._files = RemoteFiles(BucketSource(bucket), caches.default())
        self._sent: dict[str, tuple[int, int, int]] = {}
        self._lost = 0

    def keep_history(self) -> None:
        """Put the manifests of all other commits into the folder."""
        here = manifests.numbers(self.root)

        def fetch(number: int) -> None:
            data = self.bucket.read(manifest_name(number))
            if data is not None:  # else it was pruned since
                self.keep(StoredCommit(number, data))

        with Pool(_READS) as pool:
            others = set(bucket_commits.numbers(self.bucket)).difference(here)
            list(pool.map(fetch, sorted(others)))

    def keep_remotes(self) -> None:
        """Put what the store remembers of repositories into the folder."""
        for name, data in meetings.in_bucket(self.bucket).items():
            (self.root / layout.REMOTES).mkdir(exist_ok=True)
            (self.root / layout.REMOTES / name).write_bytes(data)

    def keep_as_it_is(self) -> int:
        """Put all manifests and segments into the folder, damaged ones too; say how many."""
        names = [each.path for each in self.bucket.objects(layout.MANIFESTS)]
        wanted = [path for path in names if layout.is_segment(path)]
        wanted += map(manifest_name, bucket_commits.numbers_of(names))
        for folder in {str(Path(path).parent) for path in wanted}:
            (self.root / folder).mkdir(parents=True, exist_ok=True)

        def fetch(path: str) -> None:
            data = self.bucket.read(path)
            if data is not None:
                (self.root / path).write_bytes(data)

        with Pool(_READS) as pool:
            list(pool.map(fetch, wanted))
        return len(wanted)

    def keep(self, commit: StoredCommit) -> None:
        """Put a manifest into the folder, and the segments that it names."""
        bucket_commits.decode(commit, self.bucket, self.root)
        path = layout.manifest_path(self.root, commit.number)
        draft = path.with_suffix(".part")
        draft.write_bytes(commit.data)
        draft.replace(path)

    # --- reading

    def open_shard(self, entry: ShardEntry) -> ShardReader:
        return self._files.open_shard(entry)

    def columns(self, entry: ShardEntry, names: list[str]) -> pa.Table:
        return self._files.columns(entry, names)

    def labels(self, entry: LabelEntry) -> pa.Table:
        return self._files.labels(entry)

    def cache_folders(self) -> Sequence[Callable[[], Path]]:
        return self._files.cache_folders()

    @contextlib.contextmanager
    def fetched(self, path: str) -> Iterator[None]:
        target = self.root / path
        draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with contextlib.suppress(BucketFileError), draft.open("wb") as file:
                for block in self.bucket.blocks(path):
                    file.write(block)
                draft.replace(target)  # what is missing there is missing here
            yield
        finally:
            draft.unlink(missing_ok=True)
            target.unlink(missing_ok=True)

    def newest(self) -> contextlib.AbstractContextManager[Path]:
        return working(str(self.bucket.address), dry=True)

    def stored_files(self) -> list[str]:
        found = [*self.bucket.objects(layout.ACTIVATIONS), *self.bucket.objects(layout.LABELS)]
        return sorted(each.path for each in found if each.path.endswith(".parquet"))

    # --- committing

    def replace(self, path: str) -> None:
        self.bucket.put(path, self.root / path)
        # Manifests are read with segments, and what is remembered is read again.
        if not layout.is_segment(path) and not path.startswith(f"{layout.REMOTES}/"):
            (self.root / path).unlink()

    def put_aside(self, path: str, name: str, instead: bytes) -> None:
        data = self.bucket.read(path)
        if data is not None:
            self.bucket.put(name, data)
            self.bucket.put(path, instead)

    def publish(self, manifest: Manifest, files: Collection[str], staging: Path) -> bool:
        self._upload(files)
        # Here first, which makes its bytes; whoever has the folder is alone with it.
        manifests.publish(self.root, manifest, staging)
        here = layout.manifest_path(self.root, manifest.number)
        try:
            made = self.bucket.create(manifest_name(manifest.number), here.read_bytes())
        except BaseException:
            here.unlink()
            raise
        if not made:
            here.unlink()
            self._wait()
            found = bucket_commits.newest(self.bucket, known=manifest.number)
            assert found is not None
            self.keep(found)
            return False
        self._lost = 0
        bucket_commits.hint_at(self.bucket, manifest.number)
        for path in files:
            if not layout.is_segment(path):  # which the next commit builds on
                (self.root / path).unlink(missing_ok=True)
            self._sent.pop(path, None)
        return True

    def _wait(self) -> None:
        """Wait a little, the less the more often others were first: nobody is left behind."""
        self._lost += 1
        time.sleep(random.uniform(0, _LONGEST_WAIT / self._lost**2))

    def _upload(self, files: Collection[str]) -> None:
        """Upload what is not there yet; a shard that was written anew after others came, again."""
        wanted = {path: state for path in files if (state := _state(self.root / path))}
        missing = [path for path, state in wanted.items() if self._sent.get(path) != state]
        if not missing:
            return
        with Pool(_UPLOADS) as pool:
            list(pool.map(lambda path: self.bucket.put(path, self.root / path), missing))
        self._sent |= {path: wanted[path] for path in missing}

    def keep_reports(self) -> None:
        """Upload the reports that were written beside the commits."""
        for path in sorted((self.root / layout.REPORTS).glob("*.json")):
            self.bucket.put(f"{layout.REPORTS}/{path.name}", path)


def _state(path: Path) -> tuple[int, int, int] | None:
    """Return what tells a file from one that took its place; None where all its rows are gone."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
