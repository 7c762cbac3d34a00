"""Paths that others name: of this machine, of the kind that is needed, inside what may be read.

Everything that opens a file goes by a path from an argument, a recipe, a table or a folder's
listing. Here such a path becomes an open file, or one error that says why it does not.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import unquote

from actstore.errors import PathError

# Two letters at least: a drive has one. A Path has one slash where the text had two.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_FILE = re.compile(r"file:(?://(?:localhost)?)?(/[^/].*)", re.IGNORECASE | re.DOTALL)
BUCKETS = ("s3", "gs", "az", "memory")
"""Schemes of stores in buckets."""
_LONGEST_NAME = 255
_LONGEST = 4095
_LONGEST_TOML = 1 << 20
_DOTS = 1000
"""A key of many parts takes the parser the square of their number."""
_KINDS = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO (a named pipe)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_DESCRIPTORS = "/proc/self/fd"


def local(place: str | Path) -> Path:
    """Return a place as a path of this machine, there or not.

    Raises:
        PathError: it is an address, or no file system can hold such a name.
    """
    text = os.fspath(place)
    if not text:
        raise PathError("an empty path: name a file or folder")
    shown = f"{text[:80]}…" if len(text) > 80 else text
    if "\0" in text:
        raise PathError(f"{shown!r}: a path cannot hold a NUL byte")
    scheme = _SCHEME.match(text)
    if scheme is not None:
        if scheme[1].lower() == "hf":
            raise PathError(
                f"{shown}: a folder on this machine is needed here, not an address on the Hub; "
                "`actstore pull` fetches a store, `actstore push` puts one there"
            )
        if scheme[1].lower() in BUCKETS:
            shown = re.sub(r":/+", "://", shown, count=1)  # a Path keeps one slash of two
            raise PathError(
                f"{shown}: a path on this machine is needed here, not an address in a bucket; a "
                f"store is copied here with: actstore sync {shown} FOLDER"
            )
        raise PathError(
            f"{shown}: addresses with {scheme[1]}:// cannot be opened; give a path on this "
            "machine, s3://BUCKET/STORE (gs://, az://) for a store in a bucket, or "
            "hf://datasets/ORG/NAME for a store or source on the Hugging Face Hub"
        )
    long = next((p for p in text.split("/") if len(os.fsencode(p)) > _LONGEST_NAME), None)
    if long is not None or len(os.fsencode(text)) > _LONGEST:
        shown = shown if long is None else f"{long[:80]}…"
        raise PathError(
            f"{shown}: the name is too long: one name may take {_LONGEST_NAME} bytes, "
            f"a whole path {_LONGEST}"
        )
    return Path(text)


def local_store(place: str | Path) -> Path:
    """Return a store's folder as a path of this machine; ``file:///path`` is one too.

    Raises:
        PathError: it is another address, or no possible name.
    """
    text = os.fspath(place)
    if not text.lower().startswith("file:/"):
        return local(place)
    found = _FILE.fullmatch(text)
    if found is None:
        raise PathError(f"{text}: write file:///PATH, three slashes, for a path from the root")
    return local(unquote(found[1]))


def kind_of(path: Path) -> str | None:
    """Return what is at a path, links followed, such as ``a folder``; None for nothing.

    Raises:
        PathError: it cannot be looked at: the message says why.
    """
    try:
        mode = local(path).stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from error
    return _kind(mode)


def require_file(place: str | Path) -> Path:
    """Return the path of a file that is there.

    Raises:
        PathError: there is none, or something else; says what.
    """
    path = local(place)
    kind = kind_of(path)
    if kind != "a file":
        raise PathError(f"{path}: {_absent(path) if kind is None else f'is {kind}, not a file'}")
    return path


def require_folder_or_nothing(place: str | Path) -> Path:
    """Return the path of a folder that is there, or may be made.

    Raises:
        PathError: something else is in its place, or the place cannot be looked at.
    """
    path = require_ordinary(place)
    if path.is_file():
        raise PathError(f"{path}: is a file; a folder is needed here")
    return path


def require_ordinary(place: str | Path) -> Path:
    """Return the path of a file or folder that is there, or of nothing yet.

    Raises:
        PathError: something else is there, or the place cannot be looked at.
    """
    path = local(place)
    kind = kind_of(path)
    if kind is None and path.is_symlink():
        raise PathError(f"{path}: {_absent(path)}")
    if kind not in ("a file", "a folder", None):
        raise PathError(f"{path}: is {kind}; a file or folder is needed here")
    return path


def open_file(path: Path, within: Sequence[Path] = ()) -> BinaryIO:
    """Open a regular file for reading; never waits, as for the writer of a FIFO.

    Args:
        path: of the file; links are followed.
        within: real folders, in one of which the file that was opened must really lie.

    Raises:
        PathError: it is no file, cannot be opened, or lies elsewhere.
    """
    require_file(path)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        # Asked of what is open now: the name may lead elsewhere since it was looked at.
        kind = _kind(os.fstat(descriptor).st_mode)
        if kind != "a file":
            raise PathError(f"{path}: is {kind}, not a file")
        if within and not _lies_in(_real(descriptor, path), within):
            raise PathError(f"{path}: leads out of the folders that may be read")
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, within: Sequence[Path] = ()) -> bytes:
    """Return the content of a file that nobody changes meanwhile.

    Raises:
        PathError: as :func:`open_file`, or the file was changed while it was read.
    """
    with open_file(path, within) as file:
        before = _state(os.fstat(file.fileno()))
        try:
            data = file.read()
        except OSError as error:
            raise _unreadable(path, error) from error
        if _state(os.fstat(file.fileno())) != before:
            raise PathError(f"{path}: {_CHANGED}")
    return data


def read_text(path: Path, within: Sequence[Path] = (), *, encoding: str = "utf-8") -> str:
    """Return the text of a file; raises as :func:`read_bytes`, UnicodeDecodeError included."""
    # As text files are read: every line ends in \n.
    text = read_bytes(path, within).decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_toml(text: str) -> dict[str, Any]:
    """Return the document of a TOML text that may be anybody's.

    Raises:
        ValueError: it is no TOML, or such as would keep the parser busy or end it.
    """
    if len(text) > _LONGEST_TOML or any(line.count(".") > _DOTS for line in text.splitlines()):
        raise ValueError(
            f"it has {len(text):,} characters, of at most {_LONGEST_TOML:,}, or a line with more "
            f"than {_DOTS:,} dots"
        )
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def real(path: Path) -> Path:
    """Return where a path leads, all links followed, there or not."""
    return Path(os.path.realpath(path))


def lies_in(path: Path, folders: Sequence[Path]) -> bool:
    """Say whether a path really leads into one of some real folders, or to one itself.

    Upper and lower case are told apart, also where a disk does not: in doubt it is outside.
    """
    return _lies_in(real(path), folders)


def _lies_in(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def shareable(text: str, folders: Mapping[Path, str], files: Iterable[Path] = ()) -> str:
    """Return a text as others may read it, as what is stored: without folders above some.

    Args:
        text: may quote paths, as errors do, those of other libraries too.
        folders: what lies in them is named from there on; each with what it is called itself.
        files: are named by their last part, wherever they lie; what lies in one, from there on.
    """
    known = {path: (f"{path.name}/", path.name) for path in files}
    known |= {path: ("", called) for path, called in folders.items()}
    # The longest first: they may lie in each other.
    for path in sorted(known, key=lambda each: len(each.parts), reverse=True):
        if path.name and (path.is_absolute() or ".." in path.parts):
            inside, itself = known[path]
            for spelled in {str(path), repr(str(path))[1:-1]}:  # what the system says is quoted
                whole = rf"(?<!\w){re.escape(spelled)}"
                text = _replaced(rf"{whole}/", inside, text)
                text = _replaced(rf"{whole}(?![\w-]|\.\w)", itself, text)
                text = _replaced(whole, path.name, text)  # of another name that begins so
    return text


def _replaced(pattern: str, new: str, text: str) -> str:
    return re.sub(pattern, lambda _: new, text)


class State(NamedTuple):
    """By what it is seen that a file was changed, or another put in its place."""

    path: str
    device: int
    inode: int
    size: int
    modified: int


_CHANGED = (
    "was changed while it was read, so it may hold half of what it will; run the same command "
    "again when nothing writes to it any more"
)


def states(path: Path) -> tuple[State, ...]:
    """Return what is seen of a file now, or of all files in a folder.

    Raises:
        OSError: it is gone.
    """
    if not path.is_dir():
        return (_state(path.stat(), str(path)),)
    return tuple(sorted(_state(each.stat(), str(each)) for each in _below(path)))


def change(path: Path, before: Sequence[State]) -> str | None:
    """Say in words how a file or folder differs from what was seen before; None if it does not."""
    try:
        after = states(path)
    except OSError:
        return f"is gone or was moved while it was read; {_AGAIN}"
    if after == tuple(before):
        return None
    if path.is_dir() or len(before) != 1:
        return f"was changed while it was read; {_AGAIN}"
    old, new = before[0], after[0]
    if (old.device, old.inode) != (new.device, new.inode):
        return f"was replaced while it was read; {_AGAIN}"
    if old.size == new.size:
        return f"was written to while it was read; {_AGAIN}"
    word = "grew" if new.size > old.size else "shrank"
    return f"{word} from {old.size:,} to {new.size:,} bytes while it was read; {_AGAIN}"


_AGAIN = "nothing of it is stored: run the same command again when nothing writes to it any more"


def _below(folder: Path) -> Iterator[Path]:
    for home, _, names in os.walk(folder):
        yield from (Path(home) / name for name in names)


def _state(status: os.stat_result, path: str = "") -> State:
    return State(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _kind(mode: int) -> str:
    return next((words for test, words in _KINDS if test(mode)), "of an unknown kind")


def _real(descriptor: int, path: Path) -> Path:
    """Return where an open file lies, asked of the system where it can tell."""
    try:
        return Path(os.readlink(f"{_DESCRIPTORS}/{descriptor}"))
    except OSError:  # no /proc: the name must then still lead to what is open
        found = real(path)
        if not os.path.samestat(os.fstat(descriptor), found.stat()):
            raise PathError(f"{path}: {_CHANGED}") from None
        return found


def _absent(path: Path) -> str:
    if path.is_symlink():
        return "is a link to something that is not there"
    return "no such file"


def _unreadable(path: Path, error: OSError) -> PathError:
    reason = error.strerror or str(error)
    if isinstance(error, PermissionError):
        reason = "no permission to read it"
    return PathError(f"{path}: cannot be opened: {reason}")
