"""Names of files and folders in a store, and durable ways to put files there."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

ACTIVATIONS = "activations"
MANIFESTS = "manifests"
SEGMENTS = f"{MANIFESTS}/segments"
LABELS = "labels"
REPORTS = "reports"
STAGING = ".staging"
REMOTES = "remotes"
CACHE = ".cache"
CARD = "README.md"
KNOWN = frozenset({ACTIVATIONS, MANIFESTS, LABELS, REPORTS, REMOTES, STAGING, CACHE, CARD})

_MANIFEST = "[0-9]" * 10 + ".json"
_SEGMENT = re.compile(rf"{SEGMENTS}/[0-9a-f]{{20}}\.json")


@lru_cache(maxsize=4096)
def slug(name: str) -> str:
    """Return ``name`` as one safe path segment: ``/`` becomes ``--``, oddities ``_``.

    Different names can share a slug; the manifest, not the path, says what a shard holds.
    """
    text = name.strip("/").replace("/", "--")
    text = re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip(".")[:120]
    return text or "_"


def layer_folder(layer: int | None) -> str:
    """Return the folder of one layer: ``layer_012``, ``layer_embed`` or ``layer_unknown``."""
    if layer is None:
        return "layer_unknown"
    return "layer_embed" if layer < 0 else f"layer_{layer:03d}"


def vector_tag(width: int, dtype: str) -> str:
    """Return the stored type in a file name, such as ``f16x4096`` or ``i8x4096``."""
    return f"{dtype.replace('float', 'f').replace('int', 'i')}x{width}"


def shard_path(
    *,
    model: str,
    site: str,
    layer: int | None,
    width: int,
    dtype: str,
    transaction: str,
    number: int,
) -> str:
    """Return a shard's path relative to the store, with ``/`` between segments."""
    name = f"{vector_tag(width, dtype)}-{transaction}-{number:05d}.parquet"
    return "/".join((ACTIVATIONS, slug(model), slug(site), layer_folder(layer), name))


def shard_files(root: Path) -> Iterator[str]:
    """Yield the paths of all shard files that lie in a store, live or not, relative to it."""
    # Path.rglob takes a second for 10,000 of them.
    for folder, _, names in os.walk(root / ACTIVATIONS):
        inside = Path(folder).relative_to(root).as_posix()
        yield from (f"{inside}/{name}" for name in names if name.endswith(".parquet"))


def new_transaction() -> str:
    """Return a name for one commit attempt: sorts by time, never repeats."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(4)}"


def manifest_path(root: Path, number: int) -> Path:
    """Return the path of manifest ``number``."""
    return root / MANIFESTS / f"{number:010d}.json"


def segment_path(transaction: str) -> str:
    """Return the path of a new segment of manifests, relative to the store."""
    return f"{SEGMENTS}/{transaction}.json"


def is_segment(path: str) -> bool:
    """Say whether a path, relative to the store, is that of a segment of manifests."""
    return _SEGMENT.fullmatch(path) is not None


def store_around(path: Path) -> Path | None:
    """Return the store that a path lies in, or is, wherever links lead; None outside of any."""
    place = path.resolve()
    for folder in (place, *place.parents):
        if any((folder / MANIFESTS).glob(_MANIFEST)):
            return folder
    return None


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Flush a file that somebody else wrote to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file and flush it to disk; the name is durable after ``sync_folder``."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def link(file: Path, name: Path) -> bool:
    """Give a file another name; False where there is one already, of another file.

    Where the answer of a network drive is lost it is asked again, and says then that the name is
    there, or that it failed: it is looked what the name is of.

    Raises:
        OSError: it cannot be made.
    """
    try:
        os.link(file, name)
    except OSError as error:
        with contextlib.suppress(OSError):
            if file.samefile(name):
                return True
        if isinstance(error, FileExistsError):
            return False
        raise
    return True


def replace_durably(path: Path, data: bytes) -> None:
    """Replace ``path`` in one step: readers see the old content or the new, nothing between."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write_durably(beside, data)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
