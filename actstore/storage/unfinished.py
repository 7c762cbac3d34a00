"""Drafts outside of stores: noted while they are written, cleared by the next command otherwise.

A store's own drafts lie in its staging folder. An export, or a file of rows, is written beside its
target, where nobody would look for it once its writer is dead; so a note in the user's cache folder
names it, locked while the writer lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from actstore import resources
from actstore.storage.disk_errors import saving

_NOTES = "unfinished"
_DRAFT = re.compile(r"\.(?P<name>.{0,50})\.(?P<token>[0-9a-f]{8})\.partial", re.DOTALL)


def draft_of(target: Path) -> Path:
    """Return a new name for the draft of a file or folder, beside it."""
    return target.with_name(f".{target.name[:50]}.{secrets.token_hex(4)}.partial")


def before_of(draft: Path) -> Path:
    """Return where what stood in the target's place goes while the two are exchanged."""
    return draft.with_suffix(".old")


@contextlib.contextmanager
def noted(draft: Path, target: Path) -> Iterator[None]:
    """Note a draft while the block runs; where notes cannot be kept, do without."""
    note, lock = _note({"draft": str(draft), "target": str(target)})
    try:
        yield
    finally:
        if lock >= 0:
            with contextlib.suppress(OSError):
                note.unlink(missing_ok=True)
            os.close(lock)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a name beside ``target`` for a file that takes its place if all goes well.

    Raises:
        OSError: the file cannot be written; says which.
    """
    target = Path(os.path.abspath(target))
    draft = draft_of(target)
    with noted(draft, target), saving(target):
        try:
            yield draft
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write a text file, whole or not at all; raises as :func:`replacing`."""
    with replacing(target) as draft:
        draft.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def passing_folder(name: str) -> Iterator[Path]:
    """Give a folder for temporary files that is gone after the block, or with the next command."""
    target = Path(os.path.realpath(tempfile.gettempdir())) / name
    draft = draft_of(target)
    with noted(draft, target):
        try:
            draft.mkdir(mode=0o700)
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def clear() -> list[Path]:
    """Remove the drafts of writers that died; return what they were to become.

    What stood in the target's place before is put back, if it was already moved aside.
    """
    cleared: list[Path] = []
    try:
        notes = sorted((resources.cache_folder() / _NOTES).iterdir())
    except (OSError, RuntimeError):  # there are none, or no home folder to look in
        return cleared
    for note in notes:
        with contextlib.suppress(OSError):
            lock = os.open(note, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found = _read(note)
                if found is not None and _remove(*found):
                    cleared.append(found[1])
                note.unlink(missing_ok=True)
            finally:
                os.close(lock)
    return cleared


def _note(content: dict[str, str]) -> tuple[Path, int]:
    home = resources.cache_folder() / _NOTES
    note = home / f"{secrets.token_hex(8)}.json"
    lock = -1
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            lock = os.open(note, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Whoever clears may have taken it for a dead one's before it was locked.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), note.stat()):
                    break
            os.close(lock)
            lock = -1
        os.write(lock, json.dumps(content).encode("utf-8", "surrogateescape"))
    except (OSError, RuntimeError):  # no room, no permission, no locks, no home folder
        if lock >= 0:
            os.close(lock)
            with contextlib.suppress(OSError):
                note.unlink(missing_ok=True)
        return note, -1
    return note, lock


def _read(note: Path) -> tuple[Path, Path] | None:
    """Return a draft and its target, if it is one that this program makes."""
    try:
        content = json.loads(note.read_bytes().decode("utf-8", "surrogateescape"))
        draft, target = Path(content["draft"]), Path(content["target"])
    except (ValueError, KeyError, TypeError):
        return None
    match = _DRAFT.fullmatch(draft.name)
    ours = match is not None and match["name"] == target.name[:50]
    return (
        (draft, target) if ours and draft.is_absolute() and draft.parent == target.parent else None
    )


def _remove(draft: Path, target: Path) -> bool:
    before = before_of(draft)
    left = os.path.lexists(draft) or before.is_dir()
    if before.is_dir() and not os.path.lexists(target):
        before.rename(target)
    if not draft.is_dir():
        draft.unlink(missing_ok=True)
    for folder in (draft, before):
        shutil.rmtree(folder, ignore_errors=True)
    return left
