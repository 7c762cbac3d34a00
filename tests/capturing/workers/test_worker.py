"""A worker stores the pieces that it is given, and leaves out what others have stored meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import actstore
from actstore.capturing.prompts.data import open_questions
from actstore.capturing.run.pieces import Piece, cut
from actstore.capturing.workers.worker import Work, Worker
from tests.capturing import clusters
from tests.remote.bucket_fixtures import *  # noqa: F403

SIZE = 8


@pytest.fixture
def pieces(tmp_path: Path) -> list[Piece]:
    """Two pieces of a study; a piece has one window."""
    clusters.study(tmp_path, 2 * SIZE)
    return list(cut(open_questions(tmp_path / "q.jsonl"), SIZE))


def ready(folder: Path, store: str | Path, rank: int) -> Worker:
    """Return a worker that has looked at the store and loaded its model."""
    work = Work(
        store=store,
        folder=Path.cwd(),
        model=str(folder / "tiny"),
        load={"device": "cpu", "dtype": "float32"},
        options=clusters.OPTIONS,
        settings={},
        world_size=2,
        size=SIZE,
        commit_seconds=0.0,
    )
    worker = Worker(work, rank)
    worker.ready()
    return worker


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_a_piece_of_a_lost_worker_is_looked_for_in_the_store_as_it_is_now(
    tmp_path: Path, pieces: list[Piece], where: str, request: pytest.FixtureRequest
) -> None:
    folder = where == "folder"
    place = tmp_path / "store" if folder else f"{request.getfixturevalue('bucket')}/store"
    lost, other = (ready(tmp_path, place, rank) for rank in range(2))
    other.give(pieces[:1])
    lost.give(pieces[1:])
    lost.last()
    lost.run()  # and is lost before the driver hears of its commit
    other.give([replace(pieces[1], again=True)])
    other.last()
    summary = other.run()
    assert (summary.examples, summary.skipped, summary.rows_present) == (SIZE, SIZE, 0)
    assert len(actstore.open(place).select(layer=0, pooling="last").values_of("example_id")) == (
        2 * SIZE
    )
