"""Times candidates side by side: interleaved, paired ratios, warm or cold, on a named machine."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

_ENOUGH = 7
"""Quiet rounds that are enough for a median."""
_PATIENCE = 60.0
"""Seconds to wait for them."""
LIBRARIES = (
    *("actstore", "numpy", "torch", "pyarrow", "duckdb", "polars"),
    *("datasets", "pylance", "faiss-cpu", "safetensors", "isal", "numkong"),
)
Roof = Literal["memory", "copy", "disk", "cold"]
"""What bounds a benchmark: reading memory, copying it, a synced write, a read from the disk."""


class Moved(NamedTuple):
    """What a candidate had to move at least."""

    size: int
    """In bytes."""
    seconds: float
    """That it took."""
    roof: Roof


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One measured number, beside what was asked for."""

    point: int
    """Number of the target in the list that ``docs/performance.md`` repeats."""
    what: str
    value: float
    unit: str = "x"
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    """Times behind the number, and their spread."""
    moved: Moved | None = None
    """Where bytes are what takes the time: how near to the machine's speed it is."""

    @property
    def target(self) -> str:
        """The target as text; empty where the number is for information."""
        if self.at_least is not None:
            return f">= {self.at_least:g}{self.unit}"
        return "" if self.at_most is None else f"<= {self.at_most:g}{self.unit}"

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most


class Sample(NamedTuple):
    """One run of one candidate."""

    seconds: float
    quiet: bool
    """Whether nothing else ran on the machine meanwhile."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Samples of each candidate, one per round.

    Rounds that other work disturbed are left out where enough others remain.
    """

    samples: Mapping[str, list[Sample]]

    def median(self, name: str) -> float:
        """Median seconds of one candidate."""
        return statistics.median(self._seconds(name)[0])

    def ratio(self, name: str, to: str) -> float:
        """How many times as long ``name`` takes as ``to``: the median over rounds.

        Taken round by round, because what slows the machine slows both alike.
        """
        ones, others = self._seconds(name, to)
        return statistics.median(one / other for one, other in zip(ones, others, strict=True))

    def note(self, *names: str) -> str:
        """Return medians with their quartiles, and in how many rounds the machine was quiet."""
        spans = (
            f"{name} {_span(seconds)}"
            for name, seconds in zip(names, self._seconds(*names), strict=True)
        )
        rounds = len(self.samples[names[0]])
        return f"{'; '.join(spans)}; quiet in {len(self._quiet(names))} of {rounds} rounds"

    def _quiet(self, names: Iterable[str]) -> list[int]:
        columns = [self.samples[name] for name in names]
        return [
            number
            for number, row in enumerate(zip(*columns, strict=True))
            if all(sample.quiet for sample in row)
        ]

    def _seconds(self, *names: str) -> list[list[float]]:
        """Return the times of the same rounds for each name."""
        quiet = self._quiet(names)
        rounds = quiet if len(quiet) >= _ENOUGH else range(len(self.samples[names[0]]))
        return [[self.samples[name][number].seconds for number in rounds] for name in names]


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    before: Callable[[], object] | None = None,
) -> Timings:
    """Run all candidates in turn, again and again; the order rotates from round to round.

    Args:
        candidates: by name.
        rounds: how often each is timed; on a machine with other work up to four times as
            often, for the sake of quiet rounds.
        before: called, untimed, before each run, such as to empty the page cache. When
            missing, the candidate itself runs once untimed before each timed run, so that
            each finds its own data in the caches and not what its neighbour left there.
    """
    names = list(candidates)
    timings = Timings({name: [] for name in names})
    started = time.perf_counter()
    for number in range(4 * rounds):
        if number >= rounds:
            patient = time.perf_counter() - started < _PATIENCE
            if not patient or len(timings._quiet(names)) >= min(_ENOUGH, rounds):
                break
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            gc.collect()
            (before or candidates[name])()
            timings.samples[name].append(_sample(candidates[name]))
    return timings


def _sample(candidate: Callable[[], object]) -> Sample:
    alone = _runnable() == 1
    others = _busy() - _own()
    start = time.perf_counter()
    result = candidate()
    seconds = time.perf_counter() - start
    others = _busy() - _own() - others
    # The system counts busy time in steps of 10 ms per processor.
    quiet = alone and _runnable() == 1 and others < 0.03 * seconds + 0.011
    del result  # freeing it is not part of the time
    return Sample(seconds, quiet)


def _runnable() -> int:
    """Return how many threads want to run on this machine now, this one among them."""
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])


def _busy() -> float:
    """Return the seconds that the machine's processors have been busy since it started."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[1:9])
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    return sum(os.times()[:4])


def check_same(results: Mapping[str, Any]) -> None:
    """Compare results bit for bit.

    Raises:
        AssertionError: names the candidate whose values or shape differ from the first's.
    """
    items = {name: np.ascontiguousarray(value) for name, value in results.items()}
    first, expected = next(iter(items.items()))
    for name, found in items.items():
        same = found.shape == expected.shape and found.dtype == expected.dtype
        if not (same and np.array_equal(found.view(np.uint8), expected.view(np.uint8))):
            raise AssertionError(
                f"{name} gives {found.dtype} {found.shape} and other values than {first}, "
                f"which gives {expected.dtype} {expected.shape}"
            )


def drop_cache(paths: Iterable[Path]) -> None:
    """Make the system forget the pages of these files, or of all files in these folders."""
    for path in paths:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        for file in files:
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # dirty pages stay
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def machine() -> str:
    """Return processor, cores, memory and versions, as a report needs them."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} missing")
    return (
        f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, "
        f"Linux {platform.release()}, Python {sys.version.split()[0]}\n{', '.join(found)}"
    )


def _span(seconds: list[float]) -> str:
    middle = statistics.median(seconds)
    scale, unit = (1e3, "ms") if middle < 1 else (1, "s")
    if len(seconds) < 4:
        return f"{middle * scale:.3g} {unit}"
    low, _, high = statistics.quantiles(seconds, n=4)
    return f"{middle * scale:.3g} {unit} ({low * scale:.3g} to {high * scale:.3g})"
