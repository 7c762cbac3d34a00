"""Too few descriptors, too little memory, rights lost midway, a clock that goes backwards."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actstore.errors import ActstoreError
from actstore.storage import manifest as manifests
from actstore.storage.compaction import compact
from actstore.storage.snapshot import open_snapshot
from tests.children import children
from tests.storage import crashing
from tests.storage.crashing import trapped
from tests.storage.stores import assert_sound, batch, content, expected, live_files, write
from tests.torture.effort import TORTURE, attack

WHOLE = expected(
    *(one for number in range(crashing.BATCHES) for one in crashing.source_file(number))
)
REFUSED = 3
NOBODY = 65534


def in_child(work: Callable[..., None], *given: object, patience: float = 60) -> int:
    """Run something in a process of its own and return how it ended; killed when it takes long."""
    child = children.Process(target=work, args=given)
    child.start()
    child.join(patience)
    child.kill()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def everything(root: Path) -> None:
    """Ingest, label, compact and read; exit with REFUSED on one of our own errors."""
    try:
        crashing.ingest_many(root)
        crashing.label(root)
        compact(root)
        content(root)
    except ActstoreError as error:
        raise SystemExit(REFUSED) from error


def assert_stands(root: Path) -> None:
    """Check the latest commit, whatever it is, and that everything can still be done."""
    if manifests.numbers(root):
        found = {key: row[:2] for key, row in content(root).items()}
        assert found.items() <= {key: row[:2] for key, row in WHOLE.items()}.items()
        assert_sound(root)
    everything(root)
    assert {key: row[:2] for key, row in content(root).items()} == {
        key: row[:2] for key, row in WHOLE.items()
    }
    assert list((root / ".staging").iterdir()) == []
    assert set(live_files(root)) <= {
        path.relative_to(root).as_posix() for path in root.rglob("*.parquet")
    }


def _with_few_descriptors(root: Path, few: int) -> None:
    there = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (there + few, there + few))
    everything(root)


@pytest.mark.parametrize("few", range(0, 40, 1 if TORTURE else 14))
def test_too_few_descriptors(tmp_path: Path, few: int) -> None:
    root = tmp_path / "s"
    with attack("faults", "limits of descriptors") as tally:
        assert in_child(_with_few_descriptors, root, few) in (0, REFUSED)
        assert_stands(root)
        tally.tries += 1


def _with_little_memory(root: Path, megabytes: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        everything(root)
    except (MemoryError, RuntimeError) as error:  # no thread can be started
        raise SystemExit(REFUSED) from error


@pytest.mark.parametrize("megabytes", range(1, 120, 4 if TORTURE else 60))
def test_too_little_memory(tmp_path: Path, megabytes: int) -> None:
    """A library may end the process there, or stand still: the store stands all the same."""
    root = tmp_path / "s"
    with attack("faults", "limits of memory") as tally:
        in_child(_with_little_memory, root, megabytes, patience=10)
        assert_stands(root)
        tally.tries += 1


def _losing_rights(root: Path, at: int) -> None:
    def lose(call: str, arguments: tuple[Any, ...]) -> None:
        for folder in (root, root / "manifests", root / "activations"):
            if folder.exists():
                os.chmod(folder, 0o500)

    os.chmod(root.parent, 0o777)
    if os.getuid() == 0:
        os.setuid(NOBODY)
    with trapped(at, lose):
        everything(root)


@pytest.mark.parametrize("at", range(2, 200, 4 if TORTURE else 80))
def test_rights_that_are_lost_midway(tmp_path: Path, at: int) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o777)
    for folder in (*tmp_path.parents, tmp_path):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    root = home / "s"
    with attack("faults", "rights lost at a call") as tally:
        assert in_child(_losing_rights, root, at) in (0, REFUSED)
        for folder in (root, root / "manifests", root / "activations"):
            if folder.exists():
                folder.chmod(0o777)
        assert_stands(root)
        tally.tries += 1


def test_a_clock_that_goes_backwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Order and names come from commit numbers, not from clocks."""
    root = tmp_path / "s"
    now = time.time_ns()
    ticks = iter(range(1_000_000))

    def backwards() -> int:
        return now - next(ticks) * 3_600_000_000_000

    monkeypatch.setattr(time, "time_ns", backwards)
    monkeypatch.setattr(time, "time", lambda: backwards() / 1e9)
    for number in range(6):
        write(root, batch(2 * number, 2, layer=0))
    assert list(content(root)) == list(expected(batch(0, 12, layer=0)))
    crashing.label(root)
    crashing.label(root, "third")
    compact(root)
    assert [row[2] for row in content(root).values()][:4] == ["third", "third", "third", None]
    assert_sound(root)
    assert open_snapshot(root).manifest.number == 9
