"""Other metadata for stored rows: keys stay unique, vectors stay the bytes they were."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from actstore.errors import CommitError, ConflictError, UsageError
from actstore.storage import manifest as manifests
from actstore.storage import rewriting, shard
from actstore.storage.compaction import compact
from actstore.storage.labels import set_labels
from actstore.storage.manifest import Manifest
from actstore.storage.renaming import NewValues, Renaming
from actstore.storage.snapshot import open_snapshot
from actstore.storage.staging import Staging
from tests.storage.stores import assert_sound, batch, card_files, content, live_files, write
from tests.storage.undoing import files_of


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Another site of another width, then two shards of layer 1, one of layer 2; labels."""
    root = tmp_path / "s"
    write(root, batch(0, 5, layer=1))
    write(root, batch(5, 4, layer=1, dtype="float32"))
    write(root, batch(0, 6, layer=2))
    write(root, batch(0, 2, layer=1, site="mlp_out", width=3))
    set_labels(open_snapshot(root), np.array([3, 12]), ["x", "y"], message="")
    return root


def rename(root: Path, rows: Sequence[int], **values: Any) -> Manifest | None:
    columns = {
        name: value if isinstance(value, list) else [value] * len(rows)
        for name, value in values.items()
    }
    new = NewValues(rows=np.array(rows, np.int64), columns=columns)
    return Renaming(open_snapshot(root), new).commit("renamed")


def pages(root: Path, path: str) -> bytes:
    """Return a shard's file up to the end of its vectors."""
    entry = next(entry for entry in manifests.latest(root).shards if entry.path == path)
    offset, rows = entry.pages[-1]
    return (root / path).read_bytes()[: offset + rows * entry.vector_bytes // entry.rows]


def test_a_whole_shard_keeps_its_pages_byte_for_byte(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "GROUP_BYTES", 40)
    monkeypatch.setattr(rewriting, "_CHUNK", 100)
    write(store, batch(20, 9, layer=4))
    before, everything = content(store), pq.read_table(open_snapshot(store).metadata_file())
    old = next(entry for entry in manifests.latest(store).shards if entry.layer == 4)
    assert len(old.pages) > 1
    rows = [row for row, key in enumerate(before) if key[7] == 4]
    kept = pages(store, old.path)
    done = rename(store, rows, model="org/other", dataset="d", question="Why?")
    assert done is not None
    new = next(entry for entry in done.shards if entry.layer == 4)
    assert (new.model, new.pages, new.since) == ("org/other", old.pages, old.since)
    assert pages(store, new.path) == kept
    assert new.path.startswith("activations/org--other/resid_post/layer_004/")
    assert_sound(store)
    after = pq.read_table(open_snapshot(store).metadata_file())
    for name in set(after.column_names) - {"model", "dataset", "question"}:
        assert after[name].to_pylist() == everything[name].to_pylist(), name
    assert card_files(store)["metadata"] == live_files(store)
    assert content(store, at=6) == before


def test_rows_of_one_shard_part_and_meet_others(store: Path) -> None:
    before = list(content(store).items())
    sites = ["hook_a", "hook_b"] * 3
    done = rename(store, [11, 12, 13, 14, 15, 16], site=sites, layer=[1, 2, 2, 2, 1, 2])
    assert done is not None
    places = [(e.site, e.layer, e.rows) for e in done.shards]
    assert places == [
        ("hook_a", 1, 2), ("hook_a", 2, 1), ("hook_b", 2, 3), ("mlp_out", 1, 2),
        ("resid_post", 1, 5), ("resid_post", 1, 4),
    ]  # fmt: skip
    after = content(store)
    assert len(after) == len(before)
    assert after[(*before[12][0][:7], 2, "hook_b", *before[12][0][9:])] == before[12][1]
    assert before[12][1][2] == "y"
    assert_sound(store)
    assert manifests.latest(store).labels != ()


def test_a_shard_that_cannot_be_mapped_is_written_as_one_that_can(store: Path) -> None:
    """A shard that cannot be mapped has no pages to copy: its vectors are stored again."""
    from actstore.storage.archive import write_archived

    before = content(store)
    latest = manifests.latest(store)
    entry = latest.shards[0]
    path = entry.path.replace(".parquet", "0.parquet")
    archived = dataclasses.replace(write_archived(store, entry, store / path), path=path)
    shards = tuple(archived if other is entry else other for other in latest.shards)
    staging = Staging(store)
    following = latest.next(operation="o", message="", shards=shards)
    assert manifests.publish(store, following, staging.folder)
    staging.close()
    rename(store, range(2), split="s")
    assert_sound(store)
    assert sorted(cells[1] for cells in content(store).values()) == sorted(
        cells[1] for cells in before.values()
    )


def test_keys_that_would_come_twice_are_named_and_nothing_changes(store: Path) -> None:
    before = files_of(store)
    with pytest.raises(ConflictError, match=r"these keys would come twice: .*example_id=e1, .*"):
        rename(store, [11, 12], layer=1, example_id=["new", "e1"])
    with pytest.raises(ConflictError, match=r"example_id=e0.*; and 3 more; nothing changed"):
        rename(store, range(11, 17), layer=1, position=None, example_id=["e0"] * 6)
    with pytest.raises(ConflictError, match=r"widths 3, 8; nothing changed"):
        rename(store, [2], site="mlp_out", example_id="other")
    with pytest.raises(ConflictError, match="widths 3, 8"):
        rename(store, range(2, 11), site="mlp_out", split="s")
    assert files_of(store) == before


def test_rows_can_change_places(store: Path) -> None:
    """Each gets the other's key: no key comes twice, though each is there already."""
    before = list(content(store).items())
    rename(store, [2, 3], example_id=["e1", "e0"])
    after = list(content(store).items())
    assert [after[2][0], after[3][0]] == [before[3][0], before[2][0]]
    assert [after[2][1], after[3][1]] == [before[2][1], before[3][1]]
    assert [*after[:2], *after[4:]] == [*before[:2], *before[4:]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"label": "x"}, "label cannot be set: labels change with `actstore label`"),
        ({"norm": 1.0}, "norm cannot be set: it follows from the vector"),
        ({"run_id": "x"}, "run_id cannot be set"),
        ({"activation": "x"}, "activation cannot be set"),
        ({"sites": "x"}, "there is no column 'sites' to set; there are example_id"),
        ({"pooling": "middle"}, "pooling 'middle' is unknown: use one of last"),
        ({"region": "middle"}, "region 'middle' is unknown"),
        ({"model": None}, "column model is required"),
        ({"example_id": ""}, "column example_id is required"),
        ({"layer": "three"}, "column layer must hold int32"),
        ({"layer": 1 << 40}, "column layer must hold int32"),
    ],
)
def test_values_that_do_not_fit_are_refused(
    store: Path, values: dict[str, Any], message: str
) -> None:
    before = files_of(store)
    with pytest.raises(UsageError, match=message):
        rename(store, [0], **values)
    assert files_of(store) == before


