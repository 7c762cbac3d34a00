"""Files are opened ahead, in order, a bounded number of bytes at a time."""

from __future__ import annotations

import _thread
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actstore.errors import UnreadableFileError
from actstore.ingestion import containers, read_ahead
from actstore.ingestion.discovery import assign
from actstore.ingestion.recipe import Recipe
from actstore.ingestion.recipes import parse
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.walking import walk

RECIPE = parse(
    'name = "r"\ncontainer = "numpy"\nreader = "none"\n[[files]]\npath = "{number:int}.npy"\n'
)


def files(folder: Path, count: int, size: int = 4) -> tuple[Recipe, list[SourceFile]]:
    for number in range(count):
        np.save(folder / f"{number}.npy", np.full(size, number, np.float32))
    found, _ = assign(RECIPE, walk([folder]))
    return RECIPE, found


def test_files_come_in_order(tmp_path: Path) -> None:
    before = _thread._count()
    found = list(read_ahead.ahead(*files(tmp_path, 100)))
    assert [int(each.document.numpy()[0]) for each in found] == list(range(100))
    _wait_for_threads(before)


def test_errors_come_with_their_file(tmp_path: Path) -> None:
    recipe, found = files(tmp_path, 3)
    (tmp_path / "1.npy").write_bytes(b"")
    loaded = list(read_ahead.ahead(recipe, found))
    assert [each.error is None for each in loaded] == [True, False, True]
    assert isinstance(loaded[1].error, UnreadableFileError)
    assert loaded[1].file.relative == "1.npy"


def test_at_most_so_many_bytes_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, found = files(tmp_path, 20, size=1000)
    size = found[0].size
    opened: list[Path] = []
    read = containers.read

    def counted(kind: str, path: Path, **options: Any) -> Any:
        opened.append(path)
        return read(kind, path, **options)

    monkeypatch.setattr(containers, "read", counted)
    monkeypatch.setattr(read_ahead, "AHEAD_BYTES", 3 * size)
    for taken, _ in enumerate(read_ahead.ahead(recipe, found), 1):
        assert len(opened) <= taken + 3
    assert len(opened) == 20


def test_a_file_larger_than_the_bound_is_still_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "AHEAD_BYTES", 1)
    assert len(list(read_ahead.ahead(*files(tmp_path, 5)))) == 5


def test_stopping_early_ends_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _thread._count()
    opened: list[Path] = []
    read = containers.read

    def counted(kind: str, path: Path, **options: Any) -> Any:
        opened.append(path)
        time.sleep(0.01)
        return read(kind, path, **options)

    monkeypatch.setattr(containers, "read", counted)
    loaded = read_ahead.ahead(*files(tmp_path, 100))
    next(loaded)
    loaded.close()
    much = len(opened)
    assert 1 <= much < 10
    _wait_for_threads(before)
    assert len(opened) == much


def _wait_for_threads(number: int) -> None:
    """Wait until there are so many, which takes a thread that is told to end a moment."""
    end = time.monotonic() + 30
    while _thread._count() > number:
        assert time.monotonic() < end
        time.sleep(0.01)
