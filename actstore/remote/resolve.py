"""Finds which store a repository holds at which of its commits, and checks its manifest."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from actstore.errors import (
    CorruptStoreError,
    NoRemoteStoreError,
    RemoteFileError,
    RemoteStoreError,
    SnapshotNotFoundError,
)
from actstore.remote.address import Address
from actstore.remote.cache import RangeCache
from actstore.remote.client import KIND, MAIN, Client, RemoteFile
from actstore.storage import layout
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Manifest, ShardEntry
from actstore.storage.threads import Pool

_MANIFEST = re.compile(rf"{layout.MANIFESTS}/([0-9]{{10}})\.json")
_NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}"
_SHARD = re.compile(rf"{layout.ACTIVATIONS}(?:/{_NAME}){{1,8}}\.parquet")
_LABELS = re.compile(rf"{layout.LABELS}/{_NAME}\.parquet")
_RATIO = 1000
"""Vectors unfold to at most so many times the size of their compressed file."""
_LOOKS = 8
"""Commits of a history looked at side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedStore:
    """A store in a repository."""

    repository: str
    commit: str
    """Of the repository."""
    manifest: Manifest
    """The store's commit; all that it names is there, of the right size and SHA-256."""
    numbers: tuple[int, ...]
    """All commits of the store whose manifests lie there."""
    files: dict[str, RemoteFile]
    """Every file of that commit, by path; empty where the rest was remembered."""


def look_up(
    client: Client, address: Address, at: int | None = None, *, memory: RangeCache | None = None
) -> ResolvedStore:
    """Find the store that a repository holds at a revision, or its commit ``at``.

    Where the revision itself does not hold commit ``at``, its history is searched for the
    latest commit that does.

    Args:
        client: the Hub.
        address: the repository, and the revision if it is not ``main``.
        at: number of the store's commit; the latest when missing.
        memory: where what was found is remembered; then only the revision's commit is asked for.

    Raises:
        NoRemoteStoreError: there is no store in it.
        RemoteStoreError: it is damaged or hostile.
        SnapshotNotFoundError: no commit ``at`` is found.
        HubError: as :meth:`Client.call`.
    """
    repository = address.repository
    commit = client.head(repository, address.revision)
    name = _name(client, repository, commit, at)
    remembered = memory and _remembered(memory, name, repository)
    if remembered:
        return remembered
    files = client.files(repository, commit)
    numbers = held_numbers(files)
    if at is not None and at not in numbers:
        commit = _search(client, address, at)
        files = client.files(repository, commit)
        numbers = held_numbers(files)
    if not numbers:
        raise NoRemoteStoreError(_no_store(address, files))
    manifest = read_manifest(client, repository, commit, numbers[-1] if at is None else at)
    check(manifest, files, f"{address.repository} at {commit[:8]}")
    if memory is not None:
        facts = {"commit": commit, "numbers": numbers, "number": manifest.number}
        head = json.dumps(facts).encode()
        memory.keep_document(name, head + b"\n" + manifest.encode())
    return ResolvedStore(
        repository=repository, commit=commit, manifest=manifest, numbers=numbers, files=files
    )


def _name(client: Client, repository: str, commit: str, at: int | None) -> str:
    """Return the name under which the answer is remembered: a commit never changes."""
    question = json.dumps([client.endpoint, repository, commit, at])
    return hashlib.sha256(question.encode()).hexdigest() + ".json"


def _remembered(memory: RangeCache, name: str, repository: str) -> ResolvedStore | None:
    document = memory.document(name)
    if document is None:
        return None
    try:
        head, _, body = document.partition(b"\n")
        facts = json.loads(head)
        manifest = decode(body, facts["number"], f"the manifest of {repository}")
        return ResolvedStore(
            repository=repository,
            commit=facts["commit"],
            manifest=manifest,
            numbers=tuple(facts["numbers"]),
            files={},
        )
    except (ValueError, KeyError, TypeError):  # damaged on disk: ask again
        return None


def held_numbers(paths: Iterable[str]) -> tuple[int, ...]:
    """Return the numbers of the manifests among some paths, ascending."""
    return tuple(sorted(int(found[1]) for found in map(_MANIFEST.fullmatch, paths) if found))


def _no_store(address: Address, files: dict[str, RemoteFile]) -> str:
    """Return the message for a repository without a store: what it has, and how to bring it in."""
    kinds = Counter("." + path.rpartition(".")[2] for path in files if "." in path.lstrip("."))
    kinds.pop(".md", None)
    holds = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4)) or "nothing"
    return (
        f"{address.repository} holds no store (there is no {layout.MANIFESTS}/ in it): it has "
        f"{holds}; make a store of its files with: actstore ingest {address} --store FOLDER"
    )


