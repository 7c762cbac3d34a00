"""`actstore sync`, and the commands that work on a store in a bucket."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from actstore.remote.bucket import Bucket
from actstore.remote.bucket_address import parse_bucket
from tests.commands.conftest import Command


@pytest.fixture
def folder(store: Path) -> Path:
    return store


def test_a_store_is_copied_and_worked_on(folder: Path, bucket: str, actstore: Command) -> None:
    assert "would copy" in actstore("sync", folder, bucket, "--dry-run").out
    assert "there is no store at" in actstore("info", bucket).err
    assert json.loads(actstore("sync", folder, bucket, "--json").out)["commits"] == [1]
    assert "none, as before" in actstore("sync", folder, bucket).out
    shutil.rmtree(folder)
    assert "sound: 2 shards, 40 rows" in actstore("verify", bucket).out
    done = actstore("label", bucket, "--set", "'wrong'", "--where", "example_id = 'e1'")
    assert "commit 2: 2 labels changed" in done.out
    assert [each["commit"] for each in json.loads(actstore("log", bucket, "--json").out)] == [2, 1]
    assert json.loads(actstore("info", bucket, "--json").out)["rows"] == 40
    rows = actstore("query", bucket, "SELECT count(*) AS n FROM activations", "--format", "csv")
    assert rows.out.split() == ["n", "40"]
    assert "moved" in rows.err
    assert actstore("sync", bucket, folder).code == 0
    assert actstore("verify", folder).code == 0


def test_pruning_in_a_bucket(folder: Path, bucket: str, actstore: Command) -> None:
    actstore("sync", folder, bucket)
    actstore("label", bucket, "--set", "'wrong'")
    done = actstore("compact", bucket, "--prune")
    assert "commit 3: 2 shards became 2, 40 labels folded in" in done.out
    assert "removed 0 old commits" in done.out
    assert "2 old commits stayed" in done.err
    done = actstore("compact", bucket, "--prune", "--grace", "0", "--json")
    assert json.loads(done.out)["pruned"]["commits"] == 2
    assert "--grace is for buckets" in actstore("compact", folder, "--grace", "1").err


def test_an_ingest_into_a_bucket(bucket: str, tmp_path: Path, actstore: Command) -> None:
    import numpy as np

    source = tmp_path / "source"
    source.mkdir()
    for number in range(3):
        np.save(source / f"e{number}.npy", np.ones((2, 8), np.float32) * number)
    words: tuple[object, ...]
    words = ("ingest", source, "--store", bucket, "--model", "m", "--site", "resid_post")
    words = (*words, "--yes", "--layer-from", "axis0")
    dry = actstore(*words, "--dry-run")
    assert dry.code == 0, dry.err
    assert "there is no store" in actstore("info", bucket).err
    done = actstore(*words)
    assert done.code == 0, done.err
    assert "report  reports/" in done.out
    reports = Bucket(parse_bucket(bucket)).objects("reports")
    assert [each.path.endswith(".json") for each in reports] == [True]
    assert json.loads(actstore("info", bucket, "--json").out)["rows"] == 6
    assert "6 were there already" in actstore(*words).out