def test_poolings_of_a_shard_are_told_anew(store: Path) -> None:
    done = rename(store, [2, 3], pooling="mean", region="answer")
    assert done is not None
    changed = [
        entry for entry in done.shards if (entry.site, entry.dtype) == ("resid_post", "float16")
    ]
    assert changed[0].pools == (("last", None), ("mean", "answer"))
    assert_sound(store)


def test_rows_of_the_new_key_that_come_meanwhile_are_a_conflict(store: Path) -> None:
    new = NewValues(rows=np.array([2]), columns={"example_id": ["e90"]})
    renaming = Renaming(open_snapshot(store), new)
    write(store, batch(80, 2, layer=1))
    write(store, batch(90, 2, layer=1))
    before = files_of(store)
    with pytest.raises(ConflictError, match=r"another writer has just stored this row: .*e90"):
        renaming.commit("")
    assert files_of(store) == before
    new = NewValues(rows=np.array([2]), columns={"example_id": ["e70"]})
    renaming = Renaming(open_snapshot(store), new)
    write(store, batch(60, 2, layer=1))
    assert renaming.commit("") is not None
    assert_sound(store)
    renaming = Renaming(
        open_snapshot(store), NewValues(rows=np.array([3]), columns={"split": ["s"]})
    )
    compact(store)
    with pytest.raises(CommitError, match="changed by others"):
        renaming.commit("")


def test_rows_that_others_moved_meanwhile_are_no_conflict(tmp_path: Path) -> None:
    for first in (0, 2):
        write(tmp_path, batch(first, 2))
    new = NewValues(rows=np.array([0]), columns={"question": ["Why?"]})
    renaming = Renaming(open_snapshot(tmp_path), new)
    compact(tmp_path)
    before = files_of(tmp_path)
    with pytest.raises(CommitError, match="changed by others"):
        renaming.commit("")
    assert files_of(tmp_path) == before


def test_vectors_of_another_width_that_come_meanwhile_are_a_conflict(tmp_path: Path) -> None:
    write(tmp_path, batch(0, 2))
    new = NewValues(rows=np.array([0, 1]), columns={"layer": [9, 9]})
    renaming = Renaming(open_snapshot(tmp_path), new)
    write(tmp_path, batch(5, 2, layer=9, width=6))
    before = files_of(tmp_path)
    with pytest.raises(ConflictError, match=r"just stored vectors of width 6 .*layer 9.* width 8"):
        renaming.commit("")
    assert files_of(tmp_path) == before
