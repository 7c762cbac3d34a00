"""Holds files against the manifest before anything is made of them or removed for them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from actstore.errors import DamageError, ReadError
from actstore.storage import backing
from actstore.storage.file_hashes import sha256_of
from actstore.storage.threads import in_parallel

_NAMED = 5


class Named(Protocol):
    """A file that a manifest names: a shard, a label overlay, or a segment."""

    @property
    def path(self) -> str:
        """Relative to the store."""

    @property
    def bytes(self) -> int:
        """Its size."""

    @property
    def sha256(self) -> str:
        """Of its content."""


def check(
    root: Path,
    entries: Iterable[Named],
    *,
    fetching: bool = False,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Refuse to go on with files that are not, byte for byte, what the manifest says.

    What is written from a damaged file gets a new hash, and is taken for sound ever after;
    and where an older file is removed, the last sound copy of a row may go with it.

    Args:
        root: folder of the store.
        entries: shards, label overlays and segments.
        fetching: leave out what lies elsewhere, since all of it is read by :func:`fetched` or as
            labels, which are checked then: else it would travel twice.
        progress: called with the bytes read so far, from one thread at a time.

    Raises:
        DamageError: names every file that is missing or was changed.
    """
    if fetching:
        entries = [entry for entry in entries if not backing.of_missing(root, entry.path)]
    found = problems(root, entries, progress=progress)
    if found:
        named = "; ".join(f"{path}: {reason}" for path, reason in found[:_NAMED])
        more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise DamageError(
            f"files of {root} are damaged: {named}{more}. Nothing was changed or removed; an "
            "earlier commit (see: actstore log), the Hub or a backup may hold sound ones",
            found,
        )


@contextlib.contextmanager
def fetched(root: Path, entry: Named) -> Iterator[None]:
    """Have a whole file in the store's folder while the block runs, sound if it lies elsewhere.

    Raises:
        DamageError: it is missing there or was changed.
    """
    if backing.of_missing(root, entry.path) is None:
        yield
        return
    with backing.fetched(root, entry.path):
        check(root, [entry])
        yield


def problems(
    root: Path,
    entries: Iterable[Named],
    *,
    progress: Callable[[int], None] | None = None,
) -> list[tuple[str, str]]:
    """Return each file that is missing or was changed, with the reason; see :func:`check`."""
    wanted = list({entry.path: entry for entry in entries}.values())
    found: list[tuple[str, str]] = []
    done = 0
    step = 64  # so that there is progress to tell of
    for first in range(0, len(wanted), step):
        some = wanted[first : first + step]
        reasons = in_parallel(lambda entry: problem(root, entry), some)
        found += [(e.path, why) for e, why in zip(some, reasons, strict=True) if why]
        done += sum(entry.bytes for entry in some)
        if progress:
            progress(done)
    return found


def problem(root: Path, entry: Named) -> str | None:
    """Return why a file is not what the manifest says; None where it is."""
    try:
        with backing.fetched(root, entry.path):
            digest, size = sha256_of(root / entry.path)
    except FileNotFoundError:
        return "the file is missing"
    except OSError as error:
        why = error.reason if isinstance(error, ReadError) else error
        return f"it cannot be read ({why})"
    if size != entry.bytes:
        return f"it has {size} bytes, the manifest says {entry.bytes}"
    if digest != entry.sha256:
        return "its SHA-256 is not what the manifest says: the content was changed"
    return None
