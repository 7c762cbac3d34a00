"""Ingests files, exports them, ingests the export: and holds each against what it should equal."""

from __future__ import annotations

import pickle
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

import actstore
from actstore.exporting.run import ExportSummary
from actstore.ingestion.run import ingest
from tests.ingestion.storing import Row, stored_rows

OWN = ("run_id", "row_id", "shard")
"""What no two stores share."""


def export(store: Path, to: str, folder: Path, *args: Any, **options: Any) -> ExportSummary:
    """Export a store that lies in a folder."""
    with actstore.open(store) as opened:
        done = opened.export(to, folder, *args, **options)
    assert isinstance(done, ExportSummary)
    return done


def round_trip(
    source: Path,
    work: Path,
    to: str,
    *,
    options: dict[str, Any] | None = None,
    changed: Collection[str] = (),
    **exporting: Any,
) -> Path:
    """Ingest, export and ingest again: every column but ``changed`` and every bit are equal."""
    given = {"recipe": to, **(options or {})}
    first = ingest(source, work / "first", **given)
    assert not first.refused
    export(work / "first", to, work / "out", **exporting)
    second = ingest(work / "out", work / "second", **given)
    assert not second.refused
    assert second.rows_written == first.rows_written
    assert_same_rows(work / "first", work / "second", changed)
    return work / "out"


def assert_same_rows(left: Path, right: Path, changed: Collection[str] = ()) -> None:
    """Compare two stores row by row, in any order."""
    mine, theirs = (sorted(stored_rows(store), key=_key) for store in (left, right))
    assert len(mine) == len(theirs)
    for row, other in zip(mine, theirs, strict=True):
        hidden = {*OWN, *changed, "activation"}
        assert {k: v for k, v in row.items() if k not in hidden} == {
            k: v for k, v in other.items() if k not in hidden
        }
        assert row["activation"].dtype == other["activation"].dtype
        assert row["activation"].tobytes() == other["activation"].tobytes()


def _key(row: Row) -> tuple[str, ...]:
    names = ("model", "dataset", "site", "layer", "mode", "task", "variant", "label")
    places = [str(row[name]) for name in names]
    number = (row["example_id"], f"{row['example_index'] or 0:06}", f"{row['position'] or 0:06}")
    return (*places, *number)


def assert_same_files(
    source: Path, exported: Path, pattern: str = "**/*.pt", *, renamed: tuple[str, str] = ("", "")
) -> int:
    """Compare every tensor file: the same names, keys in the same order, types, shapes, bits."""
    wanted = sorted(path.relative_to(source) for path in source.glob(pattern))
    assert wanted
    for relative in wanted:
        name = str(relative)
        if renamed[0]:
            name = name.replace(*renamed)
        assert_same(load(source / relative), load(exported / name), str(relative))
    return len(wanted)


def load(path: Path) -> Any:
    """Open a file as its original reader does; torch files safely."""
    if path.suffix == ".pkl":
        with path.open("rb") as file:
            return pickle.load(file)
    return torch.load(path, weights_only=True)


def assert_same(left: Any, right: Any, where: str) -> None:
    """Compare two documents to the bit."""
    assert type(left) is type(right), where
    if isinstance(left, torch.Tensor):
        assert (left.dtype, left.shape) == (right.dtype, right.shape), where
        assert left.contiguous().view(torch.uint8).equal(right.contiguous().view(torch.uint8))
    elif isinstance(left, dict):
        assert list(left) == list(right), where
        for key in left:
            assert_same(left[key], right[key], f"{where}[{key!r}]")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for number, (one, other) in enumerate(zip(left, right, strict=True)):
            assert_same(one, other, f"{where}[{number}]")
    else:
        assert left == right, where


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
