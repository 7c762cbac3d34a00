"""Sound copies of a store's files: in another folder, in a bucket, or on the Hub."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from actstore.errors import BucketFileError, CorruptStoreError
from actstore.remote import bucket_commits
from actstore.remote.address import is_address, parse
from actstore.remote.bucket import Bucket
from actstore.remote.bucket_address import is_bucket, parse_bucket
from actstore.remote.client import Client
from actstore.remote.download import download
from actstore.storage import layout
from actstore.storage import manifest as manifests
from actstore.storage.file_hashes import sha256_of
from actstore.storage.manifest import Manifest
from actstore.storage.repairing import Copies
from actstore.storage.soundness import Named


def copies_of(source: str, client: Client | None = None) -> Copies:
    """Return the files of a store, in a folder, in a bucket or in a repository on the Hub.

    Args:
        source: a path, or an address such as ``s3://bucket/store`` or ``hf://datasets/org/name``.
        client: the Hub.

    Raises:
        StoreNotFoundError: there is no store.
        HubError, BucketError: the repository or the bucket cannot be read.
    """
    if is_bucket(source):
        return BucketCopies(Bucket(parse_bucket(source)))
    if is_address(source):
        return RemoteCopies(source, client or Client())
    return LocalCopies(Path(source))


def _by_hash(numbers: Iterable[int], load: Callable[[int], Manifest]) -> dict[str, str]:
    """Return the paths of all files that sound commits name, by their SHA-256."""
    found: dict[str, str] = {}
    for number in numbers:
        with contextlib.suppress(CorruptStoreError, BucketFileError):
            found |= {entry.sha256: path for path, entry in load(number).named.items()}
    return found


class LocalCopies:
    """The files that the sound commits of a store on this machine name."""

    def __init__(self, root: Path) -> None:
        self.name = str(root)
        self._root = root
        numbers = manifests.numbers(root)
        if not numbers:
            manifests.load(root)  # says what is there instead
        self._paths = _by_hash(numbers, lambda number: manifests.load(root, number))

    def has(self, entry: Named) -> bool:
        path = self._root / self._paths.get(entry.sha256, layout.CARD)
        return path.is_file() and sha256_of(path) == (entry.sha256, entry.bytes)

    def fetch(self, entry: Named, target: Path) -> None:
        shutil.copyfile(self._root / self._paths[entry.sha256], target)


class BucketCopies:
    """The files that the sound commits of a store in a bucket name."""

    def __init__(self, bucket: Bucket) -> None:
        self.name = str(bucket.address)
        self._bucket = bucket
        numbers = bucket_commits.numbers(bucket)
        if not numbers:
            bucket_commits.read_commit(bucket)  # says what is there instead
        self._paths = _by_hash(
            numbers,
            lambda number: bucket_commits.decode(
                bucket_commits.read_commit(bucket, number), bucket
            ),
        )

    def has(self, entry: Named) -> bool:
        path = self._paths.get(entry.sha256)
        if path is None:
            return False
        digest = hashlib.sha256()
        try:
            for block in self._bucket.blocks(path):
                digest.update(block)
        except BucketFileError:
            return False
        return digest.hexdigest() == entry.sha256

    def fetch(self, entry: Named, target: Path) -> None:
        with target.open("wb") as file:
            for block in self._bucket.blocks(self._paths[entry.sha256]):
                file.write(block)


class RemoteCopies:
    """The files of a repository, as they are at one commit."""

    def __init__(self, source: str, client: Client) -> None:
        address = parse(source)
        self.name = str(address)
        self._client = client
        self._repository = address.repository
        self._commit = client.head(address.repository, address.revision)
        files = client.files(address.repository, self._commit)
        self._paths = {file.sha256: path for path, file in files.items() if file.sha256}

    def has(self, entry: Named) -> bool:
        return entry.sha256 in self._paths

    def fetch(self, entry: Named, target: Path) -> None:
        download(
            self._client,
            self._repository,
            self._commit,
            self._paths[entry.sha256],
            target,
            size=entry.bytes,
            sha256=entry.sha256,
        )