def read_manifest(client: Client, repository: str, commit: str, number: int) -> Manifest:
    """Read one manifest.

    Raises:
        RemoteStoreError: it is damaged.
        HubError: as :meth:`Client.call`.
    """
    path = f"{layout.MANIFESTS}/{number:010d}.json"
    return decode(client.read(repository, path, commit), number, f"{path} of {repository}")


def decode(data: bytes, number: int, where: str) -> Manifest:
    """Decode a manifest that came from a repository.

    Raises:
        RemoteStoreError: it is damaged.
    """
    try:
        found = manifests.decode(data, where)
    except CorruptStoreError as error:
        raise RemoteStoreError(str(error)) from None
    if found.number != number:
        raise RemoteStoreError(
            f"{where} calls itself commit {found.number}: it was changed by hand"
        )
    return found


def check(manifest: Manifest, files: dict[str, RemoteFile], where: str) -> None:
    """Hold a manifest against the files that the Hub says are there.

    Raises:
        RemoteStoreError: names the first thing that is wrong.
    """
    seen: set[str] = set()
    for entry in manifest.shards:
        problem = _wrong(entry, files.get(entry.path))
        if entry.path in seen:
            problem = "is named twice"
        if problem is not None:
            raise RemoteStoreError(f"{entry.path[:300]!r} of {where} {problem}; nothing was read")
        seen.add(entry.path)
    for overlay in manifest.labels:
        there = files.get(overlay.path)
        if not _LABELS.fullmatch(overlay.path) or there is None or there.size != overlay.bytes:
            raise RemoteStoreError(
                f"{overlay.path[:300]!r} of {where} is no label file, or not the one that the "
                "manifest names; nothing was read"
            )


def _wrong(entry: ShardEntry, there: RemoteFile | None) -> str | None:
    """Say what is wrong with a shard's entry, if anything is."""
    if not _SHARD.fullmatch(entry.path):
        return "is no name of a shard"
    if there is None:
        return "is named by the manifest and is not there"
    if there.sha256 != entry.sha256 or there.size != entry.bytes:
        return (
            f"is not the file that the manifest names (SHA-256 {entry.sha256[:12]}…, "
            f"{entry.bytes:,} bytes)"
        )
    vectors = entry.rows * entry.width * np.dtype(entry.dtype).itemsize
    if vectors > (entry.bytes if entry.pages else _RATIO * entry.bytes):
        return (
            f"is said to hold {entry.rows:,} rows of {entry.width:,} values in {entry.bytes:,} "
            "bytes, which cannot be"
        )
    return None


def _search(client: Client, address: Address, at: int) -> str:
    """Return the latest commit of a revision's history that holds commit ``at`` of the store."""
    repository, revision = address.repository, address.revision or MAIN

    def ask() -> list[str]:
        commits = client.api.list_repo_commits(repository, repo_type=KIND, revision=revision)
        # A push says which commit of the store it is; those that say the right one first.
        said = re.compile(rf"^actstore-commit: {at}$", re.MULTILINE)
        commits = sorted(commits, key=lambda commit: not said.search(commit.message or ""))
        return [commit.commit_id for commit in commits]

    history = client.call(
        f"list the commits of {repository}", ask, repository=repository, revision=revision
    )
    seen: set[int] = set()
    with Pool(_LOOKS) as pool:
        for first in range(0, len(history), _LOOKS):
            some = history[first : first + _LOOKS]
            found = list(pool.map(lambda commit: _numbers_at(client, repository, commit), some))
            for commit, numbers in zip(some, found, strict=True):
                if at in numbers:
                    return commit
                seen.update(numbers)
    has = ", ".join(map(str, sorted(seen)[-20:])) or "none"
    raise SnapshotNotFoundError(f"{repository} has never held commit {at}: it has held {has}")


def _numbers_at(client: Client, repository: str, commit: str) -> tuple[int, ...]:
    def ask() -> list[str]:
        tree = client.api.list_repo_tree(
            repository, layout.MANIFESTS, revision=commit, repo_type=KIND
        )
        return [item.path for item in tree]

    try:
        paths = client.call(
            f"list the commits of {repository}", ask, repository=repository, revision=commit
        )
    except RemoteFileError:
        return ()
    return held_numbers(paths)
