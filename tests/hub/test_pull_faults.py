"""Everything that can go wrong with a pull's requests and its disk: explained, and made good."""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actstore.errors import ActstoreError, CommitError, HubError
from actstore.remote.cache import RangeCache
from actstore.remote.client import Patience
from actstore.storage import manifest as manifests
from tests.hub.pulling import assert_whole, pull_from
from tests.hub.pushing import ALL, ID, client, push_to, relabel
from tests.hub.test_push_faults import leaks, shown
from tests.hub_server import Hub, faults
from tests.storage.stores import Content, batch, content, write

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries")

FAULTS = {
    "500": faults.status(500),
    "503": faults.status(503),
    "429": faults.status(429),
    "404": faults.status(404),
    "cut by FIN": faults.drop("before"),
    "cut by RST": faults.drop("before", kind="rst"),
    "answer cut by FIN": faults.drop("body", at=40),
    "answer cut by RST": faults.drop("body", kind="rst", at=40),
    "answer lost": faults.drop("after"),
    "silent": faults.stall(0.6),
    "silent in the answer": faults.stall(0.6, at=40),
    "truncated": faults.truncate(50),
    "flipped": faults.flip(60),
}
PARTS: dict[str, dict[str, Any]] = {"whole": {}, "where": {"where": "example_id = 'e2'"}}
PATIENCE = Patience(attempts=3, first=0.005, most=1.0, silence=0.25)


@pytest.fixture
def store(small: Path) -> Path:
    return small


def expected(store: Path, part: str) -> Content:
    found = content(store)
    return {key: row for key, row in found.items() if part == "whole" or key[3] == "e2"}


def survives(hub: Hub, folder: Path, cache: RangeCache, part: str) -> bool:
    """Pull, impatiently; a failure must be one of ours and give nothing away."""
    try:
        pull_from(hub, folder, client=client(hub, patience=PATIENCE), cache=cache, **PARTS[part])
    except ActstoreError as error:
        failure = error
    else:
        return True
    assert isinstance(failure, HubError), failure
    assert not leaks(shown(failure))
    assert "\n" not in str(failure)
    return False


def kinds(number: int) -> list[str]:
    """Every fault if all are asked for, else one after the other."""
    names = list(FAULTS)
    return names if os.environ.get(ALL) else [names[number % len(names)]]


@pytest.mark.parametrize("part", PARTS)
def test_a_fault_at_any_request_is_survived_or_explained(
    hub: Hub,
    store: Path,
    tmp_path: Path,
    part: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """First into an empty folder, then a second version into what is there."""
    caplog.set_level(logging.DEBUG)
    push_to(hub, store)
    first, older = hub.head(ID).oid, expected(store, part)
    relabel(store, [1, 2], "b")
    write(store, batch(6, 4, layer=1), batch(0, 3, layer=4))
    push_to(hub, store)
    second, newer = hub.head(ID).oid, expected(store, part)
    stride = 1 if os.environ.get(ALL) else {"whole": 2, "where": 5}[part]
    befallen = True
    for number in itertools.count(1, stride):
        if not befallen:
            break
        befallen = False
        for name in kinds(number):
            folder = tmp_path / f"{number} {name}"
            cache = RangeCache(tmp_path / f"cache {number} {name}")
            for oid, had, wanted in ((first, {}, older), (second, older, newer)):
                hub.repository(ID).refs["refs/heads/main"] = oid
                hub.reset()
                rule = hub.faults.add(FAULTS[name], number=number)
                survived = survives(hub, folder, cache, part)
                hub.faults.clear()
                befallen |= bool(rule.fired)
                have = content(folder) if manifests.numbers(folder) else {}
                assert have in ((wanted,) if survived else (had, wanted)), (number, name)
                pull_from(hub, folder, cache=cache, **PARTS[part])
                assert content(folder) == wanted, (number, name)
            assert_whole(folder)
    assert number >= 10
    assert not leaks(caplog.text)
    assert not leaks("".join(capfd.readouterr()))


@pytest.mark.parametrize("part", PARTS)
def test_a_fault_that_stays_ends_in_an_error_and_the_next_pull_makes_it_good(
    hub: Hub, store: Path, tmp_path: Path, part: str
) -> None:
    push_to(hub, store)
    stride = 1 if os.environ.get(ALL) else 3
    befallen = True
    for number in itertools.count(1, stride):
        if not befallen:
            break
        befallen = False
        for name in kinds(number // stride):
            folder = tmp_path / f"{number} {name}"
            cache = RangeCache(tmp_path / f"cache {number} {name}")
            hub.reset()
            rule = hub.faults.add(FAULTS[name], nth=number, times=None)
            survived = survives(hub, folder, cache, part)
            hub.faults.clear()
            befallen |= bool(rule.fired)
            assert bool(manifests.numbers(folder)) is survived
            pull_from(hub, folder, cache=cache, **PARTS[part])
            assert content(folder) == expected(store, part), (number, name)
            assert_whole(folder)
    assert number >= 7


def test_an_object_that_is_shorter_on_the_hub_is_refused(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    push_to(hub, store)
    hub.faults.add(faults.truncate(900), origin="objects", times=None)
    with pytest.raises(HubError, match=r"parquet of alice/acts"):
        pull_from(hub, tmp_path / "p", client=client(hub, patience=PATIENCE))
    assert manifests.numbers(tmp_path / "p") == []
    hub.faults.clear()
    pull_from(hub, tmp_path / "p")
    assert content(tmp_path / "p") == content(store)


def test_a_connection_that_breaks_again_and_again_still_gets_there(
    hub: Hub, tmp_path: Path
) -> None:
    """As long as some bytes come each time, it goes on."""
    root = tmp_path / "s"
    write(root, batch(0, 3000, width=128))
    push_to(hub, root)
    hub.faults.add(faults.drop("body", kind="rst", at=100_000), origin="objects", times=None)
    pull_from(hub, tmp_path / "p", client=client(hub, patience=PATIENCE))
    assert content(tmp_path / "p") == content(root)
    parts = hub.log.entries(origin="objects", method="GET")
    assert len(parts) > 5
    assert sum(part.response_bytes for part in parts) < 1.2 * parts[0].response_bytes * len(parts)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A disk of so many kilobytes, which can grow."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def sized(kilobytes: int) -> Path:
        nonlocal mounted
        options = f"{'remount,' if mounted else ''}size={kilobytes}k"
        try:
            command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("a small file system can be mounted by root on Linux only")
        mounted = True
        return folder

    yield sized
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("part", PARTS)
def test_a_disk_that_fills_up_leaves_the_store_as_it_was(
    hub: Hub,
    tmp_path: Path,
    small_disk: Callable[[int], Path],
    part: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("actstore.hub.fetch._SPARE", -(1 << 40))  # it notices too late
    root = tmp_path / "s"
    write(root, batch(0, 2, layer=0, width=512))
    push_to(hub, root)
    folder = small_disk(400) / "p"
    pull_from(hub, folder)
    before = content(folder)
    write(root, batch(2, 900, layer=0, width=512))
    push_to(hub, root)
    condition = {} if part == "whole" else {"where": "example_id != 'e5'"}
    if part == "where":
        folder = folder.with_name("q")
        pull_from(hub, folder, where="example_id = 'e1'")
        before = content(folder)
    with pytest.raises(CommitError, match="what was committed before stands"):
        pull_from(hub, folder, **condition)
    assert content(folder) == before
    small_disk(30_000)
    pull_from(hub, folder, **condition)
    assert_whole(folder)
    found = {key for key in content(root) if part == "whole" or key[3] != "e5"}
    assert content(folder).keys() == found
