"""Ray clusters of several nodes on this machine, and captures that they work on."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

import actstore
from actstore.api.selection import Selection
from actstore.capturing.prompts.data import open_questions
from actstore.capturing.run.options import CaptureOptions, CaptureSettings, Source
from actstore.capturing.run.pieces import Part
from actstore.capturing.run.summary import CaptureProgress
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

    with contextlib.ExitStack() as last:
        last.callback(os.environ.update, dict(os.environ))
        last.callback(os.environ.clear)
        os.environ.update(environment(folder))
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SMALL})
        last.callback(made.shutdown)
        for _ in range(nodes):
            made.add_node(num_cpus=workers, **SMALL)
        made.wait_for_nodes()
        yield made


def study(folder: Path, count: int) -> None:
    """Write a model and questions."""
    families.build("llama").save_pretrained(folder / "tiny")
    families.tokenizer().save_pretrained(folder / "tiny")
    rows = crashing.examples(count)
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


class Question(str):
    """A question that does something to the worker that gets it."""

    mark: Path
    """Where it leaves what others should know of it."""


class Ending(Question):
    """Ends the process that it is sent to."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


class Unreadable(Question):
    """Cannot be read where it is sent to."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


class Late(Question):
    """Is on its way until the driver has looked at its workers a few times."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (str(self), self.mark)


def _arrive(text: str, mark: Path) -> str:
    mark.with_suffix(".underway").touch()
    wait_until(mark.with_suffix(".here").exists)
    return text


class Holding(Question):
    """Whoever comes to it first waits there until it is killed; see :func:`held`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _Held, (str(self), self.mark)


class _Held(str):
    """What it is where it was sent to."""

    _mark: Path

    def __new__(cls, text: str, mark: Path) -> _Held:
        made = super().__new__(cls, text)
        made._mark = mark.with_suffix(".held")
        return made

    def __repr__(self) -> str:  # the beginning of the work on its piece: a hash is taken
        with contextlib.suppress(FileExistsError), self._mark.open("x") as file:
            print(os.getpid(), file=file, flush=True)
            threading.Event().wait()
        return super().__repr__()


def held(driver: subprocess.Popen[str], folder: Path, number: int, seconds: float = 600.0) -> int:
    """Return the process that waits at the :class:`Holding` question of an example, once it does.

    Its piece is not stored before it is lost, nor is the capture done.
    """
    mark = _mark_of(folder, number).with_suffix(".held")

    def somebody_waits() -> bool:
        assert driver.poll() is None, "the capture has ended before anybody came to it"
        return mark.exists() and mark.read_text().endswith("\n")

    wait_until(somebody_waits, seconds)
    return int(mark.read_text())


def _mark_of(folder: Path, number: int) -> Path:
    return folder / f"question_{number}.mark"


@contextlib.contextmanager
def start(
    folder: Path,
    address: str | None = None,
    workers: int = 2,
    place: str = "ray",
    *,
    questions: Mapping[int, type[Question]] = MappingProxyType({}),
    model: str = "tiny",
    data: str = "q.jsonl",
    options: CaptureOptions = OPTIONS,
) -> Iterator[subprocess.Popen[str]]:
    """Start a driver in a process of its own; it has ended when the block is left.

    Args:
        folder: where model and questions are, such as :func:`study` has made it.
        address: of the cluster; one of its own when missing.
        workers: how many.
        place: where it captures into: in ``folder``, or in a bucket.
        questions: what becomes of the questions of these examples, by number.
        model: its folder in ``folder``.
        data: the questions' file in ``folder``.
        options: of the capture.
    """
    kinds = json.dumps({number: kind.__name__ for number, kind in questions.items()})
    given = (str(workers), address or "", kinds, place, model, data, json.dumps(options))
    with subprocess.Popen(
        [sys.executable, "-m", "tests.capturing.clusters", *given],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as driver:
        try:
            yield driver
        finally:
            if driver.poll() is None:
                driver.terminate()  # it ends the cluster that it has started
                with contextlib.suppress(subprocess.TimeoutExpired):
                    driver.wait(60)
                driver.kill()


def result(driver: subprocess.Popen[str], seconds: float = 900.0) -> dict[str, Any]:
    """Wait for a driver; return its summary, with what it said meanwhile as ``said``."""
    out, err = driver.communicate(timeout=seconds)
    print(err)  # seen where a test fails
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

    workers, address, kinds, place, model, data, given = sys.argv[1:]
    options: CaptureOptions = json.loads(given)
    examples = list(open_questions(data))
    for number, kind in json.loads(kinds).items():
        example = examples[int(number)]
        question: Question = _KINDS[kind](example.question)
        question.mark = _mark_of(Path.cwd(), int(number))
        examples[int(number)] = replace(example, question=question)
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
        progress=_Arrivals(),
        note=lambda text: print(text, file=sys.stderr, flush=True),
    )
    by_ray = None
    if not is_bucket(place):
        by_ray = read_by_ray(actstore.open(place).select(layer=0, pooling="last"))
    print(json.dumps({**summary.as_dict(), "by_ray": by_ray}))


class _Arrivals:
    """Lets the questions that are late arrive after some looks."""

    def __init__(self) -> None:
        self._looks: Counter[Path] = Counter()

    def __call__(self, done: CaptureProgress) -> None:
        for mark in Path.cwd().glob("*.underway"):
            self._looks[mark] += 1
            if self._looks[mark] > 4:
                mark.with_suffix(".here").touch()


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


def wait_until(what: Callable[[], bool], seconds: float = 600.0) -> None:
    """Wait until something is so; fail after a time in which it surely should be."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def workers_of(folder: Path, node: int | None = None) -> list[int]:
    """The processes that capture for a test; those of the node whose raylet this is, if given."""
    mark = f"{MARK}={folder}".encode()
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            if (
                (process / "cmdline").read_bytes().startswith(b"ray::Worker")
                and mark in (process / "environ").read_bytes().split(b"\0")
                and node in (None, _parent(int(process.name)))
            ):
                found.append(int(process.name))
    return found


def _parent(process: int) -> int:
    stat = (Path("/proc") / str(process) / "stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def remove_node(cluster: Any, folder: Path, worker: int) -> None:
    """Let the node of a worker go as if it lost power: nobody there does anything any more."""
    raylet = _parent(worker)
    there = workers_of(folder, raylet)
    assert worker in there
    for process in there:
        os.kill(process, signal.SIGSTOP)
    cluster.remove_node(
        next(
            node
            for node in cluster.list_all_nodes()
            for started in node.all_processes["raylet"]
            if started.process.pid == raylet
        ),
        allow_graceful=False,
    )
    for process in there:
        kill(process)


def kill(process: int) -> None:
    """End a process as a crash does."""
    os.kill(process, signal.SIGKILL)


_KINDS = {kind.__name__: kind for kind in (Ending, Unreadable, Late, Holding)}

if __name__ == "__main__":
    main()
