"""The study on two nodes into a bucket, with losses on the way, is the study on one machine.

What is measured is printed: `ACTSTORE_TORTURE=all pytest -s tests/study/test_on_a_cluster.py`.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import actstore
from actstore.capturing.prompts.data import open_questions
from actstore.capturing.run.options import CaptureOptions
from actstore.errors import StoreNotFoundError
from actstore.models.loading import load
from docs.study import facts, model
from tests.capturing import clusters
from tests.remote.bucket_fixtures import *  # noqa: F403
from tests.torture.effort import TORTURE

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
    pytest.mark.skipif(bool(model.missing()), reason="the study's packages are not installed"),
    pytest.mark.skipif(not TORTURE, reason="takes minutes: make torture"),
]
OPTIONS: CaptureOptions = {
    "model_name": model.NAME,
    "dataset": "cities",
    "chat_template": False,
    "pool": ("prompt.last",),
    "batch_size": 16,
    "piece": 16,
}
LAYERS = 30


def test_two_nodes_of_whom_one_is_lost_and_a_worker_that_is_killed(
    tmp_path: Path, bucket: str
) -> None:
    count = 2 * facts.CITIES
    facts.write(tmp_path)
    (tmp_path / model.NAME).symlink_to(model.checkpoint(), target_is_directory=True)
    place = f"{bucket}/cities.store"
    begun = time.monotonic()
    with (
        clusters.cluster(tmp_path, 2, workers=2) as cluster,
        clusters.start(
            tmp_path,
            cluster.address,
            workers=4,
            place=place,
            questions={100: clusters.Holding, 250: clusters.Holding},
            model=model.NAME,
            data="cities.jsonl",
            options=OPTIONS,
        ) as driver,
    ):
        worker = clusters.held(driver, tmp_path, 100, 900)
        clusters.wait_until(lambda: _commits(place) > 1, 900)
        before_kill = _commits(place)
        clusters.kill(worker)
        worker = clusters.held(driver, tmp_path, 250, 900)
        clusters.wait_until(lambda: _commits(place) > 5)
        before_removal = _commits(place)
        clusters.remove_node(cluster, tmp_path, worker)
        told = clusters.result(driver, 900)
    print(f"{time.monotonic() - begun:.0f} s, {told['said']}")
    print(f"killed at commit {before_kill}, removed at commit {before_removal} of {told['commit']}")
    assert told["said"].count("was lost") >= 2  # the worker, and those of the node
    assert told["examples"] + told["skipped"] == count
    assert (told["rows"], told["rows_present"]) == (count * LAYERS, 0)
    assert told["self_check"] is not None

    verified = _actstore("verify", place)
    print(verified)
    assert verified.startswith("sound: ")
    grouped = "SELECT label, count(*) AS n, avg(norm) AS norm FROM activations GROUP BY ALL"
    found = json.loads(_actstore("query", place, grouped, "--json"))
    print(found)
    assert {row["label"]: row["n"] for row in found} == {
        "true": count // 2 * LAYERS,
        "false": count // 2 * LAYERS,
    }
    probe = _actstore("probe", place, *PROBE)
    print(probe)
    row = dict(zip(*(line.split() for line in probe.splitlines()[1:3]), strict=False))
    assert float(row["auroc"]) > 0.9
    print(_actstore("sync", place, str(tmp_path / "ray")))

    torch.set_num_threads(1)
    loaded = load(model.checkpoint(), dtype="float32", device="cpu")
    whole: CaptureOptions = {**OPTIONS, "rank": 0, "world_size": 1}
    alone, together = (
        actstore.capture(
            asked,
            None if asked is None else loaded.processor,
            open_questions(tmp_path / "cities.jsonl"),
            store=tmp_path / store,
            **whole,
        ).selection()
        for asked, store in ((loaded.model, "alone"), (None, "ray"))
    )
    names = [
        name
        for name in alone.table().column_names
        if name not in ("run_id", "captured_at", "row_id")
    ]
    assert len(alone) == count * LAYERS
    assert together.table(names).equals(alone.table(names))
    assert np.array_equal(together.numpy(mixed=True), alone.numpy(mixed=True))


PROBE = ("--label", "label", "--positive", "true", "--layer", "20")


def _commits(place: str) -> int:
    try:
        return actstore.open(place).commit
    except StoreNotFoundError:
        return 0


def _actstore(*words: str) -> str:
    """Run a command as users do; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "actstore", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
