"""Point 8: how long the command line takes to answer, as processes of their own."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.corpus import Corpus
from benchmarks.measure import Outcome, interleaved


def run(corpus: Corpus) -> list[Outcome]:
    """Start ``actstore --help`` and ``actstore info``; Python's own start is for comparison."""
    store = str(corpus.store())

    def start(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    limits = {"actstore --help": 0.3, "actstore info": 0.6, "python alone": None}
    times = interleaved(
        {
            "actstore --help": lambda: start("-m", "actstore", "--help"),
            "actstore info": lambda: start("-m", "actstore", "info", store),
            "python alone": lambda: start("-c", "pass"),
        },
        rounds=5 if corpus.quick else 11,
    )
    return [
        Outcome(
            point=8,
            what=name,
            value=times.median(name),
            unit=" s",
            at_most=limit,
            note=times.note(name),
        )
        for name, limit in limits.items()
    ]
