"""Long use in one process: no file stays open, no map stays mapped, and memory does not grow."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from actstore.storage.remembered import Remembered
from tests.torture.effort import TORTURE, attack

WARM = 80 if TORTURE else 10
ROUNDS = 1000 if TORTURE else 10
GROWTH = (8 if TORTURE else 24) << 20
"""Bytes that are still to come after the first rounds, and not again."""


_CACHE = type(lru_cache(len))


class Held(NamedTuple):
    """What the process holds."""

    files: int
    maps: int
    resident: int


def held() -> Held:
    """Return what this process holds now, but for what it remembers, which has its bounds."""
    for each in gc.get_objects():
        if isinstance(each, Remembered):
            each.clear()
        elif isinstance(each, _CACHE) and _is_ours_and_bounded(each):
            each.cache_clear()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    maps = sum("parquet" in line for line in Path("/proc/self/maps").read_text().splitlines())
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Held(len(os.listdir("/proc/self/fd")), maps, pages * os.sysconf("SC_PAGE_SIZE"))


def _is_ours_and_bounded(cache: Any) -> bool:
    return cache.__module__.startswith("actstore.") and bool(cache.cache_parameters()["maxsize"])


def use(folder: Path, rounds: int) -> tuple[Held, Held]:
    """Write, ask, label, read, drop, compact and prune, again and again."""
    import actstore

    os.fsync = lambda fd: None  # no promise about power: a round would wait for the disk
    store = actstore.open(folder / "s", create=True)
    draw = np.random.default_rng(0)
    before = held()
    for number in range(rounds):
        if number == WARM:
            before = held()
        elif number % 90 == 0:
            held()  # else what is remembered lies scattered in what the allocator keeps
        vectors = draw.standard_normal((20, 64), np.float32)
        names = [f"e{number}-{row}" for row in range(20)]
        store.write(
            {("resid_post", 3): vectors},
            {"example_id": names, "group": [number % 3] * 20},
            model="org/model",
        )
        store.label("CASE WHEN norm > 8 THEN 'long' ELSE 'short' END", f"layer = {3}")
        assert store.select(layer=3).numpy().shape[1] == 64
        assert store.sql("SELECT count(*) FROM activations").fetchall() == [(store.rows,)]
        store.nearest(vectors[0], k=3, layer=3)
        with actstore.open(folder / "s", at=store.commit) as other:
            assert other.select(f'example_id = "{names[0]}"'.replace('"', "'")).rows.size == 1
            other.head(3).to_polars()
        if number % 10 == 9:
            store.drop("TRUE" if number % 20 == 19 else "norm > 8", prune=True)
    after = held()
    store.close()
    return before, after


def test_it_holds_no_more_in_the_end(tmp_path: Path) -> None:
    with attack("long use", "rounds of writing, asking, labelling, dropping, pruning") as tally:
        child = subprocess.run(
            [sys.executable, "-m", "tests.torture.test_soak", str(tmp_path), str(WARM + ROUNDS)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert child.returncode == 0, child.stderr
        before, after = (Held(*each) for each in json.loads(child.stdout))
        tally.tries, tally.peak = WARM + ROUNDS, after.resident
        tally.more = {"before": before._asdict(), "after": after._asdict()}
        assert after.files <= before.files
        assert after.maps <= before.maps + 8  # of the shards that are open at that moment
        assert after.resident - before.resident < GROWTH


if __name__ == "__main__":
    print(json.dumps(use(Path(sys.argv[1]), int(sys.argv[2]))))
