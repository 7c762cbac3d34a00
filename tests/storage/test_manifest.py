"""Commits: what a manifest says, in which order, and what a damaged or hostile one does."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actstore.errors import (
    CommitError,
    CorruptStoreError,
    SnapshotNotFoundError,
    StoreNotFoundError,
)
from actstore.storage import layout
from actstore.storage import manifest as manifests
from actstore.storage.manifest import EMPTY, LabelEntry, Manifest, Run, ShardEntry
from tests.storage.stores import (
    assert_sound,
    batch,
    content,
    document,
    expected,
    sealed,
    write,
)


def entry(name: str = "a", **changes: Any) -> ShardEntry:
    values: dict[str, Any] = {
        "path": f"activations/m/s/layer_003/f16x8-{name}-00000.parquet",
        "model": "m",
        "site": "s",
        "layer": 3,
        "width": 8,
        "dtype": "float16",
        "rows": 5,
        "bytes": 500,
        "sha256": "0" * 64,
        "pages": ((192, 4), (384, 1)),
    }
    return ShardEntry(**{**values, **changes})


def a_manifest(*shards: ShardEntry, **changes: Any) -> Manifest:
    run = Run(run_id="r", kind="ingest", started_at="t", settings={"a": [1]}, versions={"b": "1"})
    following = EMPTY.next(operation="ingest", message='é "q"\n', shards=shards, runs=(run,))
    return dataclasses.replace(following, **changes)


def test_a_manifest_survives_encoding() -> None:
    overlay = LabelEntry(path="labels/a.parquet", rows=2, bytes=9, sha256="1" * 64)
    whole = a_manifest(entry(), entry("b", layer=None, pages=()), labels=(overlay,))
    assert manifests.decode(whole.encode(), "x") == whole
    assert manifests.decode(a_manifest().encode(), "x") == a_manifest()
    assert manifests.decode(whole.encode(), "x").encode() == whole.encode()


def test_a_manifest_from_before_seals_stays_the_bytes_that_it_is() -> None:
    old = dataclasses.replace(a_manifest(entry()), sealed=False)
    assert b"sha256" not in old.encode().replace(b'"sha256": "0', b"")
    found = manifests.decode(old.encode(), "x")
    assert found.encode() == old.encode()
    following = found.next(operation="", message="", shards=found.shards)
    assert following.sealed
    assert following.parent_sha256 == hashlib.sha256(old.encode()).hexdigest()


def test_every_changed_byte_is_noticed() -> None:
    """In the text of a manifest, or in that of the seal itself."""
    data = a_manifest(entry("a", tail="3" * 64), entry("b")).encode()
    name = data.rindex(b'"sha256"')
    whole = manifests.decode(data, "x")
    for at in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            try:
                found = manifests.decode(bytes(changed), "x")
            except CorruptStoreError:
                continue
            # A seal under another name is none; the text is not as it was written.
            assert name < at < name + 8
            assert found == whole
            assert found.encode() != bytes(changed)


def test_it_is_plain_json_with_one_line_per_shard() -> None:
    text = a_manifest(entry("a"), entry("b")).encode().decode("ascii")
    document = json.loads(text)
    assert document["format"] == "actstore-manifest"
    assert document["version"] == 1
    assert document["schema"] == "activations/v1"
    assert [shard["rows"] for shard in document["shards"]] == [5, 5]
    assert sum("parquet" in line for line in text.splitlines()) == 2


def test_rows_go_by_model_site_and_layer_unknown_last_then_by_commit() -> None:
    first = a_manifest(
        entry("late", model="n"),
        entry("unknown", layer=None),
        entry("ten", layer=10),
        entry("two", layer=2),
        entry("embed", layer=-1),
    )
    second = first.next(operation="", message="", shards=(*first.shards, entry("more", layer=2)))
    names = [shard.path.split("-")[1] for shard in second.shards]
    assert names == ["embed", "two", "more", "ten", "unknown", "late"]
    assert (second.number, second.parent, second.rows) == (2, 1, 30)


def test_numbers_are_the_names_of_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    for name in (
        "0000000002.json",
        "0000000010.json",
        "3.json",
        "x.json",
        "٠٠٠٠٠٠٠٠٠٤.json",
        "0000000005.json.tmp",
        ".0000000006.json",
    ):
        (folder / name).touch()
    assert manifests.numbers(tmp_path) == [2, 10]
    assert manifests.numbers(tmp_path / "nowhere") == []


def test_no_store_is_explained(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "gone", "does not exist"),
        (tmp_path, "the folder is empty"),
    ):
        with pytest.raises(StoreNotFoundError, match=reason):
            manifests.load(path)
    file = tmp_path / "file.txt"
    file.touch()
    with pytest.raises(StoreNotFoundError, match="it is a file, a store is a folder"):
        manifests.load(file)
    with pytest.raises(StoreNotFoundError, match=r"it holds file\.txt"):
        manifests.load(tmp_path)
    (tmp_path / "manifests").mkdir()
    with pytest.raises(StoreNotFoundError, match="no commit yet"):
        manifests.load(tmp_path)
    assert manifests.latest(tmp_path) is EMPTY


def test_a_commit_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path / "s", batch(0, 1))
    write(tmp_path / "s", batch(1, 1))
    for at in (0, 3, -1):
        with pytest.raises(SnapshotNotFoundError, match=rf"no commit {at}: it has 1 to 2"):
            manifests.load(tmp_path / "s", at)
    assert manifests.load(tmp_path / "s").number == 2
    assert manifests.load(tmp_path / "s", 1).number == 1


Document = dict[str, Any]


def _set(*path: Any) -> Callable[[Document], None]:
    """Return a function that sets the last of ``path`` at the place before it."""
    *places, name, value = path

    def change(document: Any) -> None:
        for place in places:
            document = document[place]
        document[name] = value

    return change


def _drop(name: str) -> Callable[[Document], None]:
    return lambda document: document.pop(name)


@pytest.mark.parametrize(
    "path",
    [
        "../x.parquet",
        "/etc/passwd",
        "a/../../x",
        "a\\..\\x",
        "C:\\x",
        "",
        "a//b",
        "./a",
        "a/.",
        "a\0b",
        "\\\\server\\share",
    ],
)
@pytest.mark.parametrize("kind", ["shards", "labels"])
def test_paths_that_leave_the_store(path: str, kind: str) -> None:
    label = LabelEntry(path="labels/a.parquet", rows=2, bytes=9, sha256="1" * 64)
    content = document(a_manifest(entry(), labels=(label,)))
    content[kind][0]["path"] = path
    with pytest.raises(CorruptStoreError, match=r"here\.json.*names the file.*outside the store"):
        manifests.decode(sealed(content), "here.json")


@pytest.mark.parametrize(
    "change",
    [
        *map(_drop, ("version", "number", "shards", "labels", "runs", "message")),
        _set("version", "1"),
        _set("number", "two"),
        _set("number", None),
        _set("shards", None),
        _set("shards", {}),
        _set("shards", [1]),
        _set("shards", 0, "rows", "5"),
        _set("shards", 0, "rows", -5),
        _set("shards", 0, "rows", 0),
        _set("shards", 0, "rows", 1.5),
        _set("shards", 0, "rows", True),
        _set("shards", 0, "rows", 10**30),
        _set("shards", 0, "width", 0),
        _set("shards", 0, "bytes", None),
        _set("shards", 0, "dtype", "object"),
        _set("shards", 0, "dtype", "float64"),
        _set("shards", 0, "layer", "3"),
        _set("shards", 0, "model", 7),
        _set("shards", 0, "path", 7),
        _set("shards", 0, "pages", [[1]]),
        _set("shards", 0, "pages", [[1, 2, 3]]),
        _set("shards", 0, "pages", [["1", 2]]),
        _set("shards", 0, "pages", [[-1, 2]]),
        _set("shards", 0, "pages", [[10**30, 2]]),
        _set("shards", 0, "pages", 5),
        _set("shards", 0, "unknown", 5),
        _set("runs", [{}]),
        _set("labels", [{"path": "a"}]),
    ],
)
def test_wrong_content_is_one_clear_error(change: Callable[[Document], None]) -> None:
    content = document(a_manifest(entry()))
    change(content)
    for text in (sealed(content), json.dumps(content).encode()):
        with pytest.raises(CorruptStoreError, match=r"here\.json is damaged .*restore it from a"):
            manifests.decode(text, "here.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [("rows", 0), ("rows", -1), ("rows", "2"), ("rows", True), ("bytes", 0), ("bytes", None)],
)
def test_a_label_overlay_of_no_rows_or_no_bytes_is_refused(name: str, value: Any) -> None:
    overlay = LabelEntry(path="labels/a.parquet", rows=2, bytes=9, sha256="1" * 64)
    content = document(a_manifest(entry(), labels=(overlay,)))
    content["labels"][0][name] = value
    with pytest.raises(CorruptStoreError, match=rf"labels/a\.parquet.*{name}"):
        manifests.decode(sealed(content), "here.json")


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"7", b"\xff\xfe", b"[" * 100_000, b"{}", b'{"format": "other"}'],
    ids=["empty", "cut", "list", "null", "number", "binary", "deep", "nothing", "other"],
)
def test_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(CorruptStoreError, match=r"here\.json is (damaged|not an actstore man)"):
        manifests.decode(data, "here.json")


def test_every_cut_of_a_manifest_is_refused() -> None:
    data = a_manifest(entry(), entry("b")).encode()
    for end in range(len(data.rstrip())):
        with pytest.raises(CorruptStoreError):
            manifests.decode(data[:end], "x")


def test_a_newer_version_says_to_upgrade() -> None:
    content = document(a_manifest(entry()))
    content |= {"version": 4, "shards": "of another kind"}
    with pytest.raises(CorruptStoreError, match="version 4, this actstore reads up to 3: upgrade"):
        manifests.decode(json.dumps(content).encode(), "x")


def test_a_manifest_under_another_number_is_refused(tmp_path: Path) -> None:
    """Building on it would try to make the same commit again and again."""
    root = tmp_path / "s"
    write(root, batch(0, 1))
    layout.manifest_path(root, 1).rename(layout.manifest_path(root, 5))
    with pytest.raises(CorruptStoreError, match="calls itself commit 1"):
        manifests.load(root)
    with pytest.raises(CorruptStoreError, match="calls itself commit 1"):
        write(root, batch(1, 1))


def test_a_dangling_link_is_not_waited_for(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write(root, batch(0, 1))
    layout.manifest_path(root, 2).symlink_to(tmp_path / "nowhere")
    with pytest.raises(CorruptStoreError, match="is listed but not there"):
        manifests.load(root)
    layout.manifest_path(root, 2).unlink()
    layout.manifest_path(root, 2).mkdir()
    with pytest.raises(CorruptStoreError, match="cannot be read"):
        manifests.load(root)


def test_a_number_is_given_once(tmp_path: Path) -> None:
    root, staging = tmp_path / "s", tmp_path / "staging"
    (root / "manifests").mkdir(parents=True)
    staging.mkdir()
    first = a_manifest(entry("a"))
    assert manifests.publish(root, first, staging)
    assert not manifests.publish(root, a_manifest(entry("b")), staging)
    assert manifests.load(root) == first


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EIO])
def test_a_commit_that_was_made_and_whose_answer_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As a network drive does: asked again, it says that the name is there, or that it failed."""
    link = os.link

    def late(source: Path, target: Path) -> None:
        link(source, target)
        if target.parent.name == "manifests":
            raise OSError(number, os.strerror(number), str(target))

    write(tmp_path, batch(0, 3))
    monkeypatch.setattr(os, "link", late)
    assert write(tmp_path, batch(3, 3)) == 2
    assert content(tmp_path) == expected(batch(0, 3), batch(3, 3))
    assert manifests.numbers(tmp_path) == [1, 2]
    assert_sound(tmp_path)


