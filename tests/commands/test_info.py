"""`actstore info` counts what is there."""

import json
from pathlib import Path

import numpy as np

import actstore as api
from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from tests.commands.conftest import Command


def test_numbers_for_people(actstore: Command, store: Path) -> None:
    lines = actstore("info", store).out.splitlines()
    assert "rows    40 of 20 examples" in lines
    assert "labels  faithful 20 (10 examples), unfaithful 20 (10 examples)" in lines
    assert [line.split()[2:8] for line in lines[-2:]] == [
        ["mean", "NULL", "3", "8", "float16", "20"],
        ["mean", "NULL", "7", "8", "float16", "20"],
    ]


def test_numbers_for_programs_at_any_commit(actstore: Command, store: Path) -> None:
    set_labels(open_snapshot(store), np.arange(30), [None] * 30, message="fewer")
    now = json.loads(actstore("info", store, "--json").out)
    assert (now["rows"], now["commit"], now["unlabelled"]) == (40, 2, 30)
    assert (now["examples"], sum(now["label_examples"].values())) == (20, 10)
    before = json.loads(actstore("info", store, "--at", 1, "--json").out)
    assert (before["commit"], before["unlabelled"]) == (1, 0)


def test_compaction_is_advised_where_it_would_help_and_does_what_was_said(
    actstore: Command, tmp_path: Path
) -> None:
    root = tmp_path / "many.store"
    with api.open(root, create=True) as store:
        for number in range(5):
            vectors = {("resid_post", layer): np.ones((1, 4), np.float32) for layer in range(20)}
            store.write(vectors, {"example_id": [f"e{number}"]}, model="org/model")
            if number < 4:
                assert "small shards" not in actstore("info", root).out
    told = "100 small shards would become 20: run `actstore compact`"
    assert told in actstore("info", root).out
    assert json.loads(actstore("info", root, "--json").out)["shards_compacted"] == 20
    assert actstore("compact", root).code == 0
    found = json.loads(actstore("info", root, "--json").out)
    assert (found["shards"], found["shards_compacted"]) == (20, 20)
    assert "small shards" not in actstore("info", root).out


def test_a_command_that_is_told_can_be_pasted(actstore: Command, tmp_path: Path) -> None:
    told = actstore("info", tmp_path / "my runs").err
    assert f"--store '{tmp_path / 'my runs'}'" in told
