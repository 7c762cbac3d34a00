"""Captures by Ray are those of one process, whatever is lost on the way."""

from __future__ import annotations

import importlib.util
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
    driver = clusters.start(tmp_path)
    clusters.wait_until(lambda: store.exists() and clusters.stored(store) > 0)
    clusters.kill(clusters.workers_of(tmp_path)[0])
    told = clusters.result(driver)
    assert "was lost" in told["said"]
    assert told["examples"] + told["skipped"] == examples  # skipped: told too late
    assert (told["rows"], told["rows_present"]) == (assert_as_alone(tmp_path), 0)
    rows = actstore.open(store).select(layer=0, pooling="last")
    ids = rows.table(["example_id"])["example_id"].to_pylist()
    assert told["by_ray"] == [rows.rows.tolist(), ids, rows.tensor().tolist()]


@long
def test_a_node_is_lost(tmp_path: Path) -> None:
    examples = 1500
    clusters.study(tmp_path, examples)
    store = tmp_path / "ray"
    with clusters.cluster(tmp_path, 3) as cluster:
        driver = clusters.start(tmp_path, cluster.address, workers=3)
        clusters.wait_until(lambda: store.exists() and clusters.stored(store) > 0)
        cluster.remove_node(clusters.busy_node(cluster, tmp_path), allow_graceful=False)
        cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
        told = clusters.result(driver)
    assert "was lost" in told["said"]
    assert told["examples"] + told["skipped"] == examples  # skipped: told too late
    assert (told["rows"], told["rows_present"]) == (assert_as_alone(tmp_path), 0)


@long
def test_into_a_bucket_by_four_workers_of_whom_one_and_a_node_are_lost(
    tmp_path: Path, bucket: str
) -> None:
    examples = 1500
    clusters.study(tmp_path, examples)
    place = f"{bucket}/study"
    with clusters.cluster(tmp_path, 4) as cluster:
        driver = clusters.start(tmp_path, cluster.address, workers=4, place=place)
        clusters.wait_until(lambda: _commits(place) > 1)
        clusters.kill(clusters.workers_of(tmp_path)[0])
        clusters.wait_until(lambda: _commits(place) > 4)
        cluster.remove_node(clusters.busy_node(cluster, tmp_path), allow_graceful=False)
        cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
        told = clusters.result(driver)
    assert told["said"].count("was lost") >= 2
    assert told["examples"] + told["skipped"] == examples
    sync(place, tmp_path / "ray")
    assert (told["rows"], told["rows_present"]) == (assert_as_alone(tmp_path), 0)


def _commits(place: str) -> int:
    try:
        return actstore.open(place).commit
    except StoreNotFoundError:
        return 0


@long
def test_the_driver_is_lost_and_started_again(tmp_path: Path) -> None:
    examples = 1000
    clusters.study(tmp_path, examples)
    store = tmp_path / "ray"
    with clusters.cluster(tmp_path, 2) as cluster:
        driver = clusters.start(tmp_path, cluster.address)
        clusters.wait_until(lambda: store.exists() and clusters.stored(store) > 0)
        clusters.kill(driver.pid)
        driver.communicate()
        clusters.wait_until(lambda: not clusters.workers_of(tmp_path))
        there, commit = clusters.stored(store), clusters.latest(store)
        told = clusters.result(clusters.start(tmp_path, cluster.address))
    rows = assert_as_alone(tmp_path)
    assert 0 < there < rows
    assert (told["rows"], told["rows_present"]) == (rows - there, 0)
    before = len(actstore.open(tmp_path / "ray", commit).select().values_of("example_id"))
    assert told["examples"] == examples - before  # nothing is computed twice
    again = clusters.result(clusters.start(tmp_path))
    assert (again["examples"], again["skipped"], again["rows"]) == (0, examples, 0)


@long
def test_a_piece_that_ends_every_worker_is_named(tmp_path: Path) -> None:
    clusters.study(tmp_path, 200)
    driver = clusters.start(tmp_path, workers=1, ending=70)
    _, err = driver.communicate(timeout=300)
    assert driver.returncode == 1
    assert err.count("was lost") == 3  # the first time it is not clear over what
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
