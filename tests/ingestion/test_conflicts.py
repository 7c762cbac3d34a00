"""Rows that cannot both be stored: named by where they come from, foretold by a dry run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore.errors import ConflictError, StoreNotFoundError
from actstore.ingestion.ingest import ingest
from actstore.ingestion.report import IngestSummary

OPTIONS: dict[str, Any] = {"model": "m", "recipe": "numpy"}


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def both(source: Path, store: Path, **more: Any) -> tuple[IngestSummary, IngestSummary]:
    """Return what a dry run says and what a run does; they must agree."""
    options = {**OPTIONS, **more}
    dry = ingest(source, store, dry_run=True, **options)
    real = ingest(source, store, **options)
    for name in ("files_read", "rows_written", "rows_present", "rows_repeated", "rows_replaced"):
        assert getattr(dry, name) == getattr(real, name)
    assert (dry.refused, dry.groups, dry.labels) == (real.refused, real.groups, real.labels)
    return dry, real


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


def test_two_tensors_of_one_file(source: Path, tmp_path: Path) -> None:
    np.savez(source / "q.npz", a=draw(8), b=draw(8) + 1)
    dry, _ = both(source, tmp_path / "s", site="resid_post")
    (path, reason) = dry.refused[0]
    assert path == "q.npz"
    assert "q.npz#a and q.npz#b have one key and different vectors" in reason
    assert "example_id=q, site=resid_post, pooling=unknown, no layer" in reason
    assert '--map "variant={tensor.key}" keeps both' in reason
    assert "already stored" not in reason
    _, real = both(source, tmp_path / "s", site="resid_post", map={"variant": "{tensor.key}"})
    assert (real.rows_written, real.refused) == (2, ())


def test_two_files(source: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("q1_true", "q1_false")):
        np.savez(source / f"{name}.npz", acts=draw(8) + number, pair=np.array(1))
    _, real = both(source, tmp_path / "s", map={"example_id": "pair"})
    ((path, reason),) = real.refused
    assert path == "q1_true.npz"
    assert "q1_true.npz#acts has the key of q1_false.npz#acts and another vector" in reason
    names = {"example_id": "pair", "variant": "{stem}"}
    _, real = both(source, tmp_path / "s2", map=names)
    assert (real.rows_written, real.refused) == (2, ())


def test_two_rows_of_one_tensor(source: Path, tmp_path: Path) -> None:
    ids: dict[str, Any] = {
        "example_id": np.array(["x", "y", "x"]),
        "example_index": np.array([0, 1, 0]),
    }
    np.savez(source / "all.npz", acts=draw(3, 8), **ids)
    dry, _ = both(source, tmp_path / "s")
    assert "two rows of all.npz#acts have one key" in dry.refused[0].reason
    assert "--map example_id=KEY" in dry.refused[0].reason


def test_a_row_that_is_stored(source: Path, tmp_path: Path) -> None:
    np.savez(source / "q.npz", acts=draw(8))
    both(source, tmp_path / "s")
    np.savez(source / "q.npz", acts=draw(8) + 1)
    np.savez(source / "new.npz", acts=draw(8))
    dry, real = both(source, tmp_path / "s")
    assert (dry.rows_written, real.commit) == (1, 2)
    assert "already stored with a different vector: model=m" in dry.refused[0].reason
    assert "--replace takes the new one" in dry.refused[0].reason
    _, real = both(source, tmp_path / "s", replace=True)
    assert (real.rows_written, real.rows_replaced, real.rows_present) == (1, 1, 1)


def test_rows_that_the_source_repeats_were_not_there_already(source: Path, tmp_path: Path) -> None:
    ids: dict[str, Any] = {"example_id": np.array(["x"] * 50), "example_index": np.zeros(50, int)}
    np.savez(source / "all.npz", acts=np.ones((50, 8), np.float32), **ids)
    _, real = both(source, tmp_path / "s")
    assert (real.rows_written, real.rows_present, real.rows_repeated) == (1, 0, 49)
    _, real = both(source, tmp_path / "s")
    assert (real.rows_written, real.rows_present, real.rows_repeated) == (0, 50, 0)


def test_in_memory(tmp_path: Path) -> None:
    store = actstore.open(tmp_path / "s", create=True)
    place = {("resid_post", 3): draw(2, 8)}
    with pytest.raises(ConflictError, match=r"two rows of .* have one key.*its own example_id"):
        store.write(place, {"id": ["a", "a"]}, model="m", pool="last")
    store.write(place, {"id": ["a", "b"], "label": ["x", "y"]}, model="m", pool="last")
    twice = {("resid_post", 3): np.repeat(draw(2, 8)[:1], 3, axis=0)}
    done = store.write(twice, {"id": ["c", "c", "c"]}, model="m", pool="last")
    assert (done.rows_written, done.rows_present, done.rows_repeated) == (1, 0, 2)
    changed = {("resid_post", 3): np.concatenate([draw(2, 8)[:1], draw(1, 8)])}
    with pytest.raises(ConflictError, match=r"already stored with .*example_id=b.*replace=True"):
        store.write(changed, {"id": ["a", "b"]}, model="m", pool="last")
    done = store.write(changed, {"id": ["a", "b"]}, model="m", pool="last", replace=True)
    assert (done.rows_written, done.rows_replaced, done.rows_present) == (1, 1, 1)
    found = store.select(example_id=["a", "b"])
    np.testing.assert_array_equal(found.numpy(), changed["resid_post", 3])
    assert [row["label"] for row in found] == ["x", None]
    with pytest.raises(ConflictError, match="two rows of"):
        store.write(place, {"id": ["b", "b"]}, model="m", pool="last", replace=True)
    assert store.commit == done.commit


def test_a_store_that_got_no_row_says_where_the_reasons_are(source: Path, tmp_path: Path) -> None:
    np.savez(source / "q.npz", a=draw(8), b=draw(8) + 1)
    ingest(source, tmp_path / "s", site="resid_post", **OPTIONS)
    with pytest.raises(StoreNotFoundError, match=r"has no rows yet: .*reports"):
        actstore.open(tmp_path / "s")
