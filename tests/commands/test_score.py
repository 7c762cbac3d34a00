"""`actstore score`: saved probes on the rows of a store."""

import csv
import json
import secrets
from pathlib import Path

import pytest

import actstore as package
from actstore.remote.syncing import sync
from tests.analysis import labelled
from tests.commands.conftest import Command


@pytest.fixture
def probes(actstore: Command, tmp_path: Path) -> Path:
    labelled.layered(tmp_path / "train", {3: 2.5, 5: 2.5}, rows=40, width=16)
    words = ("--permutations", 0, "--out", tmp_path / "probes")
    assert actstore("probe", tmp_path / "train", *words).code == 0
    labelled.layered(tmp_path / "new", {3: 2.5, 5: 2.5}, rows=20, width=16, seed=3, first=40)
    return tmp_path / "probes"


def test_scores_go_to_screen_file_and_labels(
    actstore: Command, probes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--probe", probes, "--layers", "3", "-o", tmp_path / "x.csv", "--write-label", "class")
    monkeypatch.setenv("ACTSTORE_CACHE", str(tmp_path / "cache"))
    place = f"memory://{secrets.token_hex(6)}"
    sync(tmp_path / "new", place)
    assert actstore("score", place, *words).code == 0
    done = actstore("score", tmp_path / "new", *words)
    assert done.code == 0, done.err
    with package.open(place) as one, package.open(tmp_path / "new") as other:
        assert one.labels == other.labels
        assert one.commit == other.commit
    assert done.out.splitlines()[1].split()[:4] == ["resid_post", "last", "3", "20"]
    lines = (tmp_path / "x.csv").read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(lines))
    assert len(rows) == 20
    with package.open(tmp_path / "new") as store:
        labels = store.select(layer=3).table(["label"])["label"].to_pylist()
    assert labels == [row["class"] for row in rows]
    assert "commit 3: 20 rows labelled" in done.err


def test_rows_of_the_making_are_left_out_or_marked(
    actstore: Command, probes: Path, tmp_path: Path
) -> None:
    done = actstore("score", tmp_path / "new", "--probe", probes, "--json")
    entries = json.loads(done.out)
    assert [entry["layer"] for entry in entries] == [3, 5]
    assert [(e["in_sample"], e["in_sample_shown"]) for e in entries] == [(0, False)] * 2
    labelled.layered(tmp_path / "new", {3: 2.5, 5: 2.5}, rows=30, width=16)  # of the making
    done = actstore("score", tmp_path / "new", "--probe", probes, "-o", tmp_path / "x.csv")
    assert "note: left out: 30 rows of each layer that share" in done.err
    assert [line.split()[3:5] for line in done.out.splitlines()[1:]] == [["20", "30"]] * 2
    rows = list(csv.DictReader((tmp_path / "x.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["in_sample"].lower() for row in rows} == {"false"}
    assert len(rows) == 40
    words = ("--in-sample", "--write-label", "class", "-o", tmp_path / "x.csv")
    done = actstore("score", tmp_path / "new", "--probe", probes, *words)
    assert done.out.splitlines()[0].split()[3:5] == ["rows", "in-sample"]
    assert "note: IN-SAMPLE: 30 rows of each layer" in done.err
    rows = list(csv.DictReader((tmp_path / "x.csv").read_text(encoding="utf-8").splitlines()))
    assert sum(row["in_sample"].lower() == "true" for row in rows) == 60
    assert "IN-SAMPLE" in actstore("log", tmp_path / "new").out
    done = actstore("score", tmp_path / "train", "--probe", probes)
    assert done.code == 1
    assert "all 40 rows share their example or question" in done.err


def test_another_model_is_refused(actstore: Command, probes: Path, tmp_path: Path) -> None:
    labelled.layered(tmp_path / "other", {3: 1.0}, rows=8, width=16, model="b/other")
    done = actstore("score", tmp_path / "other", "--probe", probes)
    assert done.code == 1
    assert "org/model" in done.err
    assert "b/other" in done.err
