"""The folder of an export: written as a whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actstore import paths
from actstore.errors import ActstoreError, ExportError
from actstore.exporting.planned_files import listed
from actstore.storage import strict_json, unfinished
from actstore.storage.disk_errors import saving

MARK = ".actstore-export.json"
"""Says what an exported folder holds, and that it may be replaced."""
_FILES = "files"


@contextlib.contextmanager
def replacing(folder: Path, *, overwrite: bool, needed: int) -> Iterator[Path]:
    """Yield a new folder beside ``folder`` that takes its place if all goes well.

    Args:
        folder: where the files are to be.
        overwrite: whether an earlier export there may be replaced.
        needed: bytes that will be written at least.

    Raises:
        ExportError: something else is there, or the disk cannot hold the files.
    """
    folder = Path(os.path.abspath(folder))
    check_free(folder, overwrite=overwrite)
    parent = folder.parent
    draft = unfinished.draft_of(folder)
    try:
        with saving(folder):
            parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(parent).free
            if free < needed:
                raise ExportError(
                    f"{folder}: the files take about {needed:,} bytes, and {free:,} are free "
                    "there; export to another disk or fewer rows"
                )
            with unfinished.noted(draft, folder):
                try:
                    draft.mkdir()
                    yield draft
                    _swap(draft, folder, overwrite=overwrite)
                finally:
                    shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        if isinstance(error, ActstoreError):  # the store cannot be read
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        said = "cannot be written: the disk is full" if full else error.strerror
        raise ExportError(f"{folder}: {said}; nothing was left there") from error


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Refuse a target that holds something.

    Raises:
        PathError: it is an address, or no possible name.
        ExportError: a file, or a folder with files that no export wrote, beside those of one too;
            an earlier export without ``overwrite``.
    """
    paths.local(folder)
    if not os.path.lexists(folder):
        return
    if not folder.is_dir() or folder.is_symlink():
        raise ExportError(f"{folder}: is no folder; name one that is empty or not there yet")
    if not any(folder.iterdir()):
        return
    if not (folder / MARK).is_file():
        raise ExportError(
            f"{folder}: holds files that no export wrote, which are never replaced; name "
            "another folder, or empty this one"
        )
    if not overwrite:
        raise ExportError(f"{folder}: holds an earlier export; --overwrite replaces all of it")
    if added := _added(folder):
        raise ExportError(
            f"{folder}: holds an earlier export, and files that it did not write "
            f"({listed(added)}), which are never replaced; move them, or name another folder"
        )


def mark(folder: Path, content: dict[str, Any]) -> None:
    """Write what the folder holds, and which files are the export's."""
    text = strict_json.dumps(content | {_FILES: _files(folder)}, indent=2, sort_keys=True)
    (folder / MARK).write_text(text + "\n", encoding="utf-8")


def _files(folder: Path) -> list[str]:
    """Return all files below a folder, links among them, in order."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _added(folder: Path) -> list[str]:
    """Return the files beside those that an export says it wrote; none where it says nothing."""
    try:
        own = {*json.loads((folder / MARK).read_text(encoding="utf-8"))[_FILES]}
    except (ValueError, LookupError, TypeError):  # of a version that did not say it
        return []
    return [path for path in _files(folder) if path != MARK and path not in own]


def _swap(draft: Path, folder: Path, *, overwrite: bool) -> None:
    if not folder.exists():
        draft.rename(folder)
        return
    check_free(folder, overwrite=overwrite)  # again: an export takes long enough to put files there
    old = unfinished.before_of(draft)
    folder.rename(old)
    try:
        draft.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
