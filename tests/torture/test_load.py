"""Ten million rows in two thousand shards, a million source files: time and memory of commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from actstore.storage.rows import RowBatch
from actstore.storage.writer import StoreWriter
from tests.storage.stores import RUN, batch, write
from tests.torture.effort import TORTURE, Tally, attack

SHARDS, ROWS, WIDTH = (2_000, 5_000, 8) if TORTURE else (40, 50, 8)
LAYERS = 100 if TORTURE else 20
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


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """Return a store of many small shards, one for each layer in each of some commits."""
    root = tmp_path / "s"
    draw = np.random.default_rng(0)
    for commit in range(SHARDS // LAYERS):
        names = [f"e{commit * ROWS + row}" for row in range(ROWS)]
        with StoreWriter(root, run=RUN) as writer:
            for layer in range(LAYERS):
                writer.add(
                    RowBatch(
                        vectors=draw.standard_normal((ROWS, WIDTH), np.float32).astype(np.float16),
                        constants={
                            "model": "org/model",
                            "site": "resid_post",
                            "layer": layer,
                            "pooling": "last",
                        },
                        columns={"example_id": names},
                    )
                )
            writer.commit(operation="ingest", message="")
    yield root
    shutil.rmtree(root)


def measured(arguments: list[str], tally: Tally) -> Cost:
    """Run a command and write down what it took."""
    cost = run(arguments)
    tally.tries, tally.peak = 1, cost.peak
    return cost


def test_every_command_over_many_shards(store: Path) -> None:
    """One test, not one each: the store takes minutes to make, for each process of tests anew."""
    for name, (command, *rest) in COMMANDS.items():
        with attack("load", f"`{name}`, {SHARDS * ROWS:,} rows in {SHARDS:,} shards") as tally:
            cost = measured([command, str(store), *rest], tally)
            assert cost.code == 0, f"{name}: {cost.errors}"
            assert cost.peak < MOST, f"{name} took {cost.peak:,} bytes"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """Return a folder of very many files, of which one is read."""
    folder = tmp_path / "source"
    for number in range(0, FILES, 1000):
        part = folder / f"{number:07d}"
        part.mkdir(parents=True)
        for each in range(min(1000, FILES)):
            os.close(os.open(part / f"e{each}.txt", os.O_CREAT))
    np.savez(folder / "layer_3.npz", vectors=np.zeros((4, 8), np.float32))
    yield folder
    shutil.rmtree(folder)


def test_source_files_are_listed_without_being_held(source: Path, tmp_path: Path) -> None:
    write(tmp_path / "s", batch(0, 2))
    with attack("load", f"`ingest --dry-run` of a folder of {FILES:,} files") as tally:
        cost = measured(["ingest", str(source), "--store", str(tmp_path / "s"), "--dry-run"], tally)
        assert "Traceback" not in cost.errors
        assert cost.peak < 1 << 30
