"""Ray clusters of several nodes on this machine, and captures that they work on."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import actstore
from actstore.api.selection import Selection
from actstore.capturing.prompts.data import open_questions
from actstore.capturing.run.options import CaptureOptions, CaptureSettings, Source
from actstore.capturing.run.pieces import Part
from actstore.remote.bucket_address import is_bucket
from actstore.storage import manifest as manifests
from tests.capturing import crashing, families

ROOT = Path(__file__).resolve().parents[2]
MARK = "ACTSTORE_TEST_OF"
"""Variable by which a test tells the processes that it has started from all others."""
SMALL: dict[str, Any] = {"object_store_memory": 80 << 20, "include_dashboard": False}
OPTIONS: CaptureOptions = {
    "model_name": "tiny",
    "layers": "0,-1",
    "pool": ("prompt.last", "response.mean"),
    "max_new_tokens": 2,
    "generation": {"do_sample": True},
    "batch_size": 4,
    "dataset": "numbers",
    "self_check": False,
}


def environment(folder: Path) -> dict[str, str]:
    """Variables of everything that a test starts."""
    return {
        **os.environ,
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        MARK: str(folder),
    }


@contextlib.contextmanager
def cluster(folder: Path, nodes: int, workers: int = 1) -> Iterator[Any]:
    """Start a cluster: a head where nobody works, and nodes with room for some workers each."""
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    os.environ.update(environment(folder))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SMALL})
    try:
        for _ in range(nodes):
            made.add_node(num_cpus=workers, **SMALL)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()  # type: ignore[no-untyped-call]  # Ray's
        os.environ.clear()
        os.environ.update(before)


def study(folder: Path, count: int) -> None:
    """Write a model and questions."""
    families.build("llama").save_pretrained(folder / "tiny")
    families.tokenizer().save_pretrained(folder / "tiny")
    rows = crashing.examples(count)
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


class Ending:
    """Ends the process that it is sent to."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


def start(
    folder: Path,
    address: str | None = None,
    workers: int = 2,
    ending: int = -1,
    place: str = "ray",
    *,
    model: str = "tiny",
    data: str = "q.jsonl",
    options: CaptureOptions = OPTIONS,
) -> subprocess.Popen[str]:
    """Start a driver in a process of its own.

    Args:
        folder: where model and questions are, such as :func:`study` has made it.
        address: of the cluster; one of its own when missing.
        workers: how many.
        ending: number of an example that ends whoever gets it.
        place: where it captures into: in ``folder``, or in a bucket.
        model: its folder in ``folder``.
        data: the questions' file in ``folder``.
        options: of the capture.
    """
    given = (str(workers), address or "", str(ending), place, model, data, json.dumps(options))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.capturing.clusters", *given],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(driver: subprocess.Popen[str], seconds: float = 300.0) -> dict[str, Any]:
    """Wait for a driver; return its summary, with what it said meanwhile as ``said``."""
    out, err = driver.communicate(timeout=seconds)
    assert driver.returncode == 0, err
    told = [line for line in out.splitlines() if line.startswith("{")]
    assert told, (out, err)
    found: dict[str, Any] = json.loads(told[-1])
    return {**found, "said": err}


def main() -> None:
    """Capture by Ray, a commit after each piece, and read it by Ray; print the summary."""
    import ray

    from actstore.capturing.workers.ray_engine import capture_with_ray
    from actstore.capturing.workers.worker import Work

    workers, address, ending, place, model, data, given = sys.argv[1:]
    options: CaptureOptions = json.loads(given)
    examples = list(open_questions(data))
    if int(ending) >= 0:
        examples[int(ending)] = replace(examples[int(ending)], extra={"end": Ending()})
    ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR)
    size = CaptureSettings(**options).piece_size
    summary = capture_with_ray(
        Source(examples, part=Part(rank=0, world_size=1, size=size)),
        Work(
            store=place if is_bucket(place) else Path(place).resolve(),
            folder=Path.cwd(),
            model=model,
            load={"device": "cpu", "dtype": "float32"},
            options=options,
            settings={},
            world_size=int(workers),
            size=size,
            commit_seconds=0.0,
        ),
        note=lambda text: print(text, file=sys.stderr, flush=True),
    )
    by_ray = None
    if not is_bucket(place):
        by_ray = read_by_ray(actstore.open(place).select(layer=0, pooling="last"))
    print(json.dumps({**summary.as_dict(), "by_ray": by_ray}))


def read_by_ray(rows: Selection) -> list[Any]:
    """Read rows by Ray, in several tasks; return their numbers, ids and vectors."""
    from actstore.querying import portions

    portions.BYTES = 64 * rows.shape[1] * 4
    taken = rows.to_ray(["example_id", "row_id"])
    assert taken.count() == len(rows)
    batches = list(taken.iter_batches(batch_format="numpy"))
    together = {name: np.concatenate([each[name] for each in batches]) for name in batches[0]}
    order = np.argsort(together["row_id"])
    return [together[name][order].tolist() for name in ("row_id", "example_id", "activation")]


def stored(store: Path) -> int:
    """How many rows a store has."""
    return sum(shard.rows for shard in manifests.latest(store).shards)


def latest(store: Path) -> int:
    """The number of a store's latest commit."""
    return manifests.latest(store).number


def wait_until(what: Callable[[], bool], seconds: float = 240.0) -> None:
    """Wait until something is so; fail after a time in which it surely should be."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def workers_of(folder: Path) -> list[int]:
    """The processes that capture for a test."""
    mark = f"{MARK}={folder}".encode()
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            if (process / "cmdline").read_bytes().startswith(b"ray::Worker") and mark in (
                process / "environ"
            ).read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def busy_node(cluster: Any, folder: Path) -> Any:
    """Return the node of a worker that has work just now."""
    nodes: dict[int, Any] = {}

    def find() -> bool:
        by_raylet = {
            started.process.pid: node
            for node in cluster.list_all_nodes()
            for started in node.all_processes["raylet"]
        }
        for worker in workers_of(folder):
            with contextlib.suppress(OSError):  # it has just ended
                process = Path("/proc") / str(worker)
                working = (process / "cmdline").read_bytes().startswith(b"ray::Worker.")
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                if working and parent in by_raylet:
                    nodes[0] = by_raylet[parent]
        return bool(nodes)

    wait_until(find)
    return nodes[0]


def kill(process: int) -> None:
    """End a process as a crash does."""
    os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    main()
