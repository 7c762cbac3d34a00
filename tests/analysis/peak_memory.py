"""How much memory a few lines of Python take in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

_WATCHED = """
import json, sys, threading

def held():
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith("RssAnon"))
    return int(line.split()[1]) << 10

def watch():
    global peak
    while not done.wait(0.005):
        peak = max(peak, held())

before = peak = 0
done = threading.Event()

def begin():
    global before, peak
    before = peak = held()
    threading.Thread(target=watch, daemon=True).start()
"""


class Peak(NamedTuple):
    """Bytes of a process that no file backs: pages of a mapped store are the system's to take."""

    before: int
    peak: int

    @property
    def grown(self) -> int:
        return self.peak - self.before


def measure(prepare: str, code: str, *arguments: Path) -> Peak:
    """Run both in a new Python; what the second takes is measured."""
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not tell a process's memory")
    text = (
        f"{_WATCHED}\n{prepare}\nbegin()\n{code}\n"
        "done.set()\nprint(json.dumps([before, max(peak, held())]))"
    )
    words = [sys.executable, "-c", text, *map(str, arguments)]
    finished = subprocess.run(words, check=True, capture_output=True, text=True)
    return Peak(*json.loads(finished.stdout.splitlines()[-1]))
