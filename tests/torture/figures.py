"""Prints the table of a run's attacks from the lines that they have left: `make torture`.

`python -m tests.torture.figures build/torture.jsonl docs/guarantees.md` writes it there, too.
"""

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


def main(lines: str, page: str | None = None) -> None:
    """Print the table, and write it into a page where there is a place for it."""
    made = table([json.loads(line) for line in Path(lines).read_text("utf-8").splitlines()])
    print(made)
    if page is not None:
        from docs.generate import with_blocks  # imports the command line, for other pages

        text = Path(page).read_text("utf-8")
        Path(page).write_text(with_blocks(text, {"tries": made}), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
