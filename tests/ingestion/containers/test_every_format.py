"""What every format must do: be read as it was written, or be refused by name."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

from actstore.errors import IngestError, UnreadableFileError, UnsafeFileError
from actstore.ingestion.containers import KINDS, describe, mapping, read, sniff
from tests.ingestion.containers.formats import FORMATS, Format, values
from tests.torture.effort import TORTURE

MASKS = (0xFF, 0x01, 0x20)
"""What is changed in a byte: all of its bits, the lowest, the one that makes letters small."""


@pytest.fixture(params=FORMATS, ids=str)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Format:
    found: Format = request.param
    if found.mapped:
        monkeypatch.setattr(mapping, "MAP_FROM", 1)
    return found


def test_what_was_written_is_read(form: Format, tmp_path: Path) -> None:
    path = tmp_path / "a b\n.c"
    form.write(path, form.content)
    assert sniff(path) == form.kind
    found = read(form.kind, path)
    assert values(found) == form.holds
    if isinstance(found, dict):
        assert list(found) == list(form.holds)


def test_files_beyond_the_memory_limit(form: Format, tmp_path: Path) -> None:
    """What is held in memory obeys the limit; what stays in the file need not."""
    path = tmp_path / "large"
    form.write(path, form.bulky)
    read(form.kind, path, memory_limit=1 << 26)
    if form.limited:
        with pytest.raises(UnsafeFileError, match=f"large: .*{form.limited}"):
            read(form.kind, path, memory_limit=1000)
    else:
        read(form.kind, path, memory_limit=1000)


def renewed(path: Path, data: bytes) -> None:
    """Write a new file of the same name: one that is overwritten would change what is mapped."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def test_cut_off_anywhere_it_is_refused(form: Format, tmp_path: Path) -> None:
    path = tmp_path / "short"
    form.write(path, form.content)
    data = path.read_bytes()
    refused = named = 0
    for length in range(0, len(data), min(form.stride, 5)):
        renewed(path, data[:length])
        try:
            found = values(read(form.kind, path))
        except UnreadableFileError as error:
            refused += 1
            named += "short: " in str(error)
        else:
            assert form.prefixes
            assert found == form.holds[: len(found)]
    assert named == refused > 20


def test_any_damaged_byte_gives_data_or_our_error(form: Format, tmp_path: Path) -> None:
    path = tmp_path / "is damaged"
    form.write(path, form.content)
    data = path.read_bytes()
    outcomes: Counter[str] = Counter()
    for position, mask in damages(len(data), form.stride):
        flipped = bytearray(data)
        flipped[position] ^= mask
        renewed(path, bytes(flipped))
        try:
            values(read(form.kind, path))
        except IngestError as error:
            outcomes["refused"] += 1
            outcomes["named"] += "is damaged: " in str(error)
        else:
            outcomes["read"] += 1
    assert outcomes["named"] == outcomes["refused"] > 75
    assert outcomes["read"] > 5


def damages(length: int, stride: int) -> list[tuple[int, int]]:
    """Return which bytes to change, and what to change in them: one thing each, in turn.

    Everything is changed in every byte where ``ACTSTORE_TORTURE`` asks for it.
    """
    if TORTURE:
        return [(position, mask) for mask in MASKS for position in range(length)]
    step = max(1, stride // len(MASKS))
    return list(zip(range(0, length, step), itertools.cycle(MASKS), strict=False))


@pytest.mark.parametrize("kind", KINDS)
def test_empty_and_missing_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    with pytest.raises(UnreadableFileError, match="cannot be opened"):
        read(kind, path)
    path.touch()
    with pytest.raises(UnreadableFileError, match=r"x: is empty \(0 bytes\)"):
        read(kind, path)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "huggingface"])
def test_folders(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UnreadableFileError, match="is a folder"):
        read(kind, tmp_path)


OTHERS = {
    "text": (b"hello there, friends", "of no format known"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "web page": (b"<!DOCTYPE html><html>", "web page"),
    "zeros": (b"\x00" * 4096, "interrupted download"),
    "cut zip": (b"PK\x03\x04" + b"\x00" * 100, "(cut off or|zip archive is) damaged"),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("kind", KINDS)
def test_files_of_no_format_are_named(tmp_path: Path, kind: str, other: str) -> None:
    content, named = OTHERS[other]
    path = tmp_path / "x.y"
    path.write_bytes(content)
    with pytest.raises(UnreadableFileError, match=rf"(?s)x\.y: .*{named}"):
        read(kind, path)


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (kind, written)
        for written in FORMATS
        for kind in KINDS
        if not written.mapped
        and kind != written.kind
        # A single Parquet file is a data set, too.
        and (kind, written.kind) != ("huggingface", "parquet")
    ],
    ids=str,
)
def test_files_of_another_format_are_named(kind: str, written: Format, tmp_path: Path) -> None:
    path = tmp_path / "x.y"
    written.write(path, written.content)
    with pytest.raises(UnreadableFileError, match=r"(?s)x\.y: ") as caught:
        read(kind, path)
    assert describe(path) in str(caught.value)
