"""How fast this machine moves bytes at best, and how near to that each benchmark comes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measure import Outcome, Roof, drop_cache

_TRIES = 5


@dataclass(frozen=True, slots=True)
class Speeds:
    """Bytes per second of one core and of the disk that holds the benchmarks' data."""

    reading: float
    """Reading from memory: 64-bit integers added up."""
    copying: float
    """Copying from memory to memory that is there already; each byte counts once."""
    writing: float
    """Writing one new file, flushed to the disk."""
    loading: float
    """Reading a file that is not in the page cache."""

    def of(self, roof: Roof) -> float:
        """Return the speed that bounds a benchmark."""
        speeds: dict[Roof, float] = {
            "memory": self.reading,
            "copy": self.copying,
            "disk": self.writing,
            "cold": self.loading,
        }
        return speeds[roof]


def speeds(folder: Path, *, size: int) -> Speeds:
    """Measure them, the best of some tries each, on ``size`` bytes."""
    words = np.arange(size // 8, dtype=np.uint64)
    target = np.zeros_like(words)
    path = folder / "roof"

    def write() -> None:
        path.unlink(missing_ok=True)
        with path.open("wb", buffering=0) as file:
            file.write(words.data)
            os.fsync(file.fileno())

    def load() -> None:
        with path.open("rb", buffering=0) as file:
            file.readinto(target.data)

    found = Speeds(
        reading=words.nbytes / _best(lambda: words.sum()),
        copying=words.nbytes / _best(lambda: np.copyto(target, words)),
        writing=words.nbytes / _best(write),
        loading=words.nbytes / _best(load, before=lambda: drop_cache([path])),
    )
    path.unlink()
    return found


def table(outcomes: Sequence[Outcome], found: Speeds) -> str:
    """Return, as Markdown, how much of the machine's speed each outcome with bytes reaches."""
    lines = ["| what | bytes | GB/s | the machine's | reached |", "|---|---|---|---|---|"]
    for outcome in outcomes:
        if outcome.moved is None:
            continue
        speed, roof = outcome.moved.size / outcome.moved.seconds, found.of(outcome.moved.roof)
        lines.append(
            f"| {outcome.what} | {outcome.moved.size:,} | {speed / 1e9:.3g} | "
            f"{outcome.moved.roof} {roof / 1e9:.3g} | {speed / roof:.0%} |"
        )
    return "\n".join(lines)


def _best(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    seconds = []
    for _ in range(_TRIES):
        before()
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
