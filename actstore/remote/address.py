"""Addresses on the Hub: ``org/name``, ``org/name@revision``, ``hf://datasets/org/name@revision/path``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from actstore.errors import UsageError

_SCHEME = "hf://"
_KIND = "datasets/"
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_SPECIAL = re.compile(r"(refs/(?:pr|convert)/[^/]+)(?:/(.*))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A data-set repository, at a revision if one was named, and a path in it if one was named."""

    repository: str
    """``org/name``."""
    revision: str | None = None
    """Branch, tag, ``refs/pr/N`` or commit; None: ``main``."""
    path: str = ""

    def __str__(self) -> str:
        revision = self.revision
        if revision is not None and not _SPECIAL.fullmatch(revision):
            revision = quote(revision, safe="")
        pinned = f"@{revision}" if revision else ""
        return f"{_SCHEME}{_KIND}{self.repository}{pinned}{'/' if self.path else ''}{self.path}"


def is_address(text: str) -> bool:
    """Say whether ``text`` is meant as an address on the Hub, not as a path."""
    return text.startswith(_SCHEME)


def parse(text: str) -> Address:
    """Parse an address; without ``hf://`` it is ``org/name``, with ``@revision`` if wanted.

    Raises:
        UsageError: it is no address of a data set; the message shows what one looks like.
    """
    rest = text
    if text.startswith(_SCHEME):
        rest = text.removeprefix(_SCHEME)
        if not rest.startswith(_KIND):
            raise UsageError(f"{text!r} is no data set: write hf://datasets/ORG/NAME")
    rest = rest.removeprefix(_KIND)
    parts = rest.split("/", 1)
    if len(parts) < 2 or not parts[1]:
        raise UsageError(
            f"{text!r} names no repository: write ORG/NAME, with your user name or organization "
            "before the slash"
        )
    organization, after = parts
    name, at, tail = after.partition("@") if "@" in after.split("/", 1)[0] else (after, "", "")
    if at:
        revision, path = _split_revision(tail)
        if not revision:
            raise UsageError(f"{text!r} has an @ and no revision behind it")
    else:
        name, _, path = after.partition("/")
        revision = None
    repository = f"{organization}/{name}"
    if path and not text.startswith(_SCHEME):
        raise UsageError(f"{text!r} is no repository: write ORG/NAME, with one slash")
    check(repository)
    return Address(repository=repository, revision=revision, path=path.strip("/"))


def check(repository: str) -> None:
    """Refuse what cannot be the name of a repository.

    Raises:
        UsageError: says what a name looks like.
    """
    parts = repository.split("/")
    sound = len(parts) == 2 and all(map(_PART.fullmatch, parts)) and len(repository) <= 96
    if not sound or "--" in repository or ".." in repository or repository.endswith(".git"):
        raise UsageError(
            f"{repository!r} cannot be a repository: write ORG/NAME, in letters, digits, '-', '_' "
            "and '.', at most 96 characters, neither '--' nor '..' in it, no '.git' at its end"
        )


def _split_revision(tail: str) -> tuple[str, str]:
    special = _SPECIAL.fullmatch(tail)
    if special:
        return special[1], special[2] or ""
    revision, _, path = tail.partition("/")
    return unquote(revision), path
