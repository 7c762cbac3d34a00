"""The public ingest: labels by SQL for what a run stored."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore.errors import SqlError


def samples(folder: Path, names: str) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        np.savez(folder / f"{name}.npz", v=np.full((1, 4), number + 1, np.float32))
    return folder


def labels(store: Path) -> dict[str, str | None]:
    with actstore.open(store) as opened:
        rows = opened.sql("SELECT example_id, label FROM activations").fetchall()
    return dict(rows)


OPTIONS: dict[str, Any] = {"recipe": "numpy", "model": "m", "site": "resid_post", "layer": 1}


def test_an_expression_labels_this_run_and_leaves_other_labels_alone(tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = actstore.ingest(samples(tmp_path / "a", "xy"), store, label_set="'old'", **OPTIONS)
    assert (first.commit, first.labels) == (2, {"old": 2})
    second = actstore.ingest(samples(tmp_path / "b", "z"), store, label_set="'new'", **OPTIONS)
    assert second.labels == {"new": 1}
    assert sorted(filter(None, labels(store).values())) == ["new", "old", "old"]


def test_several_sources_are_one_ingest(tmp_path: Path) -> None:
    sources = [samples(tmp_path / name, name) for name in ("xy", "z", "w")]
    done = actstore.ingest(sources, tmp_path / "store", **OPTIONS)
    assert (done.files_read, done.commit) == (4, 1)
    assert sorted(labels(tmp_path / "store")) == ["w:0", "x:0", "y:0", "z:0"]


def test_a_dry_run_labels_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    source = samples(tmp_path / "a", "xy")
    summary = actstore.ingest(source, store, label_set="'x'", dry_run=True, **OPTIONS)
    assert summary.commit is None
    assert not store.exists()


@pytest.mark.parametrize("wrong", ["no_such", "nope(", "label; SELECT 1", "read_text('x')"])
def test_wrong_sql_is_refused_before_anything_is_stored(tmp_path: Path, wrong: str) -> None:
    store = tmp_path / "store"
    with pytest.raises(SqlError):
        actstore.ingest(samples(tmp_path / "a", "xy"), store, label_set=wrong, **OPTIONS)
    assert not store.exists()


def test_an_expression_may_compute_on_vectors(tmp_path: Path) -> None:
    store = tmp_path / "store"
    score = "CASE WHEN norm(activation) > 3 THEN 'long' ELSE 'short' END"
    actstore.ingest(samples(tmp_path / "a", "xy"), store, label_set=score, **OPTIONS)
    assert sorted(filter(None, labels(store).values())) == ["long", "short"]
