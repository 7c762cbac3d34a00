"""Which files a source holds, in natural order, one folder after the other."""

from __future__ import annotations

import heapq
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from actstore import paths
from actstore.errors import UsageError
from actstore.ingestion.source_file import Entry

_DIGITS = re.compile(r"(\d+)")
_SURROGATE = re.compile("[\ud800-\udfff]")

_Natural = tuple[tuple[int, int, str], ...]


def natural(text: str) -> _Natural:
    """Return a sort key that puts ``batch_2`` before ``batch_10``."""
    return tuple(
        (0, int(piece), piece) if piece.isdecimal() else (1, 0, piece)
        for piece in _DIGITS.split(text)
        if piece
    )


def readable(name: str) -> str:
    """Return a file name as text; bytes that are no UTF-8 become U+FFFD, one for one."""
    return _SURROGATE.sub("\ufffd", name)


@dataclass(slots=True)
class Passed:
    """What a walk has passed by."""

    links: list[str] = field(default_factory=list)
    """Links that were not followed, each with where it leads, pipes and devices."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Folders that could not be listed, and files that could not be looked at, and why."""


def walk(sources: Sequence[Path], passed: Passed | None = None) -> list[Entry]:
    """Return every file of the sources in natural order.

    Hidden files and folders are left out, and links that lead out of their source or
    nowhere; ``passed`` takes these, and folders that may not be listed. A file costs some 200
    bytes: there may be millions.

    Raises:
        UsageError: a source does not exist, or is neither a folder nor a file.
    """
    # Not resolve(): a source that is itself a link keeps the name that it was given.
    places = [(given, Path(os.path.abspath(paths.local(given)))) for given in sources]
    found = [_files_of(given, place, passed or Passed()) for given, place in places]
    if len(found) == 1:
        return list(found[0])
    known: set[str] = set()
    once: list[list[Entry]] = []
    for entries in found:  # a file is of the first source that holds it
        once.append([entry for entry in entries if entry.spelled not in known])
        known.update(entry.spelled for entry in once[-1])
    return list(heapq.merge(*once, key=lambda entry: [_place(each) for each in entry.path.parts]))


def _files_of(given: Path, source: Path, passed: Passed) -> Iterable[Entry]:
    kind = paths.kind_of(source)
    if kind is None:
        gone = "is a link to something that is not there" if source.is_symlink() else ""
        raise UsageError(f"{given}: {gone or 'no such file or folder'}")
    if kind not in ("a file", "a folder"):
        raise UsageError(f"{given}: is {kind}; a source is a folder or a file")
    if kind == "a folder":
        return _below(source, passed)
    size = source.stat().st_size
    name = source.name
    return [Entry(root=source.parent, tail=name, relative=readable(name), size=size)]


class _Named(NamedTuple):
    """What a folder holds."""

    name: str
    is_folder: bool
    is_link: bool


def _place(name: str) -> tuple[_Natural, str]:
    """Return what names in a folder are sorted by; no two of them are equal."""
    return natural(name), name


def _below(source: Path, passed: Passed) -> Iterator[Entry]:
    real = Path(os.path.realpath(source))
    seen: set[str] = set()
    # A stack, and no recursion: folders may be nested deeper than Python's calls.
    folders = [("", iter(_listed(source, "", real, seen, passed)))]
    while folders:
        above, names = folders[-1]
        each = next(names, None)
        if each is None:
            folders.pop()
            continue
        tail = f"{above}{each.name}"
        if each.is_folder:
            folders.append((f"{tail}/", iter(_listed(source, tail, real, seen, passed))))
        elif (entry := _entry(source, tail, each, real, passed)) is not None:
            yield entry


def _listed(source: Path, tail: str, real: Path, seen: set[str], passed: Passed) -> list[_Named]:
    """Return what is in a folder, but for what is hidden, in natural order."""
    folder = source / tail
    # A link back to a folder above would go round forever.
    here = os.path.realpath(folder)
    if here in seen:
        return []
    if not Path(here).is_relative_to(real):
        passed.links.append(_leading(folder, source))
        return []
    seen.add(here)
    try:
        with os.scandir(folder) as there:
            found = [
                _Named(each.name, _is_folder(each), each.is_symlink())
                for each in there
                if not each.name.startswith(".")
            ]
    except OSError as error:
        passed.refused.append((readable(tail) or ".", f"cannot be listed: {_why(error)}"))
        return []
    return sorted(found, key=lambda each: _place(each.name))


def _is_folder(each: os.DirEntry[str]) -> bool:
    try:
        return each.is_dir()
    except OSError:
        return False


def _entry(source: Path, tail: str, named: _Named, real: Path, passed: Passed) -> Entry | None:
    path = source / tail
    if named.is_link and not Path(os.path.realpath(path)).is_relative_to(real):
        passed.links.append(_leading(path, source))
        return None
    relative = readable(tail)
    try:
        status = path.stat()
    except OSError as error:
        if named.is_link:  # to nowhere
            passed.links.append(_leading(path, source))
        else:
            passed.refused.append((relative, f"cannot be looked at: {_why(error)}"))
        return None
    # Opening any other kind could wait for ever, as a FIFO does.
    if not stat.S_ISREG(status.st_mode):
        passed.links.append(f"{relative}, which is {paths.kind_of(path)}")
        return None
    if relative == tail:
        relative = tail  # one text for both
    return Entry(root=source, tail=tail, relative=relative, size=status.st_size)


def _why(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "no permission to look into the folder"
    return error.strerror or str(error)


def _leading(link: Path, source: Path) -> str:
    """Name a link that is not followed, below its source, and where it leads.

    As it is spelled, but without folders outside of the source: this is stored, and pushed.
    """
    gone = "" if link.exists() else ", which does not exist"
    target = os.readlink(link) if link.is_symlink() else os.path.realpath(link)
    if os.path.isabs(target) or ".." in target.split("/"):
        target = f"…/{os.path.basename(target.rstrip('/'))}"
    return readable(f"{link.relative_to(source).as_posix()} -> {target}{gone}")
