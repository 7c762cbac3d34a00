"""Long attacks on what the store promises: a part in every run, all in `make torture`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TORTURE = os.environ.get("ACTSTORE_TORTURE") == "all"
"""Whether to try everything, as `make torture` does."""


def examples(number: int) -> int:
    """Return how many examples of so many Hypothesis draws: a third every day, others each time."""
    return number if TORTURE else number // 3


class Tally:
    """What an attack has tried so far."""

    def __init__(self) -> None:
        self.tries = 0
        self.peak = 0
        """Bytes of memory at most, where that is what the promise is about."""
        self.more: dict[str, object] = {}
        """What else was measured."""


@contextmanager
def attack(promise: str, what: str) -> Iterator[Tally]:
    """Count tries, and add them as a line to the file that ``ACTSTORE_FIGURES`` names.

    Args:
        promise: which, in a word or two.
        what: what is tried; lines of the same promise and words are one attack.
    """
    tally, began, spent, kept = Tally(), time.monotonic(), _cpu(), False
    try:
        yield tally
        kept = True
    finally:
        if path := os.environ.get("ACTSTORE_FIGURES"):
            line = {
                "promise": promise,
                "what": what,
                "tries": tally.tries,
                "seconds": round(time.monotonic() - began, 2),
                "cpu": round(_cpu() - spent, 2),
                "peak_mb": tally.peak >> 20,
                "kept": kept,
                **tally.more,
            }
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def _cpu() -> float:
    """Return the CPU seconds of this process and its children, and of theirs that have ended."""
    total = sum(os.times()[:4])
    for listed in Path("/proc/self/task").glob("*/children"):
        for child in listed.read_text().split():
            try:
                fields = Path(f"/proc/{child}/stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue  # it has just ended
            total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total
