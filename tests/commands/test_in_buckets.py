"""Every command that changes a store does to one in a bucket what it does to one in a folder."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore as library
from actstore.remote.bucket import Bucket
from actstore.remote.bucket_address import parse_bucket
from actstore.remote.syncing import sync
from actstore.storage.snapshot import open_snapshot
from actstore.storage.verification import verify
from tests.capturing import token_stores
from tests.commands.conftest import Command
from tests.remote.buckets import Proxy
from tests.torture.effort import TORTURE

_RUN = re.compile(r"(pool|convert|write)-[0-9T]+-[0-9a-f]+")
CHANGES: dict[str, list[list[str]]] = {
    "drop": [["drop", "{}", "layer = 4 AND position > 1", "--yes"]],
    "rename": [["rename", "{}", "--set", "layer = 9", "layer = 4 AND example_id = 'e1'", "--yes"]],
    "checkout": [["checkout", "{}", "--at", "1", "--yes"]],
    "convert": [["convert", "{}", "--to", "int8"]],
    "compact": [["pool", "{}", "--pool", "prompt.last", "--layers", "4"], ["compact", "{}"]],
}  # fmt: skip
LABEL = ["label", "{}", "--set", "'x'", "--where", "position = 0"]
SEQUENCES: dict[str, list[list[str]]] = {
    "rows": [
        LABEL,
        *CHANGES["drop"],
        *CHANGES["rename"],
        ["drop", "{}", "layer = 0", "--yes"],
        *CHANGES["checkout"],
    ],
    "shards": [
        ["pool", "{}", "--pool", "response.mean,prompt.last"],
        LABEL,
        ["compact", "{}"],
        ["convert", "{}", "--to", "compact16"],
        *CHANGES["convert"],
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tokens of three examples in two layers."""
    token_stores.write(tmp_path / "s")
    return tmp_path / "s"