@pytest.mark.parametrize(
    ("call", "made", "message"),
    [
        ("os.link", False, "could not be written .* the previous commit still stands"),
        ("os.fsync", False, "could not be written .* the previous commit still stands"),
        ("actstore.storage.layout.sync_folder", True, "is made, but the disk did not confirm it"),
    ],
)
def test_a_failing_disk_says_which_commit_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, made: bool, message: str
) -> None:
    root, staging = tmp_path / "s", tmp_path / "staging"
    (root / "manifests").mkdir(parents=True)
    staging.mkdir()

    def broken(*arguments: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(call, broken)
    with pytest.raises(CommitError, match=message):
        manifests.publish(root, a_manifest(entry()), staging)
    assert manifests.numbers(root) == [1] * made


def test_pools_of_a_shard_are_kept_and_checked() -> None:
    whole = a_manifest(entry(pools=(("last", None), ("mean", "prompt"))))
    assert manifests.decode(whole.encode(), "x") == whole
    text = dataclasses.replace(whole, sealed=False).encode().decode()
    for wrong in ('[["last", 3]]', '[["last"]]', "7", "[[null, null]]"):
        damaged = text.replace('[["last", null], ["mean", "prompt"]]', wrong)
        assert damaged != text
        with pytest.raises(CorruptStoreError, match="damaged"):
            manifests.decode(damaged.encode(), "x")


def test_layers_are_in_order_whatever_came_first(tmp_path: Path) -> None:
    """Zero among them, which is no unknown layer."""
    for layer in (1, None, 2, 0, -1):
        write(tmp_path / "s", batch(0, 2, layer=layer))
    found = [shard.layer for shard in manifests.latest(tmp_path / "s").shards]
    assert found == [-1, 0, 1, 2, None]


def test_a_commit_is_decoded_once_and_read_every_time(tmp_path: Path) -> None:
    write(tmp_path, batch(0, 2))
    first = manifests.load(tmp_path)
    assert manifests.load(tmp_path) is first
    path = layout.manifest_path(tmp_path, 1)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"org/model", b"org/other"))
    with pytest.raises(CorruptStoreError):
        manifests.load(tmp_path)
    path.write_bytes(content)
    assert manifests.load(tmp_path) is first
    manifests.forget()
    assert manifests.load(tmp_path) is not first
