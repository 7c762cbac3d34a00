"""Says what a file really is, from its first bytes rather than its name."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from pathlib import Path

# torch's legacy format begins with a pickle (protocol 2) of this magic number.
LEGACY_TORCH_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."

_HEAD = 512


def sniff(path: Path) -> str | None:
    """The container kind that ``path`` really holds, or None where it is none of them."""
    return _look(Path(path))[0]


def describe(path: Path) -> str:
    """What ``path`` really is, in words for an error text: ``a plain pickle``, ``empty``, …"""
    return _look(Path(path))[1]


def _look(path: Path) -> tuple[str | None, str]:
    try:
        if path.is_dir():
            return _look_into_folder(path)
        with path.open("rb") as file:
            head = file.read(_HEAD)
            size = file.seek(0, 2)
            file.seek(max(0, size - 1))
            last = file.read(1)
    except OSError as error:
        return None, f"not readable ({error.strerror})"
    # First: the length that it begins with may be any bytes, those of a pickle or zip among them.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= size:
        return "safetensors", "a safetensors file"
    if head.startswith(b"PK"):
        return _look_into_zip(path)
    if head.startswith(b"\x1f\x8b"):
        return _look_into_gzip(path)
    return _look_at_bytes(head, size, last)


def _look_at_bytes(head: bytes, size: int, last: bytes) -> tuple[str | None, str]:
    if not head:
        return None, "empty (0 bytes)"
    if head.startswith(LEGACY_TORCH_MAGIC):
        return "torch", "a torch file of the legacy format"
    if head.startswith(b"\x93NUMPY"):
        return "numpy", "a NumPy .npy file"
    if head.startswith(b"PAR1"):
        return "parquet", "a Parquet file"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "huggingface", "an Arrow file"
    if head[0] == 0x80 and len(head) > 1 and head[1] <= 5:
        return "pickle", "a plain pickle"
    if head.startswith(b"version https://git-lfs"):
        return None, "a Git LFS pointer; fetch the file itself with `git lfs pull`"
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return None, "a web page; the download went wrong"
    if not head.strip(b"\x00"):
        return None, "zeros at its beginning, as an interrupted download leaves them"
    if head[257:262] == b"ustar":
        return None, "a tar archive"
    if head[:1] in b"(]}c" and last == b".":
        return "pickle", "a plain pickle of an old protocol"
    if head[:1] in b"{[":
        return None, "probably JSON"
    return None, "of no format known here"


def _look_into_zip(path: Path) -> tuple[str | None, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    # zipfile lets several of its parsing errors through as they are.
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return None, "a zip archive that is cut off or damaged"
    if any(name.rsplit("/", 1)[-1] == "constants.pkl" for name in names):
        return None, "a TorchScript archive"
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return "torch", "a torch file"
    if names and all(name.endswith(".npy") for name in names):
        return "numpy", "a NumPy .npz file"
    return None, "a zip archive without tensors"


def _look_into_gzip(path: Path) -> tuple[str | None, str]:
    try:
        with gzip.open(path) as file:
            head = file.read(_HEAD)
    except (OSError, EOFError, zlib.error):
        return None, "a gzip file that is cut off or damaged"
    inner, words = _look_at_bytes(head, len(head), head[-1:])
    return ("pickle" if inner == "pickle" else None), f"gzip, and inside it {words}"


def _look_into_folder(path: Path) -> tuple[str | None, str]:
    names = {entry.name for entry in path.iterdir()}
    if "dataset_dict.json" in names or "state.json" in names:
        return "huggingface", "a data set folder of save_to_disk"
    if any(name.endswith((".arrow", ".parquet")) for name in names):
        return "huggingface", "a folder of tables"
    return None, "a folder"
