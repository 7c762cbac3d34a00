"""A session gathers writes: few commits and shards, whole writes, and nothing lost by an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore.errors import ConflictError, UsageError
from actstore.ingestion.write_session import WriteSession
from tests.ingestion.tiny import MODEL

WHERE = [("resid_post", layer) for layer in range(3)]


def cache(number: int, *, plus: float = 0.0) -> dict[Any, np.ndarray]:
    return {place: np.full((2, 4), number + plus, np.float16) for place in WHERE}


def examples(number: int) -> dict[str, list[str]]:
    return {"example_id": [f"{number}a", f"{number}b"]}


def ids(root: Path) -> list[str]:
    with actstore.open(root) as store:
        found = store.sql("SELECT DISTINCT example_id FROM activations ORDER BY 1").fetchall()
    return [row[0] for row in found]


def test_many_writes_become_one_commit_of_one_shard_a_layer(tmp_path: Path) -> None:
    store = actstore.open(tmp_path, create=True)
    with store.writer(message="eight prompts") as session:
        for number in range(8):
            done = session.write(cache(number), examples(number), model=MODEL)
            assert (done.commit, done.rows_written, session.commits) == (None, 6, [])
        again = session.write(cache(3), examples(3), model=MODEL)
        assert (again.rows_written, again.rows_repeated) == (0, 6)
        assert session.pending_rows == 48
    assert session.commits == [1]
    assert store.rows == 0
    store.refresh()
    manifest = store._snapshot.manifest
    assert (store.rows, len(manifest.shards), manifest.message) == (48, 3, "eight prompts")
    found = store.select(layer=1).numpy()
    np.testing.assert_array_equal(found[:, 0], np.repeat(np.arange(8), 2))


def test_an_exception_keeps_whole_writes_and_nothing_of_the_one_that_failed(
    tmp_path: Path,
) -> None:
    halves = {**cache(2), ("resid_post", 9): np.zeros((3, 4), np.float16)}

    def failing() -> None:
        with WriteSession(tmp_path) as session:
            session.write(cache(1), examples(1), model=MODEL)
            session.write(halves, examples(2), model=MODEL)

    def interrupted() -> None:
        with WriteSession(tmp_path) as session:
            session.write(cache(3), examples(3), model=MODEL)
            raise KeyboardInterrupt

    with pytest.raises(UsageError, match="3 examples"):
        failing()
    assert ids(tmp_path) == ["1a", "1b"]
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ids(tmp_path) == ["1a", "1b", "3a", "3b"]


def test_a_conflict_leaves_what_waits(tmp_path: Path) -> None:
    with WriteSession(tmp_path) as session:
        session.write(cache(1), examples(1), model=MODEL)
        with pytest.raises(ConflictError):
            session.write(cache(1, plus=0.5), examples(1), model=MODEL)
        session.write(cache(2), examples(2), model=MODEL)
    assert session.commits == [1]
    assert ids(tmp_path) == ["1a", "1b", "2a", "2b"]


def test_what_waits_too_long_is_committed_by_the_next_write(tmp_path: Path) -> None:
    with WriteSession(tmp_path, seconds=0) as session:
        assert session.write(cache(1), examples(1), model=MODEL).commit == 1
        assert session.write(cache(2), examples(2), model=MODEL).commit == 2
        assert session.commit() is None
    assert session.commits == [1, 2]


def test_other_options_begin_another_run(tmp_path: Path) -> None:
    with WriteSession(tmp_path) as session:
        session.write(cache(1), examples(1), model=MODEL)
        session.write(cache(2), examples(2), model=MODEL, dataset="data")
        done = session.write(cache(1, plus=0.5), examples(1), model=MODEL, replace=True)
        assert done.rows_replaced == 6
    assert session.commits == [1, 2, 3]
    with actstore.open(tmp_path) as store:
        runs = store._snapshot.manifest.runs
        assert [run.settings.get("dataset") for run in runs] == [None, "data", None]
        assert sorted(set(store.select(layer=0).numpy()[:, 0].tolist())) == [1.5, 2.0]


def test_what_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="seconds"):
        WriteSession(tmp_path, seconds=-1)
    session = WriteSession(tmp_path)
    with pytest.raises(UsageError, match="message"):
        session.write(cache(1), examples(1), model=MODEL, message="mine")
    session.close()
    session.close()
    with pytest.raises(UsageError, match="over"):
        session.write(cache(1), examples(1), model=MODEL)
    assert session.commits == []
