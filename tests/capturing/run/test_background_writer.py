"""The writing thread: windows whole and in order, failures handed over, the model made to wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from actstore.capturing.run import background_writer, provenance
from actstore.capturing.run.background_writer import Sink, WindowRows
from actstore.errors import ConflictError
from actstore.storage.rows import RowBatch
from actstore.storage.snapshot import open_snapshot
from actstore.storage.writer import StoreWriter


def batch(*ids: int, value: float = 1.0) -> RowBatch:
    return RowBatch(
        vectors=np.full((len(ids), 4), value, np.float32),
        constants={"model": "m", "site": "resid_post", "layer": 0, "pooling": "last"},
        columns={"example_id": [str(number) for number in ids]},
    )


def part(number: int, *batches: RowBatch) -> WindowRows:
    return WindowRows(lambda: batches, {"examples": number})


def writer(store: Path) -> StoreWriter:
    return StoreWriter(store, run=provenance.new_run({"model": "m"}))


def put(
    store: Path,
    parts: list[WindowRows],
    then: type[BaseException] | None = None,
    commit_seconds: float | None = 0,
) -> None:
    """Put parts, with a commit after each, and fail in the end if asked to."""
    with writer(store) as opened, Sink(opened, commit_seconds=commit_seconds) as sink:
        for each in parts:
            sink.put(each)
        if then is not None:
            raise then


def stored(store: Path) -> tuple[int, dict[str, Any], list[str]]:
    snapshot = open_snapshot(store)
    try:
        manifest = snapshot.manifest
        return snapshot.rows, manifest.runs[-1].settings["progress"], [manifest.message]
    finally:
        snapshot.close()


def test_everything_is_committed_at_the_end(tmp_path: Path) -> None:
    with writer(tmp_path / "s") as open_writer, Sink(open_writer) as sink:
        sink.put(part(2, batch(1, 2)))
        sink.put(part(3, batch(3), batch(2)))
    assert (sink.written, sink.present, sink.bytes, sink.commit) == (3, 1, 48, 1)
    assert stored(tmp_path / "s") == (3, {"examples": 3, "rows": 3}, ["capture m on examples"])


def test_commits_come_at_the_ends_of_windows(tmp_path: Path) -> None:
    with writer(tmp_path / "s") as open_writer, Sink(open_writer, commit_seconds=0) as sink:
        for number in range(4):
            sink.put(part(number, batch(number)))
    assert open_writer.commits == [1, 2, 3, 4]


@pytest.mark.parametrize("commit_takes", [0.0, 1e4])
@pytest.mark.parametrize(
    ("commit_seconds", "commits"),
    [
        (0, 8),  # after each window, however long the commits take
        (60, 4),  # 40 seconds a window
        (1e6, 1),
    ],
)
def test_when_commits_are_due(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    commit_takes: float,
    commit_seconds: float,
    commits: int,
) -> None:
    """Of a long run a twentieth may pass between commits, of none with 0."""
    clock = [0.0]

    def window(number: int) -> Iterator[RowBatch]:
        clock[0] += 40
        yield batch(number)

    with writer(tmp_path / "s") as opened:
        commit = opened.commit

        def slow(**words: str) -> int | None:
            clock[0] += commit_takes
            return commit(**words)

        monkeypatch.setattr(background_writer, "time", SimpleNamespace(monotonic=lambda: clock[0]))
        monkeypatch.setattr(opened, "commit", slow)
        with Sink(opened, commit_seconds=commit_seconds) as sink:
            for number in range(8):
                sink.put(WindowRows(partial(window, number), {"examples": number}))
    if commit_takes and commit_seconds == 60:
        # The first after 80 s; then the run has taken 10,080 s, of which a twentieth is 504 s.
        commits = 2
    assert len(opened.commits) == commits


def test_an_error_of_the_model_keeps_the_windows_that_were_put(tmp_path: Path) -> None:
    parts = [part(2, batch(1, 2)), part(4, batch(3, 4))]
    with pytest.raises(KeyboardInterrupt):
        put(tmp_path / "s", parts, then=KeyboardInterrupt, commit_seconds=None)
    rows, progress, (message,) = stored(tmp_path / "s")
    assert (rows, progress) == (4, {"examples": 4, "rows": 4})
    assert message.endswith("(broken off)")


def test_a_failure_of_the_store_reaches_the_model(tmp_path: Path) -> None:
    parts = [part(1, batch(1)), *[part(2, batch(1, value=2.0))] * 20]
    with pytest.raises(ConflictError):
        put(tmp_path / "s", parts)
    assert stored(tmp_path / "s")[:2] == (1, {"examples": 1, "rows": 1})


def test_half_a_window_is_never_stored(tmp_path: Path) -> None:
    def failing() -> Iterator[RowBatch]:
        yield batch(7)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        put(tmp_path / "s", [part(1, batch(1)), WindowRows(failing, {"examples": 2})])
    assert stored(tmp_path / "s")[:2] == (1, {"examples": 1, "rows": 1})


def test_the_model_waits_for_the_disk(tmp_path: Path) -> None:
    gate = threading.Event()
    made: list[int] = []

    def slow(number: int) -> WindowRows:
        def rows() -> Iterator[RowBatch]:
            gate.wait()
            made.append(number)
            yield batch(number)

        return WindowRows(rows, {"examples": number})

    with writer(tmp_path / "s") as opened, Sink(opened) as sink:
        for number in range(3):  # one at work, two waiting
            sink.put(slow(number))
        fourth = threading.Thread(target=sink.put, args=(slow(3),))
        fourth.start()
        fourth.join(0.5)
        assert fourth.is_alive()
        assert made == []
        gate.set()
        fourth.join()
    assert made == [0, 1, 2, 3]
