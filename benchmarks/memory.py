"""Point 6: peak memory of an ingest, and of one with four times as many files."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.corpus import MODEL, Corpus
from benchmarks.ingest import source
from benchmarks.measure import Outcome

_CHILD = """
import sys
import actstore
if len(sys.argv) > 1:
    actstore.ingest(sys.argv[1], store=sys.argv[2], model=sys.argv[3], recipe="amber")
else:
    import pyarrow, pyarrow.parquet, torch
# Not ru_maxrss, in which a process inherits the size of the one that started it.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) * 1024)
"""
_TIMES = 4


def run(corpus: Corpus) -> list[Outcome]:
    """Ingest in processes of their own and read their peak resident size."""
    small = source(corpus) / "activations"
    large = corpus.folder / "amber-large"
    if not large.exists():
        large.mkdir()
        files = sorted(small.glob("sample_*.pt"))
        for number in range(_TIMES * len(files)):
            # Another example with the same vectors; its name is its id.
            os.link(files[number % len(files)], large / f"sample_{number:04d}.pt")
    idle = _peak()
    peaks = [_peak(str(folder), str(corpus.fresh("ingested")), MODEL) for folder in (small, large)]
    corpus.fresh("ingested")
    mib = [peak / (1 << 20) for peak in (idle, *peaks)]
    note = f"imports alone {mib[0]:.0f} MiB, {corpus.rows:,} rows {mib[1]:.0f} MiB, "
    note += f"{_TIMES * corpus.rows:,} rows {mib[2]:.0f} MiB"
    return [
        Outcome(
            point=6,
            what="peak memory of an AMBER ingest",
            value=peaks[1] / 1e9,
            unit=" GB",
            at_most=1,
            note=note,
        ),
        Outcome(
            point=6,
            what=f"peak memory with {_TIMES} times the files / with one",
            value=peaks[1] / peaks[0],
            at_most=1.1,
            note=note,
        ),
    ]


def _peak(*arguments: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *arguments], capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])
