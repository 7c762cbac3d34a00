"""What a change would do is what it does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actstore.errors import SqlError, UsageError
from actstore.querying.changes import Checkout, Drop, Rename, RowGroup, groups_of
from actstore.querying.reader import StoreReader
from actstore.storage import manifest as manifests
from actstore.storage.dropping import rows_by_shard
from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from tests.storage.stores import batch, content, write


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two layers, labels of two rows set afterwards."""
    root = tmp_path / "s"
    write(root, batch(0, 5, layer=1), batch(0, 3, layer=None))
    set_labels(open_snapshot(root), np.array([0, 6]), ["x", "it's"], message="")
    return root


def group(layer: int | None, label: str | None, rows: int) -> RowGroup:
    return RowGroup(model="org/model", site="resid_post", layer=layer, label=label, rows=rows)


@pytest.mark.parametrize("where", ["layer = 1", "label IS NOT NULL", "example_id = 'e1'", "true"])
def test_what_is_shown_of_a_drop_is_what_it_does(store: Path, where: str) -> None:
    drop = Drop(store, where, prune=True)
    shown = drop.outlook
    before = len(content(store))
    done = drop.apply()
    assert done.erased is not None
    assert (shown.rows, shown.groups, shown.left) == (done.rows, done.groups, len(content(store)))
    assert shown.rows == before - len(content(store))
    assert sum(each.rows for each in shown.groups) == shown.rows
    assert (shown.commits, shown.pruned_bytes) == (done.erased.commits, done.erased.bytes)
    assert shown.bytes == shown.rows * 16
    again = Drop(store, "example_id = 'nobody'", prune=True)
    assert again.nothing
    assert again.apply().commit is None


def test_rows_are_grouped_by_labels_as_they_stand(store: Path) -> None:
    wanted = (group(1, "x", 1), group(1, None, 4), group(None, "it's", 1), group(None, None, 2))
    assert Drop(store, "true").outlook.groups == wanted
    snapshot = open_snapshot(store)
    assert groups_of(store, rows_by_shard(snapshot, np.arange(8))) == wanted
    some = groups_of(store, rows_by_shard(snapshot, np.array([0, 7])))
    assert some == (wanted[0], group(None, None, 1))


def test_plain_values_are_taken_as_they_are(store: Path) -> None:
    values = {"dataset": "it's; --", "layer": None, "task": "t"}
    assert Rename(store, values, "layer = 1").apply().rows == 5
    keys = list(content(store))
    assert {key[1] for key in keys} == {"it's; --", None}
    assert {key[7] for key in keys} == {None}


def test_only_rows_with_another_value_count(store: Path) -> None:
    rename = Rename(store, "variant = CASE WHEN example_id = 'e1' THEN 'v' END")
    assert rename.outlook.rows == 2
    assert rename.outlook.changes == (("variant", None, "v", 2),)
    assert Rename(store, {"pooling": "last"}).outlook.rows == 0
    assert Rename(store, {"pooling": "last"}).apply().commit is None


@pytest.mark.parametrize("where", ["layer =", "1) OR (1", "layer; drop table x", "sum(layer) > 1"])
def test_what_is_no_condition_is_refused(store: Path, where: str) -> None:
    for change in (lambda: Drop(store, where), lambda: Rename(store, "task='t'", where)):
        with pytest.raises(SqlError):
            change()
    assert manifests.numbers(store) == [1, 2]


@pytest.mark.parametrize("given", [[], {}, "", "task", ["task='a'", "task='b'"]])
def test_what_sets_nothing_or_twice_is_refused(store: Path, given: list[str]) -> None:
    with pytest.raises(UsageError):
        Rename(store, given)


def test_going_back_counts_rows_on_both_sides(store: Path) -> None:
    Drop(store, "layer = 1 AND example_id > 'e2'").apply()
    shown = Checkout(store, 1).outlook
    found = [(each.layer, each.label, each.now, each.then) for each in shown.changes]
    assert found == [(1, "x", 1, 0), (1, None, 2, 5), (None, "it's", 1, 0), (None, None, 2, 3)]
    assert (shown.rows, shown.rows_now, shown.undone) == (8, 6, 2)


def test_a_condition_by_chance_is_drawn_once(tmp_path: Path) -> None:
    """Asked twice it means other rows, and these got the values of the first ones."""
    for number in range(8):
        root = tmp_path / str(number)
        write(root, batch(0, 40))
        done = Rename(root, "task = example_id", "random() < 0.5").apply()
        with StoreReader(open_snapshot(root)) as reader:
            table = reader.select("task IS NOT NULL").table(["task", "example_id"])
        assert len(table) == done.rows
        assert table["task"].to_pylist() == table["example_id"].to_pylist()
