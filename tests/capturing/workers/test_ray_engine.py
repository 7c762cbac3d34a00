"""Captures by Ray are those of one process, whatever is lost on the way."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore.capturing.prompts.data import open_questions
from actstore.capturing.run.finalize import finalize
from actstore.capturing.run.options import CaptureSettings, Source
from actstore.capturing.run.provenance import Identity
from actstore.capturing.workers.ray_engine import capture_with_ray
from actstore.capturing.workers.worker import Work
from actstore.errors import StoreNotFoundError, UsageError
from actstore.remote.syncing import sync
from actstore.storage.snapshot import open_snapshot
from actstore.storage.verification import verify
from tests.capturing import clusters, families
from tests.remote.bucket_fixtures import *  # noqa: F403
from tests.torture.effort import TORTURE

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed"
)
long = pytest.mark.skipif(not TORTURE, reason="takes minutes: make torture")
PIECE, ROWS = 64, 4
"""Examples of a piece, and rows of an example."""


def capture(folder: Path, model: Any, store: str) -> Any:
    return actstore.capture(
        model,
        None if model is None else families.tokenizer(),
        open_questions(folder / "q.jsonl"),
        store=folder / store,
        **clusters.OPTIONS,
    )


def assert_as_alone(folder: Path) -> int:
    """Check that the store by Ray has every row of a capture by one process, bit for bit.

    Returns how many rows these are.
    """
    alone = capture(folder, families.build("llama"), "alone").selection()
    together = capture(folder, None, "ray").selection()
    names = [
        name
        for name in alone.table().column_names
        if name not in ("run_id", "captured_at", "row_id")
    ]
    assert together.table(names).equals(alone.table(names))
    assert np.array_equal(together.numpy(mixed=True), alone.numpy(mixed=True))
    found = finalize(
        Source(open_questions(folder / "q.jsonl")),
        store=folder / "ray",
        options=CaptureSettings(**clusters.OPTIONS),
        identity=Identity("tiny", None),
    )
    assert found.complete
    snapshot = open_snapshot(folder / "ray")
    assert verify(snapshot) == []
    snapshot.close()
    return len(together)


def test_a_worker_is_lost_and_its_pieces_are_captured_by_another_one(tmp_path: Path) -> None:
    examples = 320
    clusters.study(tmp_path, examples)
    store = tmp_path / "ray"
    with clusters.start(tmp_path, questions={70: clusters.Holding}) as driver:
        worker = clusters.held(driver, tmp_path, 70)
        clusters.wait_until(lambda: store.exists() and clusters.stored(store) > 0)
        clusters.kill(worker)
        told = clusters.result(driver)
    assert told["said"].count("was lost") == 1
    assert told["examples"] + told["skipped"] == examples  # skipped: told too late
    assert (told["rows"], told["rows_present"]) == (assert_as_alone(tmp_path), 0)
    rows = actstore.open(store).select(layer=0, pooling="last")
    ids = rows.table(["example_id"])["example_id"].to_pylist()
    assert told["by_ray"] == [rows.rows.tolist(), ids, rows.tensor().tolist()]


def test_a_piece_that_is_long_on_its_way_is_captured(tmp_path: Path) -> None:
    examples = 130
    clusters.study(tmp_path, examples)
    late = examples - 1  # of the last piece: "there is no more" must not overtake it
    with clusters.start(tmp_path, workers=1, questions={late: clusters.Late}) as driver:
        told = clusters.result(driver)
    assert "was lost" not in told["said"]
    assert (told["examples"], told["skipped"]) == (examples, 0)
    assert told["rows"] == assert_as_alone(tmp_path)


def test_what_stored_examples_come_with_now_is_told(tmp_path: Path) -> None:
    clusters.study(tmp_path, 70)
    capture(tmp_path, families.build("llama"), "ray")
    asked = (tmp_path / "q.jsonl").read_text().replace('"oracle": "a"', '"oracle": "b"')
    (tmp_path / "r.jsonl").write_text(asked)
    with clusters.start(tmp_path, workers=1, data="r.jsonl") as driver:
        told = clusters.result(driver)
    assert (told["examples"], told["skipped"]) == (0, 70)
    (note,) = [each for each in told["notes"] if "than in the store" in each]
    assert note.startswith("another oracle than in the store came with 70 examples (id ")


@long
def test_a_node_is_lost(tmp_path: Path) -> None:
    examples = 640
    clusters.study(tmp_path, examples)
    store = tmp_path / "ray"
    with (
        clusters.cluster(tmp_path, 3) as cluster,
        clusters.start(
            tmp_path, cluster.address, workers=3, questions={200: clusters.Holding}
        ) as driver,
    ):
        worker = clusters.held(driver, tmp_path, 200)
        clusters.wait_until(lambda: store.exists() and clusters.stored(store) > 0)
        clusters.remove_node(cluster, tmp_path, worker)
        cluster.add_node(num_cpus=1, **clusters.SMALL)
        told = clusters.result(driver)
    assert told["said"].count("was lost") >= 1  # Ray may take others for lost where all is slow
    assert told["examples"] + told["skipped"] == examples  # skipped: told too late
    assert (told["rows"], told["rows_present"]) == (assert_as_alone(tmp_path), 0)


@long
def test_into_a_bucket_by_four_workers_of_whom_one_and_a_node_are_lost(
    tmp_path: Path, bucket: str
) -> None:
    examples = 640
    clusters.study(tmp_path, examples)
    place = f"{bucket}/study"
    with (
        clusters.cluster(tmp_path, 4) as cluster,
        clusters.start(
            tmp_path,
            cluster.address,
            workers=4,
            place=place,
            questions={200: clusters.Holding, 500: clusters.Holding},
        ) as driver,
    ):
        worker = clusters.held(driver, tmp_path, 200)
        clusters.wait_until(lambda: _commits(place) > 1)
        clusters.kill(worker)
        worker = clusters.held(driver, tmp_path, 500)
        clusters.wait_until(lambda: _commits(place) > 4)
        clusters.remove_node(cluster, tmp_path, worker)
        cluster.add_node(num_cpus=1, **clusters.SMALL)
        told = clusters.result(driver)
    assert told["said"].count("was lost") >= 2
    assert told["examples"] + told["skipped"] == examples
    sync(place, tmp_path / "ray")
    assert told["rows"] == assert_as_alone(tmp_path)
    # The server may make a commit of a worker after that is lost: its piece is computed again.
    again = sum(map(int, re.findall(r"(\d+) pieces? not stored yet", told["said"])))
    assert told["rows_present"] <= again * PIECE * ROWS


def _commits(place: str) -> int:
    try:
        return actstore.open(place).commit
    except StoreNotFoundError:
        return 0


@long
def test_the_driver_is_lost_and_started_again(tmp_path: Path) -> None:
    examples = 450
    clusters.study(tmp_path, examples)
    store = tmp_path / "ray"
    with clusters.cluster(tmp_path, 2) as cluster:
        with clusters.start(
            tmp_path, cluster.address, questions={examples - 1: clusters.Holding}
        ) as driver:
            clusters.held(driver, tmp_path, examples - 1)
            clusters.wait_until(lambda: store.exists() and clusters.stored(store) > 0)
            clusters.kill(driver.pid)
        clusters.wait_until(lambda: not clusters.workers_of(tmp_path))
        there, commit = clusters.stored(store), clusters.latest(store)
        with clusters.start(tmp_path, cluster.address) as driver:
            told = clusters.result(driver)
    rows = assert_as_alone(tmp_path)
    assert 0 < there < rows
    assert (told["rows"], told["rows_present"]) == (rows - there, 0)
    before = len(actstore.open(tmp_path / "ray", commit).select().values_of("example_id"))
    assert told["examples"] == examples - before  # nothing is computed twice
    with clusters.start(tmp_path) as driver:
        again = clusters.result(driver)
    assert (again["examples"], again["skipped"], again["rows"]) == (0, examples, 0)


@long
@pytest.mark.parametrize("kind", [clusters.Ending, clusters.Unreadable])
def test_a_piece_that_ends_every_worker_is_named(
    tmp_path: Path, kind: type[clusters.Question]
) -> None:
    clusters.study(tmp_path, 200)
    # The first worker is still at the piece before: the first time it is not clear over what.
    questions: dict[int, type[clusters.Question]] = {3: clusters.Holding, 70: kind}
    with clusters.start(tmp_path, workers=1, questions=questions) as driver:
        _, err = driver.communicate(timeout=900)
    assert driver.returncode == 1
    assert err.count("was lost") == 3
    assert "piece 1 (examples 65 to 128, from q.jsonl:65" in err
    assert "3 workers were lost while they were at it" in err
    assert clusters.stored(tmp_path / "ray") > 0  # of the other pieces


def test_a_store_that_no_worker_sees_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"id": "a", "question": "Is it?"}\n')
    work = Work(
        store="memory://runs",
        folder=tmp_path,
        model="tiny",
        load={},
        options=clusters.OPTIONS,
        settings={},
        world_size=1,
        size=4,
    )
    source = Source(open_questions(tmp_path / "q.jsonl"))
    with pytest.raises(UsageError, match="in the memory of this process, where no worker"):
        capture_with_ray(source, work)
