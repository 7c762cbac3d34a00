"""A rehearsal takes, skips, replaces and refuses what a session does, and writes nothing."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore.errors import ActstoreError, StoreError
from actstore.storage.rehearsal import Rehearsal
from actstore.storage.rows import Added, RowBatch
from actstore.storage.writer import StoreWriter
from tests.storage.stores import RUN, batch, write

_ROWS = st.tuples(st.integers(0, 9), st.integers(0, 2))
"""Number of an example, and which of three vectors it comes with."""
_BATCHES = st.tuples(
    st.lists(_ROWS, min_size=1, max_size=5),
    st.sampled_from([1, 2]),
    st.sampled_from([4, 4, 4, 3]),
    st.sampled_from(["float16", "float32"]),
)
File = list[tuple[list[tuple[int, int]], int, int, str]]

_FILES = st.lists(st.lists(_BATCHES, min_size=1, max_size=3), min_size=1, max_size=6)


def _batch(rows: list[tuple[int, int]], layer: int, width: int, dtype: str) -> RowBatch:
    return RowBatch(
        vectors=np.array([[value] * width for _, value in rows], dtype),
        constants={
            "model": "m",
            "site": "resid_post",
            "pooling": "last",
            "layer": layer,
            "source": f"file of {width}",
        },
        columns={"example_id": [f"e{number}" for number, _ in rows]},
    )


def _told(session: StoreWriter, files: list[File]) -> list[object]:
    """Return what became of each batch of each file, and which stored rows would go."""
    told: list[object] = []
    for file in files:
        try:
            with session.file():
                told += [session.add(_batch(*each)) for each in file]
        except ActstoreError as error:
            told.append((type(error), str(error)))
        else:
            session.checkpoint()
    return [*told, [(each.entry.path, each.rows.tolist()) for each in session.replaced()]]


@settings(max_examples=10, deadline=None)
@given(stored=_FILES, files=_FILES, replace=st.booleans())
def test_it_says_what_a_session_does(stored: list[File], files: list[File], replace: bool) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder) / "s"
        with StoreWriter(root, run=RUN) as session:
            _told(session, stored)
            session.commit(operation="ingest", message="")
        before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
        with Rehearsal(root, run=RUN, replace=replace) as rehearsal:
            foretold = _told(rehearsal, files)
        assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
        with StoreWriter(root, run=RUN, checkpoint_bytes=None, replace=replace) as session:
            assert _told(session, files) == foretold


def test_of_many_rows_it_keeps_what_tells_them_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actstore.storage.rehearsal.CHECKPOINT_ROWS", 4)
    with Rehearsal(tmp_path / "s", run=RUN) as session:
        for first in range(0, 40, 5):
            assert session.add(batch(first, 5)).written == 5
            session.checkpoint()
            assert session.pending_rows == 0
        assert session.add(batch(2, 30)).repeated == 30
        with pytest.raises(ActstoreError, match=r"different vectors: .*example_id=e7"):
            session.add(batch(7, 1, seed=1))
        assert session.add(batch(40, 1, layer=None)).written == 1
    assert not (tmp_path / "s").exists()


def test_where_nothing_can_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is a file"):
        Rehearsal(tmp_path / "file", run=RUN)
    with pytest.raises(StoreError, match="is no store and not empty"):
        Rehearsal(tmp_path, run=RUN)


def _wide(rows: RowBatch) -> RowBatch:
    return RowBatch(
        vectors=rows.vectors.astype(np.float32), constants=rows.constants, columns=rows.columns
    )


def test_vectors_of_both_types_that_are_equal(tmp_path: Path) -> None:
    one = batch(0, 3)
    write(tmp_path / "s", one)
    wide = _wide(one)
    with Rehearsal(tmp_path / "s", run=RUN) as session:
        assert session.add(wide) == Added(0, 3)
        assert session.add(batch(3, 3)).written == 3
        assert session.add(_wide(batch(3, 3))).repeated == 3