@pytest.fixture
def place(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same store in a bucket."""
    monkeypatch.setenv("ACTSTORE_CACHE", str(tmp_path / "cache"))
    address = f"memory://m{secrets.token_hex(6)}/s"
    sync(folder, address)
    return address


def content(place: Path | str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return all rows of a store and its history, without what differs from run to run."""
    store = library.open(place)
    rows = store.select().to_polars().to_dicts()
    for row in rows:
        row["run_id"] = _RUN.sub("run", row["run_id"])
        row["activation"] = np.asarray(row["activation"]).tobytes()
        row.pop("captured_at")
    return rows, history(place)


def history(place: Path | str) -> list[dict[str, Any]]:
    store = library.open(place)
    found = []
    for number in range(1, store.commit + 1):
        manifest = library.open(place, number)._snapshot.manifest
        found.append(
            {
                "commit": (manifest.number, manifest.operation, manifest.message, manifest.rows),
                "shards": [(e.partition, e.rows, e.dtype, e.pools) for e in manifest.shards],
                "labels": [entry.rows for entry in manifest.labels],
                "runs": [_RUN.sub("run", run.run_id) for run in manifest.runs],
            }
        )
    return found


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_the_same_rows_and_the_same_history(
    sequence: str, folder: Path, place: str, tmp_path: Path, actstore: Command
) -> None:
    said = []
    for store in (folder, place):
        texts = []
        for words in SEQUENCES[sequence]:
            done = actstore(*(word.format(store) for word in words))
            assert done.code == 0, done.err
            texts.append(_RUN.sub("run", done.out.replace(str(store), "STORE")))
        said.append(texts)
    assert said[0] == said[1]
    assert content(folder) == content(place)
    sync(place, tmp_path / "copy")
    assert verify(open_snapshot(tmp_path / "copy")) == []
    assert list((tmp_path / "copy").glob("**/*.parquet"))


def test_what_would_be_done_is_told_and_not_done(
    folder: Path, place: str, actstore: Command
) -> None:
    before = Bucket(parse_bucket(place)).objects("")
    assert actstore("diff", folder, place).code == 0
    for words in (
        ["drop", place, "layer = 4", "--dry-run"],
        ["rename", place, "--set", "task = 't'", "--dry-run"],
        ["convert", place, "--to", "int8", "--dry-run"],
    ):
        assert actstore(*words).code == 0
    assert Bucket(parse_bucket(place)).objects("") == before


def test_an_index_of_rows_in_a_bucket(store: Path, place: str, actstore: Command) -> None:
    pytest.importorskip("usearch")
    other = f"{place}-other"
    sync(store, other)
    found = []
    for each in (store, other):
        done = actstore("index", each, "--layers", "3", "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["recall"] == 1
        found.append(library.open(each).nearest(5, layer=3, index=True).to_pydict())
    assert found[0] == found[1]
    assert actstore("drop", other, "layer = 3 AND example_id = 'e1'", "--yes").code == 0
    done = actstore("nearest", other, "--row", "5", "--layers", "3", "--index")
    assert "build it with `actstore index`" in done.err


def test_a_conversion_into_a_folder(folder: Path, place: str, actstore: Command) -> None:
    out = folder.parent / "small"
    before = Bucket(parse_bucket(place)).objects("")
    done = actstore("convert", place, "--to", "compact16", "--out", out)
    assert done.code == 0, done.err
    actstore("convert", folder, "--to", "compact16", "--out", folder.parent / "other")
    assert content(out) == content(folder.parent / "other")
    assert Bucket(parse_bucket(place)).objects("") == before


@pytest.mark.parametrize("change", CHANGES if TORTURE else ["drop", "compact"])
def test_nothing_is_made_from_damage(
    change: str, folder: Path, place: str, actstore: Command
) -> None:
    """Not from a file that is missing either, and what was there stays."""
    held = Bucket(parse_bucket(place))
    actstore("label", place, "--set", "'y'", "--where", "layer = 4")
    for entry in library.open(place)._snapshot.shards:
        if entry.layer == 4:
            data = held.read(entry.path)
            assert data is not None
            at = entry.pages[0][0] + 9
            held.put(entry.path, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    before = held.objects("")
    words = CHANGES[change][-1]
    done = actstore(*(word.format(place) for word in words))
    assert done.code != 0
    assert "damaged" in done.err or "not what" in done.err
    assert place in done.err
    assert held.objects("") == before


def test_python_does_the_same(folder: Path, place: str) -> None:
    for each in (folder, place):
        store = library.open(each)
        assert store.drop("layer = 4 AND position > 1", dry_run=True).commit is None
        assert store.drop("layer = 4 AND position > 1").commit == 2
        assert store.rename({"task": "t"}, "layer = 0").commit == 3
        assert store.checkout(1).commit == store.commit == 4
    assert content(folder) == content(place)
    behind = library.open(place)
    with pytest.raises(library.errors.UsageError, match=f"compact {place} --prune --grace HOURS"):
        behind.drop("layer = 4", prune=True)
    library.open(place).rename({"task": "t"})
    with pytest.raises(library.errors.UsageError, match=r"is open at commit 4, its latest is 5"):
        behind.drop("true")


def test_requests_of_a_change(folder: Path, bucket: str, proxy: Proxy) -> None:
    """One whole shard travels there and back, whatever else the store holds."""
    sync(folder, bucket)
    store = library.open(bucket)
    store.sql("SELECT count(*) FROM activations").fetchall()
    store.drop("example_id = 'nobody'")  # the probe of the server
    proxy.fail(None)
    store.drop("layer = 4 AND position > 1")
    shards = [each for each in proxy.seen if "activations" in each]
    assert [each.split()[0] for each in shards] == ["GET", "PUT"]
    assert len(proxy.seen) <= 12, proxy.seen


def spoil(place: Path | str, path: str, at: int = -40) -> None:
    """Change a byte of a file."""
    if isinstance(place, Path):
        data = bytearray((place / path).read_bytes())
        data[at] ^= 1
        (place / path).write_bytes(data)
        return
    held = Bucket(parse_bucket(place))
    found = held.read(path)
    assert found is not None
    data = bytearray(found)
    data[at] ^= 1
    held.put(path, bytes(data))


def objects(place: Path | str) -> list[tuple[str, int]]:
    """Return the names and sizes of a store's own files."""
    if isinstance(place, Path):
        files = [path for path in place.rglob("*") if path.is_file()]
        found = [(path.relative_to(place).as_posix(), path.stat().st_size) for path in files]
    else:
        found = [(each.path, each.size) for each in Bucket(parse_bucket(place)).objects("")]
    rooms = ("activations/", "labels/", "manifests/0", "manifests/seg")
    return sorted(each for each in found if each[0].startswith(rooms))


@pytest.mark.parametrize("copy", ["folder", "bucket"] if TORTURE else ["bucket"])
def test_files_come_back_from_copies(
    copy: str, folder: Path, place: str, tmp_path: Path, actstore: Command
) -> None:
    actstore("label", place, "--set", "'y'", "--where", "layer = 4")
    source: Path | str = tmp_path / "copy" if copy == "folder" else f"{place}-copy"
    sync(place, source)
    shards = library.open(place)._snapshot.shards
    (overlay,) = library.open(place)._snapshot.manifest.labels
    before, rows = objects(place), content(place)
    spoil(place, shards[0].path)
    spoil(place, overlay.path)
    Bucket(parse_bucket(place)).delete([shards[1].path])
    assert actstore("repair", place, "--yes").code == 4
    shown = actstore("repair", place, "--from", source, "--dry-run")
    assert shown.out.count("brings back") == 3
    assert actstore("verify", place).code == 4
    done = actstore("repair", place, "--from", source, "--yes")
    assert done.code == 0, done.err
    assert done.out.endswith("brought back 3 files\n")
    assert "sound" in actstore("verify", place).out
    assert (objects(place), content(place)) == (before, rows)
    spoil(folder, shards[0].path)
    assert actstore("repair", folder, "--from", place, "--yes").code == 0
    assert "nothing to repair: commit 2 is sound" in actstore("repair", place, "--yes").out


@pytest.mark.skipif(not TORTURE, reason="some seconds: make torture")
@pytest.mark.parametrize("segmented", [False, True])
def test_a_damaged_commit_is_made_anew(
    segmented: bool,
    folder: Path,
    place: str,
    actstore: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the rows that only it had, as in a folder; with what is sound of its segments."""
    if segmented:
        monkeypatch.setattr("actstore.storage.manifest_content.MOST_LISTED", 1)
    said = []
    for store in (folder, place):
        for name in ("prompt.last", "prompt.max", "response.mean"):
            assert actstore("pool", store, "--pool", name).code == 0
        found = library.open(store)._snapshot.manifest
        assert bool(found.segments) == segmented
        path = found.segments[0].path if segmented else "manifests/0000000004.json"
        spoil(store, path)
        done = actstore("repair", store, "--yes", "--json")
        document = json.loads(done.out)
        said.append((done.code, document["base"], document["commit"], len(document["shards"])))
        assert library.open(store).commit == document["commit"]
        aside = [path for path, _ in objects(store) if path.endswith(".damaged")]
        assert len(aside) == len(document["aside"])
    assert said[0] == said[1]
    assert said[0][2] == 5
    rows = [sorted(map(str, content_rows(each))) for each in (folder, place)]
    assert rows[0] == rows[1]
    assert "sound" in actstore("verify", place).out
    with pytest.raises(library.errors.SnapshotNotFoundError):
        library.open(folder, 4)
    # Its name stays taken in a bucket: a writer who knew nothing of it would take it.
    assert library.open(place, 4)._snapshot.manifest.operation == "repair"


def content_rows(place: Path | str) -> list[dict[str, Any]]:
    rows = library.open(place).select().to_polars().to_dicts()
    return [
        {**row, "run_id": "", "captured_at": "", "activation": list(row["activation"])}
        for row in rows
    ]
