"""What a store remembers of a repository: the shards that both had when they last synced."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actstore.errors import BucketError
from actstore.storage import backing, layout

Key = tuple[Any, ...]
"""A row's, in the order of :func:`schema.key_names`."""
_FORMAT = "actstore-remote"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A store and one branch of a repository, as they were after the last push or pull.

    It holds no secret. Without it nothing is lost: a push then finds out from the store's own
    commits and from the rows what the two have in common.
    """

    repository: str
    revision: str
    """Branch; ``main`` unless another was named."""
    endpoint: str
    commit: str
    """The repository's commit."""
    number: int
    """Number of the actstore commit that the repository held."""
    shards: tuple[str, ...]
    """Paths of the store's own shards whose rows the repository held."""
    replaced: dict[str, str | None] = field(default_factory=dict)
    """Where the repository holds a shard's rows under another path; None: among others' shards."""
    since: dict[str, str] = field(default_factory=dict)
    """Shards that the repository no longer holds, and its last commit known to hold them: what
    became of them there has not been asked for yet."""
    dropped: tuple[Key, ...] = ()
    """Rows that the store gave up before it was taken to another state of the repository, and that
    the branch may hold."""
    card: str = ""
    """README.md of the repository, whose owner's part the store's card had too."""


def run_id(endpoint: str, repository: str) -> str:
    """Return the name of the run that stands for pulls from a repository, in its manifest."""
    return f"pull-{hashlib.sha256(f'{endpoint} {repository}'.encode()).hexdigest()[:12]}"


def path_of(root: Path, repository: str, revision: str) -> Path:
    """Return the file that remembers a branch."""
    # No name of a repository holds "--", so that different ones never share a file.
    name = f"{layout.slug(repository)}@{layout.slug(revision)}.json"
    return root / layout.REMOTES / name


def load(root: Path, repository: str, revision: str, endpoint: str) -> Origin | None:
    """Return what the store remembers of a branch; None when it never met it."""
    try:
        document = json.loads(path_of(root, repository, revision).read_bytes())
        if document.pop("format") != _FORMAT or document.pop("version") > _VERSION:
            return None
        document["shards"] = tuple(document["shards"])
        document["dropped"] = tuple(map(tuple, document.get("dropped", ())))
        found = Origin(**document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    same = (found.repository, found.revision, found.endpoint) == (repository, revision, endpoint)
    return found if same else None


def all_of(root: Path) -> list[Origin]:
    """Return every branch that the store remembers, by file name."""
    found = []
    for path in sorted((root / layout.REMOTES).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            facts = json.loads(path.read_bytes())
            known = load(root, facts["repository"], facts["revision"], facts["endpoint"])
            if known is not None:
                found.append(known)
    return found


def save(root: Path, origin: Origin) -> None:
    """Remember a branch; a store that cannot be written to goes without."""
    path = path_of(root, origin.repository, origin.revision)
    document: dict[str, Any] = {"format": _FORMAT, "version": _VERSION}
    for name in Origin.__dataclass_fields__:
        document[name] = getattr(origin, name)
    with contextlib.suppress(OSError, BucketError):
        path.parent.mkdir(exist_ok=True)
        layout.replace_durably(path, json.dumps(document, indent=1).encode())
        behind = backing.of(root)
        if behind is not None:
            behind.replace(f"{layout.REMOTES}/{path.name}")
