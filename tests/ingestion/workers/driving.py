"""Ingests by Ray in processes that are killed where they stop, and what should come of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import actstore
from tests.capturing import clusters

ROOT = Path(__file__).resolve().parents[3]
_STOPPED = "stopped"


def start(source: Path, store: Path, *, stop: int = 0, **options: Any) -> subprocess.Popen[str]:
    """Start an ingest by two workers of the Ray that this process has joined.

    Args:
        source: tables.
        store: where it stores them.
        stop: number of files after which it goes no further; 0: it ends.
        options: of the ingest.
    """
    import ray

    address = ray.get_runtime_context().gcs_address
    given = (str(source), str(store), str(stop), address, json.dumps(options))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.ingestion.workers.driving", *given],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_when_it_stops(driver: subprocess.Popen[str]) -> None:
    """End it as a crash does, in the middle."""
    assert driver.stdout is not None
    line = driver.stdout.readline()
    clusters.kill(driver.pid)
    _, err = driver.communicate()
    assert line == f"{_STOPPED}\n", err


def result(driver: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for it; return its ``summary``, and what it ``said``."""
    out, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, err
    return {"summary": json.loads(out.splitlines()[-1]), "said": err + out}


def spoil(path: Path) -> None:
    """Put something else into a file, of the same size and time."""
    state = path.stat()
    path.write_bytes(b"x" * state.st_size)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def rows(store: Path | str) -> tuple[Any, np.ndarray]:
    """All columns but those that differ from run to run, and the vectors, in row order."""
    chosen = actstore.open(store).select()
    table = chosen.table()
    names = [name for name in table.column_names if name != "run_id"]
    return table.select(names), chosen.numpy(mixed=True)


def told_of(summary: dict[str, Any]) -> dict[str, Any]:
    """What is told of an ingest, but for what differs from run to run."""
    own = ("run_id", "commit", "seconds", "report")
    return {name: value for name, value in summary.items() if name not in own}


def assert_as_alone(store: Path | str, alone: Path) -> None:
    (table, vectors), (expected, bits) = rows(store), rows(alone)
    assert table.equals(expected)
    assert np.array_equal(vectors.view(np.uint32), bits.view(np.uint32))


def main() -> None:
    """Ingest tables, in pieces of two."""
    from actstore.ingestion.report import Progress
    from actstore.ingestion.workers import pieces

    source, store, stop, address, given = sys.argv[1:]
    pieces._LEAST = 2 * pieces._FILE + (64 << 10)

    def progress(done: Progress) -> None:
        if int(stop) and done.files >= int(stop):
            print(_STOPPED, flush=True)
            time.sleep(600)

    summary = actstore.ingest(
        source, store, model="m", site="resid_post", layer=3, engine="ray", workers=2,
        address=address, progress=progress, note=lambda text: print(text, file=sys.stderr),
        **json.loads(given),
    )  # fmt: skip
    print(json.dumps(summary.as_dict()))


if __name__ == "__main__":
    main()
