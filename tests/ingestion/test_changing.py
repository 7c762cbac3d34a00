"""A source file that is changed while it is read is refused, and nothing of it is stored."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actstore.errors import PathError
from actstore.ingestion.run import ingest
from actstore.ingestion.sidecar_table import read_records
from actstore.storage.rows import RowBatch
from actstore.storage.writer import StoreWriter
from tests.ingestion.storing import stored_rows


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4)


def replace(path: Path) -> None:
    beside = path.with_name("beside")
    beside.write_bytes(path.read_bytes())
    os.utime(beside, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    beside.replace(path)


def write_over(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")


def remove(path: Path) -> None:
    path.unlink()


CHANGES = {
    "grew from": grow,
    "shrank from": shrink,
    "was replaced": replace,
    "was written to": write_over,
    "is gone": remove,
}


@pytest.fixture(params=["npz", "parquet"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two files; the second is changed while its rows go into the store."""
    folder = tmp_path / "acts"
    folder.mkdir()
    for name in ("a", "b"):
        vectors = np.random.default_rng(ord(name)).standard_normal((6, 4), np.float32)
        if request.param == "npz":
            np.savez(folder / f"{name}.npz", v=vectors)
        else:
            ids = pa.array([f"{name}{row}" for row in range(6)])
            table = pa.table({"example_id": ids, "activation": list(vectors)})
            pq.write_table(table, folder / f"{name}.parquet")
    for path in folder.iterdir():
        os.utime(path, ns=(10**18, 10**18))
    return folder


@pytest.mark.parametrize("said", CHANGES)
def test_nothing_of_it_is_stored(
    source: Path, tmp_path: Path, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, change = StoreWriter.add, CHANGES[said]
    (last,) = (path for path in source.iterdir() if path.stem == "b")
    pending: Iterator[Callable[[Path], None]] = iter([change])

    def add(self: StoreWriter, batch: RowBatch) -> Any:
        added = real(self, batch)
        if any("b." in str(name) for name in (batch.constants.get("source"), *_sources(batch))):
            for do in pending:
                do(last)
        return added

    monkeypatch.setattr(StoreWriter, "add", add)
    summary = ingest(source, tmp_path / "s", model="m", site="s", layer=1, yes=True)
    (refused,) = summary.refused
    assert refused.path == last.name
    assert said in refused.reason
    assert "nothing of it is stored" in refused.reason
    assert str(tmp_path) not in refused.reason
    rows = stored_rows(tmp_path / "s")
    assert len(rows) == 6
    assert {row["source"].partition(".")[0] for row in rows} == {"a"}


def _sources(batch: RowBatch) -> list[object]:
    return list(batch.columns.get("source") or ())


def test_untouched_files_are_stored(source: Path, tmp_path: Path) -> None:
    summary = ingest(source, tmp_path / "s", model="m", site="s", layer=1, yes=True)
    assert (summary.refused, summary.rows_written) == ((), 12)


def test_a_table_that_is_changed_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,label\n1,a\n")
    real, seen = os.fstat, 0

    def fstat(descriptor: int) -> os.stat_result:
        nonlocal seen
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(path):
            seen += 1
            if seen == 3:  # the last look, when all was read
                grow(path)
        return real(descriptor)

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(PathError, match="was changed while it was read"):
        read_records(path)
