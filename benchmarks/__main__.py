"""Runs the benchmarks and prints what was asked for beside what was measured."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from benchmarks import committed, roofs
from benchmarks.corpus import Corpus
from benchmarks.measure import Outcome, machine

NAMES = (
    *("full_read", "random_rows", "select", "sql_vectors", "nearest"),
    *("write", "ingest"),
    *("memory", "size", "metadata_sql", "open_many", "cli_start", "hub_bytes", "probes"),
    *("batches", "capture", "study"),
)
BY_NAME = (
    *("coverage", "coverage_groups", "coverage_numbers"),
    *("growth", "growth_bucket", "growth_rows", "many_writers"),
)
"""What takes long, simulations and large stores, and runs only where it is named."""


def main() -> int:
    """Run what the command line names; 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = NAMES + BY_NAME
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help="small data: does it run at all?")
    parser.add_argument("--data", type=Path, help="folder to keep the data in between runs")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument(
        "--simulations", type=int, metavar="N", help="of each setting of coverage; 200 by default"
    )
    parser.add_argument(
        "--shards",
        type=int,
        metavar="N",
        help="of the largest store of growth and growth_bucket; 10,000 by default",
    )
    parser.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help="of the largest store of growth_rows; 1,000,000 by default",
    )
    parser.add_argument(
        "--check", action="store_true", help=f"1 where a ratio got worse than {committed.FILE.name}"
    )
    parser.add_argument(
        "--commit", action="store_true", help=f"write the ratios to {committed.FILE.name}"
    )
    options = parser.parse_args()
    unknown = set(options.names) - set(known)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    names = options.names or NAMES
    with ExitStack() as stack:
        folder: Path | None = options.data
        if folder is None:
            temporary = tempfile.TemporaryDirectory(prefix="actstore-benchmarks-")
            folder = Path(stack.enter_context(temporary))
        folder.mkdir(parents=True, exist_ok=True)
        outcomes = _run(names, folder, options)
        size = (8 if options.quick else 256) << 20
        found = roofs.speeds(folder, size=size)
    print(f"\n{machine()}\n\n{table(outcomes)}")
    if any(outcome.moved for outcome in outcomes):
        print(f"\n{roofs.table(outcomes, found)}")
    if options.json is not None:
        document = {"machine": machine(), "outcomes": [asdict(outcome) for outcome in outcomes]}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.commit:
        committed.write(outcomes, machine())
    if options.check:
        lines = committed.worse(outcomes)
        print("\n".join(lines) or "no ratio got worse than noise explains", file=sys.stderr)
        return int(bool(lines))
    return int(any(outcome.met is False for outcome in outcomes) and not options.quick)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as a Markdown table."""
    lines = ["| point | what | target | measured | | times |", "|---|---|---|---|---|---|"]
    marks = {True: "met", False: "**missed**", None: ""}
    for outcome in outcomes:
        lines.append(
            f"| {outcome.point} | {outcome.what} | {outcome.target} | "
            f"{outcome.value:.3g}{outcome.unit} | {marks[outcome.met]} | {outcome.note} |"
        )
    return "\n".join(lines)


def _run(names: Sequence[str], folder: Path, options: argparse.Namespace) -> list[Outcome]:
    quick = options.quick
    settings = {
        "coverage": {"simulations": options.simulations},
        "coverage_groups": {"simulations": options.simulations},
        "coverage_numbers": {"simulations": options.simulations},
        "growth": {"shards": options.shards},
        "growth_bucket": {"shards": options.shards},
        "growth_rows": {"rows": options.rows},
    }
    small = {"examples": 96, "layers": 5, "width": 256} if quick else {}
    corpus = Corpus(folder / ("quick" if quick else "full"), quick=quick, **small)
    corpus.folder.mkdir(exist_ok=True)
    outcomes: list[Outcome] = []
    for name in names:
        start = time.perf_counter()
        chosen = settings.get(name, {})
        found = importlib.import_module(f"benchmarks.{name}").run(corpus, **chosen)
        seconds = time.perf_counter() - start
        print(f"{name}: {seconds:.0f} s, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        for outcome in found:
            print(f"  {outcome.what}: {outcome.value:.3g}{outcome.unit}", file=sys.stderr)
        outcomes += found
    return outcomes


if __name__ == "__main__":
    sys.exit(main())
