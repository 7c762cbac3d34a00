"""Shards on their way up: in slices, invisible until the one commit that names them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from actstore.errors import RemoteStoreError
from actstore.hub.overlap import Fresh
from actstore.remote.client import KIND, Client
from actstore.storage import soundness
from actstore.storage.archive import write_archived
from actstore.storage.manifest import ShardEntry
from actstore.storage.threads import in_parallel

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

_ARCHIVED = "archived"
_SLICE_FILES = 64
_SLICE_BYTES = 256 << 20
"""After so many bytes a slice is sent: progress is seen, and little is lost by an interruption."""


class Uploads:
    """The shards of one push that the repository has got, though no commit names them yet.

    Args:
        client: the Hub.
        repository: ``org/name``.
        revision: branch that the commit will be made on.
        create_pr: whether it will be made as a pull request.
        archive: whether shards are compressed first.
        folder: temporary folder for compressed shards.
        progress: called with the bytes done and the bytes in all.
    """

    def __init__(
        self,
        client: Client,
        repository: str,
        revision: str,
        *,
        create_pr: bool,
        archive: bool,
        folder: Path,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._client = client
        self._repository = repository
        self._revision = revision
        self._create_pr = create_pr
        self._archive = archive
        self._folder = folder
        self._progress = progress
        self._done: dict[str, tuple[ShardEntry, CommitOperationAdd]] = {}

    def send(self, shards: list[Fresh]) -> list[ShardEntry]:
        """Send the shards that were not sent yet; return all of them as they are up there.

        Raises:
            DamageError: shards of the store are missing, or not what its manifest says.
            RemoteStoreError: the repository's .gitignore would leave shards out.
            HubError: as :meth:`Client.call`.
        """
        waiting = [fresh for fresh in shards if fresh.entry.path not in self._done]
        total = sum(fresh.entry.bytes for fresh in waiting)
        done = 0
        for part in _slices(waiting):
            self._send_slice(part)
            done += sum(fresh.entry.bytes for fresh in part)
            if self._progress is not None:
                self._progress(done, total)
        return [self._done[fresh.entry.path][0] for fresh in shards]

    def operation(self, path: str) -> CommitOperationAdd:
        """Return what puts a sent shard into a commit."""
        return self._done[path][1]

    def forget(self) -> None:
        """Take none of it for sent any more: the Hub says that objects are missing."""
        self._done.clear()

    def _send_slice(self, part: list[Fresh]) -> None:
        for folder in {fresh.folder for fresh in part}:
            mine = [each.entry for each in part if each.folder == folder]
            soundness.check(folder, mine, fetching=True)
        with contextlib.ExitStack() as here:
            for fresh in part:
                here.enter_context(soundness.fetched(fresh.folder, fresh.entry))
            self._send_files(part)

    def _send_files(self, part: list[Fresh]) -> None:
        from huggingface_hub import CommitOperationAdd

        entries = in_parallel(self._prepared, part)
        operations = []
        for fresh, (entry, file) in zip(part, entries, strict=True):
            operation = CommitOperationAdd(path_in_repo=entry.path, path_or_fileobj=file)
            operation.upload_info.sha256 = bytes.fromhex(entry.sha256)  # known: not read again
            operations.append((fresh, entry, operation))

        def upload() -> None:
            self._client.api.preupload_lfs_files(
                self._repository,
                [operation for _, _, operation in operations],
                repo_type=KIND,
                revision=self._revision,
                create_pr=self._create_pr,
            )

        doing = f"upload shards to {self._repository}"
        with self._client.quiet():
            self._client.call(
                doing, upload, repository=self._repository, revision=self._revision, attempts=3
            )
        for fresh, entry, operation in operations:
            if operation._should_ignore:
                raise RemoteStoreError(
                    f"the .gitignore of {self._repository} leaves out {entry.path}: change it "
                    "there, then push again"
                )
            self._done[fresh.entry.path] = (entry, operation)
            if operation._upload_mode == "lfs" and self._archive:
                with contextlib.suppress(OSError):
                    (self._folder / _ARCHIVED / entry.path).unlink()

    def _prepared(self, fresh: Fresh) -> tuple[ShardEntry, Path]:
        """Return a shard as it is to be sent."""
        entry, source = fresh.entry, fresh.folder / fresh.entry.path
        if not self._archive or not entry.pages:
            return entry, source
        target = self._folder / _ARCHIVED / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        made = write_archived(fresh.folder, entry, target)
        return dataclasses.replace(made, path=entry.path), target


def _slices(shards: list[Fresh]) -> Iterator[list[Fresh]]:
    part: list[Fresh] = []
    size = 0
    for fresh in shards:
        if part and (len(part) == _SLICE_FILES or size + fresh.entry.bytes > _SLICE_BYTES):
            yield part
            part, size = [], 0
        part.append(fresh)
        size += fresh.entry.bytes
    if part:
        yield part
