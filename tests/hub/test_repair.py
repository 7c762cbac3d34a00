"""`actstore repair --from hf://…`: files come back from a repository byte by byte, or not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from actstore import cli
from actstore.storage import manifest as manifests
from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from tests.hub.publishing import ADDRESS
from tests.hub.pushing import ID
from tests.hub_server import Hub, faults
from tests.storage.stores import assert_sound, content, write
from tests.storage.stores import batch as rows
from tests.storage.undoing import files_of, flip


@pytest.fixture
def store(hub: Hub, pushed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four shards that the Hub has too; and the Hub that this process talks to."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    return pushed


def run(*words: object) -> int:
    return cli.run([str(word) for word in words])


def damage(store: Path) -> list[str]:
    """A bit of one shard, another one cut short, a third one gone."""
    first, second, third, _ = manifests.latest(store).shards
    flip(store / first.path, first.pages[0][0] + 3)
    (store / second.path).write_bytes((store / second.path).read_bytes()[:-7])
    (store / third.path).unlink()
    return [first.path, second.path, third.path]


def test_files_come_back(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, before = files_of(store), content(store)
    damaged = damage(store)
    hurt = files_of(store)
    assert run("repair", store, "--from", ADDRESS, "--dry-run") == 0
    out = capsys.readouterr().out
    assert all(f"brings back {path}" in out for path in damaged)
    assert files_of(store) == hurt
    assert run("repair", store, "--from", ADDRESS, "--yes") == 0
    assert "brought back 3 files" in capsys.readouterr().out
    assert files_of(store) == whole
    assert content(store) == before
    assert_sound(store)
    assert list((store / ".staging").iterdir()) == []
    assert run("repair", store, "--from", ADDRESS, "--yes") == 0
    assert "nothing to repair" in capsys.readouterr().out


def test_what_the_hub_never_had_stays_and_is_named(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(store, rows(100, 3, layer=1))
    set_labels(open_snapshot(store), np.array([0]), ["new"], message="")
    latest = manifests.latest(store)
    new = next(entry.path for entry in latest.shards if entry.rows == 3)
    (overlay,) = latest.labels
    old = latest.shards[0].path
    whole = files_of(store)
    for path in (new, overlay.path, old):
        flip(store / path)
    hurt = files_of(store)
    assert run("repair", store, "--from", ADDRESS, "--yes", "--json") == 4
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == [old]
    assert sorted(each["path"] for each in told["left"]) == sorted([new, overlay.path])
    assert all(f"{ADDRESS} has no sound copy of it" in each["reason"] for each in told["left"])
    assert files_of(store) == hurt | {old: whole[old]}


def test_a_copy_that_arrives_damaged_replaces_nothing(
    hub: Hub, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (first, *_) = damage(store)
    hurt = files_of(store)
    rule = hub.faults.add(faults.flip(60), path=r"resolve|objects|lfs|xorb", times=None)
    assert run("repair", store, "--from", ADDRESS, "--yes") == 1
    assert rule.fired
    err = capsys.readouterr().err
    assert "arrives damaged" in err
    assert files_of(store) == hurt
    hub.faults.clear()
    assert run("repair", store, "--from", ADDRESS, "--yes") == 0
    assert first in files_of(store)
    assert_sound(store)


def test_a_lost_connection_is_gone_on_from(hub: Hub, store: Path) -> None:
    damage(store)
    rule = hub.faults.add(faults.drop("body", at=200), method="GET", path="resolve|objects|lfs")
    assert run("repair", store, "--from", ADDRESS, "--yes") == 0
    assert rule.fired
    assert_sound(store)


def test_a_repository_that_is_not_there(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(store)
    hurt = files_of(store)
    assert run("repair", store, "--from", f"{ADDRESS}-not", "--yes") == 1
    assert f"{ID}-not" in capsys.readouterr().err
    assert files_of(store) == hurt
