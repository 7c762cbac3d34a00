"""Holds measured ratios against those of an earlier run, within what noise explains."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Outcome

FILE = Path(__file__).with_name("committed.json")
NOISE = 1.35
"""How much worse a ratio may be before it counts: two runs of the same code on one machine
differed by up to 1.3 where other work ran beside them."""


def worse(outcomes: Sequence[Outcome], file: Path = FILE, *, noise: float = NOISE) -> list[str]:
    """Return a line for each outcome that got worse than noise explains.

    Only ratios between candidates of one run are compared: seconds and bytes of another machine
    say nothing. Those without a target are for information and never count.

    Raises:
        ValueError: the file has none of these outcomes, so nothing was compared.
    """
    before: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))["ratios"]
    lines = []
    compared = 0
    for outcome in outcomes:
        earlier = before.get(outcome.what)
        if earlier is None or outcome.unit != "x" or outcome.met is None:
            continue
        compared += 1
        loss = earlier / outcome.value if outcome.at_least is not None else outcome.value / earlier
        if loss > noise:
            lines.append(
                f"{outcome.what}: {outcome.value:.3g}x, and {earlier:.3g}x in {file.name}: "
                f"{loss:.2f} times worse, where {noise:g} is noise"
            )
    if not compared:
        raise ValueError(f"{file} holds none of these outcomes: write it with --commit")
    return lines


def write(outcomes: Sequence[Outcome], machine: str, file: Path = FILE) -> None:
    """Write the ratios of this run over those of the same names; others stay."""
    ratios: dict[str, float] = {}
    if file.exists():
        ratios = json.loads(file.read_text(encoding="utf-8"))["ratios"]
    for outcome in outcomes:
        if outcome.unit == "x" and outcome.met is not None:
            ratios[outcome.what] = float(f"{outcome.value:.3g}")
    document = {"machine": machine.splitlines(), "ratios": dict(sorted(ratios.items()))}
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
