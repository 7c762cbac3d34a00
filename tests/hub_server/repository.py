"""One repository of the loopback Hub: commits, references and settings, as JSON files on disk."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.hub_server.answers import ApiError, entry_not_found, revision_not_found
from tests.hub_server.storage import git_blob_oid, lfs_pointer

MAIN = "refs/heads/main"
STALE_PARENT = "A commit has happened since. Please refresh and try again."
LARGE_SUFFIXES = re.findall(
    r"\w+",
    """
    7z arrow bin bz2 ckpt ftz gz h5 joblib lz4 model msgpack npy npz onnx ot parquet pb pickle pkl
    pt pth rar safetensors tar tflite tgz wasm xz zip zst wav flac ogg mp3 jpg jpeg png gif bmp
    tiff webp mp4 webm
    """,
)
GITATTRIBUTES = "".join(f"*.{s} filter=lfs diff=lfs merge=lfs -text\n" for s in LARGE_SUFFIXES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of one commit."""

    oid: str
    """git blob sha1: of the content, or of the pointer of a large file."""
    size: int
    sha256: str
    lfs: bool
    xet_hash: str | None = None
    commit: str = ""
    """The commit that last changed it."""

    @property
    def pointer_size(self) -> int:
        return len(lfs_pointer(self.sha256, self.size))

    @property
    def remote_oid(self) -> str:
        """What the client compares with its own file to skip the unchanged."""
        return self.sha256 if self.lfs else self.oid


def regular_entry(data: bytes) -> Entry:
    return Entry(
        oid=git_blob_oid(data),
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        lfs=False,
    )


def lfs_entry(sha256: str, size: int, xet_hash: str | None = None) -> Entry:
    oid = git_blob_oid(lfs_pointer(sha256, size))
    return Entry(oid=oid, size=size, sha256=sha256, lfs=True, xet_hash=xet_hash)


@dataclass(frozen=True, kw_only=True)
class Commit:
    """An immutable state of all files."""

    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    tree: Mapping[str, Entry]

    @cached_property
    def folders(self) -> Mapping[str, Sequence[str]]:
        """The names directly in each folder ("" is the root), sorted; sub-folders end with "/"."""
        found: dict[str, set[str]] = {"": set()}
        for path in self.tree:
            parts = path.split("/")
            for depth in range(len(parts)):
                name = parts[depth] + ("/" if depth < len(parts) - 1 else "")
                found.setdefault("/".join(parts[:depth]), set()).add(name)
        return {folder: sorted(names) for folder, names in found.items()}

    def walk(self, folder: str, *, recursive: bool) -> Iterator[str]:
        """Paths under a folder, in sorted order; folders end with "/"."""
        for name in self.folders[folder]:
            path = f"{folder}/{name}" if folder else name
            yield path
            if recursive and path.endswith("/"):
                yield from self.walk(path[:-1], recursive=True)

    def below(self, folder: str) -> list[tuple[str, Entry]]:
        """Every file under a folder, at any depth."""
        return [(p, e) for p, e in self.tree.items() if p.startswith(f"{folder}/") or not folder]

    def folder_oid(self, folder: str) -> str:
        """A hash that changes with anything in the folder (not git's own)."""
        lines = "".join(f"{path} {entry.oid}\n" for path, entry in sorted(self.below(folder)))
        return hashlib.sha1(lines.encode()).hexdigest()


