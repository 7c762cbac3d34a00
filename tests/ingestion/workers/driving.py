"""Ingests by Ray in processes of their own, which stop where they are told to and are killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

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


def main() -> None:
    """Ingest tables, in pieces of two."""
    import actstore
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
