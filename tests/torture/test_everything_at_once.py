"""Processes that write, label, drop, compact, prune and read one store, all at the same time."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from actstore import schema
from actstore.errors import CommitError
from actstore.storage import manifest as manifests
from actstore.storage import pruning
from actstore.storage.compaction import compact
from actstore.storage.dropping import drop_rows
from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from tests.children import children
from tests.storage.stores import assert_sound, batch, card_commit, content, expected, write
from tests.torture.effort import TORTURE, attack

SECONDS = 60 if TORTURE else 3
PROCESSES = (2, 4, 8) if TORTURE else (4,)
PLACES = [(home, number) for home in ("disk", "tmpfs") for number in PROCESSES]
if TORTURE:
    PLACES.append(("overlay", 4))
OWN = 1_000_000
"""Examples that are one process's alone: more than it writes in the time, however fast."""

EXAMPLE = schema.key_names().index("example_id")


def work(root: Path, who: int, seconds: float, told: Path) -> None:
    """Do anything to one's own rows, and read everybody's; write down what was acknowledged.

    Being overtaken is an answer, not a failure: then nothing has changed.
    """
    draw = random.Random(who)
    mine: dict[int, str | None] = {}
    number = OWN * who
    counts = dict.fromkeys(("write", "label", "drop", "compact", "prune", "read"), 0)
    overtaken = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        what = draw.choice(list(counts))
        try:
            if what == "write":
                write(root, batch(number, 2, layer=draw.randrange(2)))
                mine |= {number: None, number + 1: None}
                number += 2
            elif what == "read":
                _read(root, who, mine)
            elif what == "compact":
                compact(root)
            elif what == "prune":
                pruning.erase(root, keep=draw.randrange(1, 4))
            elif mine:
                chosen = draw.sample(sorted(mine), min(2, len(mine)))
                _change(root, what, chosen, label := draw.choice(["x", "y", None]))
                for each in chosen:
                    if what == "drop":
                        del mine[each]
                    else:
                        mine[each] = label
            counts[what] += 1
        except CommitError as error:
            if not any(word in str(error) for word in ("compacted", "changed by others", "again")):
                raise
            overtaken += 1
    rows = {str(key): label for key, label in mine.items()}
    told.write_text(json.dumps({"rows": rows, "counts": counts, "overtaken": overtaken}))


def _read(root: Path, who: int, mine: dict[int, str | None]) -> None:
    snapshot = open_snapshot(root)
    time.sleep(0.02)  # a compaction and a pruning may come before a file is opened
    found = content(snapshot)
    snapshot.close()
    own = {int(key[EXAMPLE][1:]): row[2] for key, row in found.items()}
    assert {number: label for number, label in own.items() if number // OWN == who} == mine


def _change(root: Path, what: str, chosen: list[int], label: str | None) -> None:
    snapshot = open_snapshot(root)
    keys = list(content(snapshot))
    wanted = {f"e{number}" for number in chosen}
    rows = np.array([at for at, key in enumerate(keys) if key[EXAMPLE] in wanted], np.int64)
    assert len(rows) == len(chosen)
    if what == "drop":
        drop_rows(snapshot, rows)
    else:
        set_labels(snapshot, rows, [label] * len(rows), message="")
    snapshot.close()


@pytest.fixture
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Return a folder on the disk, in memory, or on layers of which the upper one is written."""
    if request.param == "disk":
        yield tmp_path
        return
    folder, memory = tmp_path / "mounted", tmp_path / "memory"
    folder.mkdir()
    memory.mkdir()
    kind, options = "tmpfs", "size=2g"
    if request.param == "overlay":
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", memory], capture_output=True)
        for name in ("lower", "upper", "work"):
            (memory / name).mkdir()
        layers = {f"{name}dir": memory / name for name in ("lower", "upper", "work")}
        kind, options = "overlay", ",".join(f"{name}={path}" for name, path in layers.items())
    made = subprocess.run(["mount", "-t", kind, "-o", options, kind, folder], capture_output=True)
    if made.returncode == 0:
        yield folder
    for mounted in (folder, memory):
        if mounted.is_mount():
            subprocess.run(["umount", "--lazy", mounted], check=True)
    if made.returncode:
        pytest.skip("file systems can be mounted by root on Linux only")


@pytest.mark.parametrize(("home", "processes"), PLACES, indirect=["home"])
def test_nothing_acknowledged_is_lost(
    home: Path, processes: int, request: pytest.FixtureRequest
) -> None:
    on = request.node.callspec.params["home"]
    root = home / "s"
    write(root, batch(0, 2, layer=0))
    told = [home / f"told-{who}.json" for who in range(processes)]
    rows: dict[str, str | None] = {"e0": None, "e1": None}
    counts: dict[str, int] = {}
    what = f"actions of {processes} processes on {on}, {SECONDS} s"
    with attack("several processes", what) as tally:
        running = [
            children.Process(target=work, args=(root, who + 1, SECONDS, told[who]))
            for who in range(processes)
        ]
        for process in running:
            process.start()
        for process in running:
            process.join()
        assert [process.exitcode for process in running] == [0] * processes
        for path in told:
            about = json.loads(path.read_bytes())
            rows |= {f"e{number}": label for number, label in about["rows"].items()}
            for name, times in about["counts"].items():
                counts[name] = counts.get(name, 0) + times
        tally.tries = sum(counts.values())
        found = content(root)
        assert {key[EXAMPLE]: row[2] for key, row in found.items()} == rows
        vectors = {key[EXAMPLE]: row[1] for key, row in found.items()}
        for name in rows:
            (vector,) = (row[1] for row in expected(batch(int(name[1:]), 1)).values())
            assert vectors[name] == vector
        assert_sound(root)
        assert min(counts.values()) > 0
        compact(root)
        gone = pruning.erase(root)
        assert gone.held == ()
        assert manifests.numbers(root) == [card_commit(root)]
        assert os.listdir(root / ".staging") == []
        assert {key[EXAMPLE]: row[2] for key, row in content(root).items()} == rows
