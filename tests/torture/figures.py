"""Prints the table of a run's attacks from the lines that they have left: `make torture`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def table(lines: list[dict[str, Any]]) -> str:
    """Return one row of Markdown for each attack, its parts added up."""
    attacks: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        attacks.setdefault((line["promise"], line["what"]), []).append(line)
    rows = [
        "| promise | attack | tries | CPU seconds | memory at most | |",
        "|---|---|---|---|---|---|",
    ]
    for (promise, what), parts in sorted(attacks.items()):
        tries = sum(part["tries"] for part in parts)
        cpu = sum(part["cpu"] for part in parts)
        peak = max(part["peak_mb"] for part in parts)
        result = "kept" if all(part["kept"] for part in parts) else "**broken**"
        memory = f"{peak:,} MB" if peak else ""
        rows.append(f"| {promise} | {what} | {tries:,} | {cpu:,.0f} | {memory} | {result} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table([json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]))
