"""The public face: opening, what it says, closing, going on to the next commit."""

import os
from pathlib import Path

import numpy as np
import pytest

import actstore
from actstore.errors import (
    NotInStoreError,
    SnapshotNotFoundError,
    SqlError,
    StoreNotFoundError,
    UsageError,
)
from tests.querying import stores


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    stores.mixed(tmp_path / "s")
    with actstore.open(tmp_path / "s") as store:
        assert isinstance(store, actstore.Store)
        assert store.path == tmp_path / "s"
        assert (store.commit, store.rows, len(store)) == (2, 8, 8)
        assert store.models == ["a/small", "b/large"]
        assert store.layers == [0, 7]
        assert store.sites == ["resid_post"]
        assert store.widths == [4, 6]
        assert store.labels == {"yes": 3, "no": 3, None: 2}
        assert store.info().rows == 8
        assert repr(store) == f"Store('{tmp_path / 's'}', commit 2, 8 rows)"


def test_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="does not exist"):
        actstore.open(tmp_path / "nowhere")
    with pytest.raises(StoreNotFoundError, match="the folder is empty"):
        actstore.open(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(StoreNotFoundError, match=r"it holds notes\.txt"):
        actstore.open(tmp_path)
    with pytest.raises(StoreNotFoundError, match="it is a file"):
        actstore.open(tmp_path / "notes.txt")


def test_opening_an_older_commit(tmp_path: Path) -> None:
    stores.layered(tmp_path / "s")
    with actstore.open(tmp_path / "s", at=1) as store:
        assert (store.rows, store.layers) == (12, [0])
        assert store.sql("SELECT count(*) FROM activations").fetchall() == [(12,)]
        with pytest.raises(NotInStoreError, match="layer 2"):
            store.select(layer=2)
    with pytest.raises(SnapshotNotFoundError, match="no commit 9: it has 1 to 3"):
        actstore.open(tmp_path / "s", at=9)


def test_refresh_goes_on_and_an_open_store_stays(tmp_path: Path) -> None:
    root = tmp_path / "s"
    matrices = stores.layered(root, layers=1)
    with actstore.open(root) as store, actstore.open(root) as other:
        assert store.refresh() is store
        stores.add(root, stores.vectors(3, 8, "float16", 5), layer=-1)
        assert other.sql("SELECT count(*) FROM activations").fetchall() == [(12,)]
        assert np.array_equal(other.select(layer=0).numpy(), matrices[0])
        assert store.refresh().commit == 2
        assert store.layers == [-1, 0]
        assert store.sql("SELECT count(*) FROM activations").fetchall() == [(15,)]
        assert np.array_equal(store.select(layer=0).numpy(), matrices[0])


def test_a_closed_store_says_so_and_its_matrices_live_on(tmp_path: Path) -> None:
    matrices = stores.layered(tmp_path / "s", layers=1)
    store = actstore.open(tmp_path / "s")
    view = store.select(layer=0).numpy(copy=False)
    relation = store.sql("SELECT * FROM activations")
    store.close()
    store.close()
    assert np.array_equal(view, matrices[0])
    for use in (store.select, store.frame, store.info, lambda: store.sql("SELECT 1")):
        with pytest.raises(UsageError, match="was closed"):
            use()
    with pytest.raises(Exception, match=r"(?i)clos"):
        relation.fetchall()
    assert store.refresh().rows == 12
    store.close()


def test_sql_named_and_stream(tmp_path: Path) -> None:
    stores.layered(tmp_path / "s")
    with actstore.open(tmp_path / "s") as store:
        relation = store.sql("SELECT layer, norm FROM activations WHERE layer = $l", {"l": 1})
        assert relation.columns == ["layer", "norm"]
        assert relation.count("norm").fetchall() == [(12,)]
        assert store.named("layers").to_arrow_table().num_rows == 3
        assert store.stream("FROM activations").read_all().num_rows == 36
        with pytest.raises(SqlError, match="read the store and nothing else"):
            store.sql("SELECT * FROM read_text('/etc/hostname')").fetchall()
        (tmp_path / "x.csv").write_text("a\n1\n")
        outside = f"SELECT a FROM read_csv('{tmp_path}/x.csv')"
        assert store.sql(outside, allow_external=True).fetchall() == [(1,)]
        with pytest.raises(SqlError):
            store.sql(outside)


def test_rows_by_number(tmp_path: Path) -> None:
    matrices = stores.layered(tmp_path / "s")
    with actstore.open(tmp_path / "s") as store:
        numbers = [row for (row,) in store.sql(
            "SELECT row_id FROM activations ORDER BY norm DESC LIMIT 5"
        ).fetchall()]  # fmt: skip
        found = store.rows_at(numbers).numpy(mixed=True)
        assert np.array_equal(found, np.concatenate(matrices)[numbers])
        with pytest.raises(UsageError, match="0 to 35"):
            store.rows_at([36])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_that_cannot_be_written_can_be_read(tmp_path: Path) -> None:
    root = tmp_path / "s"
    stores.layered(root)
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        folder.chmod(0o555)
    try:
        with actstore.open(root) as store:
            assert len(store.select(label="yes")) == 12
    finally:
        for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
            folder.chmod(0o755)


def test_a_store_without_rows(tmp_path: Path) -> None:
    from actstore.storage import layout, manifest

    (tmp_path / "manifests").mkdir()
    (tmp_path / layout.STAGING).mkdir()
    empty = manifest.EMPTY.next(operation="test", message="", shards=())
    assert manifest.publish(tmp_path, empty, tmp_path / layout.STAGING)
    with actstore.open(tmp_path) as store:
        assert (store.rows, store.layers, store.labels) == (0, [], {})
        assert store.sql("SELECT * FROM activations").fetchall() == []
        assert store.sql("SELECT avg(norm(activation)) FROM activations").fetchall() == [(None,)]
        assert store.frame().collect().shape == (0, 27)
        assert len(store.select()) == 0
        assert len(store.select("norm > 1")) == 0
        with pytest.raises(NotInStoreError, match="layer 1 is not there: the store is empty"):
            store.select(layer=1)
        with pytest.raises(NotInStoreError, match="label 'x' is not there: the store is empty"):
            store.select(label="x")
        assert store.info().rows == 0
