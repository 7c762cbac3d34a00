"""Ten million rows in two thousand shards, a million source files: time and memory of commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from actstore.storage.rows import RowBatch
from actstore.storage.writer import StoreWriter
from tests.storage.stores import RUN, batch, write
from tests.torture.effort import TORTURE

SHARDS, ROWS, WIDTH = (2_000, 5_000, 8) if TORTURE else (40, 50, 8)
FILES = 1_000_000 if TORTURE else 2_000
MOST = 3 << 30
"""Bytes of memory that a command may take over ten million rows."""
COMMANDS = {
    "info": ["info"],
    "log": ["log"],
    "select": ["select", "example_id = 'e77'"],
    "query": ["query", "SELECT layer, count(*), avg(norm) FROM activations GROUP BY layer"],
    "stats": ["stats", "--layers", "3"],
    "nearest": ["nearest", "--row", "0", "--layers", "0", "-k", "3"],
    "label": ["label", "--set", "'x'", "--where", "layer = 3"],
    "verify": ["verify"],
    "compact": ["compact"],
    "prune": ["compact", "--prune"],
    "drop": ["drop", "layer = 5", "--yes"],
}


class Cost(NamedTuple):
    """What a command took."""

    code: int
    seconds: float
    peak: int
    """Bytes of memory at most."""
    errors: str


# What a process inherits counts as its own peak: it is started by one that is small itself.
LAUNCH = """
import os, resource, subprocess, sys, time
started = time.monotonic()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
seconds = time.monotonic() - started
print(code, seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10)
"""


def run(arguments: list[str]) -> Cost:
    """Run a command in a process of its own."""
    launched = [sys.executable, "-S", "-c", LAUNCH, sys.executable, "-m", "actstore", *arguments]
    done = subprocess.run(launched, capture_output=True, text=True)
    code, seconds, peak = done.stdout.split()
    return Cost(int(code), round(float(seconds), 2), int(peak), done.stderr)


def keep(about: str, cost: Cost) -> None:
    """Write a figure down where `make torture` asks for it."""
    if path := os.environ.get("ACTSTORE_FIGURES"):
        with Path(path).open("a") as file:
            line = {"what": about, "seconds": cost.seconds, "peak_mb": cost.peak >> 20}
            file.write(json.dumps(line) + "\n")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of many small shards: as many files as commits brought them in."""
    root = tmp_path_factory.mktemp("load") / "s"
    draw = np.random.default_rng(0)
    for first in range(0, SHARDS, 20):
        with StoreWriter(root, run=RUN) as writer:
            for number in range(first, first + 20):
                names = [f"e{(number // 20) * ROWS + row}" for row in range(ROWS)]
                writer.add(
                    RowBatch(
                        vectors=draw.standard_normal((ROWS, WIDTH)).astype(np.float16),
                        constants={
                            "model": "org/model",
                            "site": "resid_post",
                            "layer": number % 20,
                            "pooling": "last",
                        },
                        columns={"example_id": names},
                    )
                )
            writer.commit(operation="ingest", message="")
    return root


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_over_many_shards(name: str, store: Path) -> None:
    command, *rest = COMMANDS[name]
    cost = run([command, str(store), *rest])
    keep(f"{name}, {SHARDS * ROWS:,} rows in {SHARDS:,} shards", cost)
    assert cost.code == 0, cost.errors
    assert cost.peak < MOST


def test_source_files_are_listed_without_being_held(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    for number in range(0, FILES, 1000):
        part = folder / f"{number:07d}"
        part.mkdir(parents=True)
        for each in range(min(1000, FILES)):
            (part / f"e{each}.txt").touch()
    np.savez(folder / "layer_3.npz", vectors=np.zeros((4, 8), np.float32))
    write(tmp_path / "s", batch(0, 2))
    cost = run(["ingest", str(folder), "--store", str(tmp_path / "s"), "--dry-run"])
    keep(f"ingest --dry-run of a folder of {FILES:,} files", cost)
    assert "Traceback" not in cost.errors
    assert cost.peak < 1 << 30
