"""A push and a pull are killed at any call of theirs, and run again: nothing is lost or doubled."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from actstore.storage import manifest as manifests
from actstore.storage.staging import prepare
from tests.children import children
from tests.hub.pulling import assert_whole
from tests.hub.pushing import ID, commits, relabel, remote_content
from tests.hub_server import Hub
from tests.storage.stores import assert_sound, batch, content, write
from tests.torture.effort import TORTURE, attack
from tests.torture.transfers import calls_of, pushing, transfer_and_die

MOMENTS = 60 if TORTURE else 3

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries")


def at_moments(calls: int) -> Iterator[int]:
    """Return numbers of calls to be killed at, for as long as there are such."""
    return count(1, max(1, calls // MOMENTS))


def transfer(name: str, hub: Hub, root: Path, at: int = 0) -> int | None:
    """Push or pull in a process of its own; return how it ended."""
    child = children.Process(target=transfer_and_die, args=(name, hub.url, root, at))
    child.start()
    child.join()
    return child.exitcode


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store with labels that are not in its shards yet."""
    root = tmp_path / "s"
    write(root, batch(0, 4, layer=0), batch(0, 4, layer=1))
    relabel(root, [1, 6], "good")
    return root


def test_a_push(hub: Hub, store: Path, tmp_path: Path) -> None:
    rows = content(store)
    trial = shutil.copytree(store, tmp_path / "trial")
    with Hub(tmp_path / "other") as other:
        calls = calls_of("push", other.url, trial)
    with attack("crashes", "a push killed at calls of the system") as tally:
        for number, at in enumerate(at_moments(calls)):
            again = shutil.copytree(store, tmp_path / f"s{number}")
            with Hub(tmp_path / f"hub{number}") as each:
                killed = transfer("push", each, again, at) == -signal.SIGKILL
                tally.tries += killed
                assert content(again) == rows
                assert_sound(again)
                assert transfer("push", each, again) == 0
                assert transfer("push", each, again) == 0  # and has nothing more to send
                assert content(again) == rows
                assert commits(each) == 1
                assert remote_content(each, tmp_path / f"copy{number}") == rows
                prepare(again)  # what the next change, and any command, begins with
                assert list((again / ".staging").iterdir()) == []
            if not killed:  # it came to its end: how often it asks the Hub is not always the same
                break
    assert tally.tries >= MOMENTS // 2


def test_a_pull(hub: Hub, store: Path, tmp_path: Path) -> None:
    pushing(hub.url, store)
    rows = content(store)
    calls = calls_of("pull", hub.url, tmp_path / "trial")
    with attack("crashes", "a pull killed at calls of the system") as tally:
        for number, at in enumerate(at_moments(calls)):
            root = tmp_path / f"pulled{number}"
            killed = transfer("pull", hub, root, at) == -signal.SIGKILL
            tally.tries += killed
            if manifests.numbers(root):
                assert content(root) == rows
                assert_sound(root)
            assert transfer("pull", hub, root) == 0
            assert_whole(root)
            assert content(root) == rows
            if not killed:
                break
    assert tally.tries >= MOMENTS // 2
    assert hub.files(ID)