@dataclass(slots=True, kw_only=True)
class Discussion:
    """A discussion or pull request, as far as a push needs one."""

    num: int
    title: str
    author: str
    status: str
    is_pull_request: bool
    created_at: str
    events: list[dict[str, Any]] = field(default_factory=list)
    merge_commit: str | None = None


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Repository:
    """Everything about one repository. Every change is on disk before the method returns."""

    def __init__(self, folder: Path) -> None:
        """Open the repository kept in `folder`."""
        self.folder = folder
        self.lock = threading.RLock()
        self._commits: dict[str, Commit] = {}
        state = json.loads((folder / "repo.json").read_text())
        self.kind: str = state["kind"]
        """model, dataset or space."""
        self.id: str = state["id"]
        self.private: bool = state["private"]
        self.gated: str | bool = state["gated"]
        self.granted: list[str] = state["granted"]
        """Users who may read a gated repository."""
        self.created_at: str = state["created_at"]
        self.refs: dict[str, str] = state["refs"]
        self.discussions = [Discussion(**kept) for kept in state["discussions"]]

    @classmethod
    def create(cls, folder: Path, *, kind: str, id: str, private: bool, author: str) -> Repository:
        """A new repository with the Hub's first commit, which holds `.gitattributes` only."""
        (folder / "commits").mkdir(parents=True)
        (folder / "lfs").mkdir()
        state = {
            "kind": kind,
            "id": id,
            "private": private,
            "gated": False,
            "granted": [],
            "created_at": now(),
            "refs": {},
            "discussions": [],
        }
        (folder / "repo.json").write_text(json.dumps(state))
        repository = cls(folder)
        repository.commit(
            MAIN,
            {".gitattributes": regular_entry(GITATTRIBUTES.encode())},
            title="initial commit",
            author=author,
        )
        return repository

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    def save(self) -> None:
        state = {
            "kind": self.kind,
            "id": self.id,
            "private": self.private,
            "gated": self.gated,
            "granted": self.granted,
            "created_at": self.created_at,
            "refs": self.refs,
            "discussions": [asdict(discussion) for discussion in self.discussions],
        }
        _write(self.folder / "repo.json", state)

    # Large files: the Hub knows them repository by repository, from their upload on.

    def knows(self, sha256: str) -> bool:
        return (self.folder / "lfs" / sha256).exists()

    def learn(self, sha256: str) -> None:
        (self.folder / "lfs" / sha256).touch()

    # Revisions

    def ref_of(self, revision: str) -> str | None:
        """The full name of the branch, tag or pull request called `revision`."""
        for ref in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if ref.startswith("refs/") and ref in self.refs:
                return ref
        return None

    def commit_at(self, revision: str) -> Commit:
        """The commit of a branch, tag, `refs/…` name or full commit hash; 404 otherwise."""
        ref = self.ref_of(revision)
        oid = revision if ref is None else self.refs[ref]
        known = self._commits.get(oid)
        if known is None:
            try:
                state = json.loads((self.folder / "commits" / f"{Path(oid).name}.json").read_text())
            except FileNotFoundError as error:
                raise revision_not_found(revision) from error
            tree = {path: Entry(**kept) for path, kept in state.pop("tree").items()}
            known = self._commits[oid] = Commit(tree=tree, **state)
        return known

    def history(self, revision: str) -> list[Commit]:
        """Newest first."""
        commits = [self.commit_at(revision)]
        while (parent := commits[-1].parent) is not None:
            commits.append(self.commit_at(parent))
        return commits

    def commit(
        self,
        ref: str,
        changes: Mapping[str, Entry | None],
        *,
        title: str,
        author: str,
        message: str = "",
        parent: str | None = None,
    ) -> Commit:
        """Set (or with None remove) files and move `ref` there, in one step.

        412 when `parent` is given and is not the head any more.
        """
        with self.lock:
            head = self.commit_at(self.refs[ref]) if ref in self.refs else None
            if parent is not None and (head is None or head.oid != parent):
                raise ApiError(412, STALE_PARENT)
            tree = dict(head.tree) if head is not None else {}
            for path, entry in changes.items():
                if entry is None:
                    del tree[path]
                else:
                    tree[path] = entry
            return self._record(ref, head, tree, title=title, message=message, author=author)

    def squash(self, ref: str, *, title: str, author: str) -> Commit:
        """All of a branch as one commit without a parent."""
        with self.lock:
            tree = {p: replace(e, commit="") for p, e in self.commit_at(ref).tree.items()}
            return self._record(ref, None, tree, title=title, message="", author=author)

    def _record(
        self,
        ref: str,
        parent: Commit | None,
        tree: Mapping[str, Entry],
        *,
        title: str,
        message: str,
        author: str,
    ) -> Commit:
        date = now()
        header = [parent.oid if parent else None, title, message, author, date, os.urandom(8).hex()]
        lines = sorted(f"{path} {entry.oid}" for path, entry in tree.items())
        oid = hashlib.sha1(json.dumps([header, lines]).encode()).hexdigest()
        before = parent.tree if parent is not None else {}
        stamped = {}
        for path, entry in tree.items():
            old = before.get(path)
            same = old is not None and old.oid == entry.oid
            stamped[path] = old if same and old is not None else replace(entry, commit=oid)
        commit = Commit(
            oid=oid,
            parent=parent.oid if parent else None,
            title=title,
            message=message,
            author=author,
            date=date,
            tree=stamped,
        )
        state = asdict(commit)
        _write(self.folder / "commits" / f"{oid}.json", state)
        self._commits[oid] = commit
        self.refs[ref] = oid
        self.save()
        return commit

    # References

    def create_ref(self, ref: str, oid: str) -> None:
        """409 when it exists."""
        with self.lock:
            if ref in self.refs:
                raise ApiError(409, f"Reference {ref} already exists")
            self.refs[ref] = oid
            self.save()

    def delete_ref(self, ref: str) -> None:
        with self.lock:
            if ref not in self.refs:
                raise revision_not_found(ref)
            if ref == MAIN:
                raise ApiError(403, "Cannot delete the main branch")
            del self.refs[ref]
            self.save()

    def entry(self, revision: str, path: str) -> tuple[Commit, Entry]:
        """One file of a revision; 404 that names the commit when it is not there."""
        commit = self.commit_at(revision)
        entry = commit.tree.get(path)
        if entry is None:
            raise entry_not_found("Entry not found", commit=commit.oid)
        return commit, entry


def _write(path: Path, state: Mapping[str, Any]) -> None:
    """Whole or not at all: a server stopped in between starts again on what was there before."""
    temporary = path.with_suffix(f".{os.urandom(4).hex()}.tmp")
    temporary.write_text(json.dumps(state))
    os.replace(temporary, path)
