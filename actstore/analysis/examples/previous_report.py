"""What an earlier run wrote into a folder, so that nothing of it is taken for the next one's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def entries(report: Path) -> list[dict[str, Any]]:
    """Return the entries of a ``report.json`` or ``steering.json``; none of anything else."""
    try:
        found = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    if not isinstance(found, list):
        return []
    return [entry for entry in found if isinstance(entry, dict)]


def remove(out: Path, report: str, columns: Sequence[str]) -> None:
    """Remove the files inside ``out`` that its report names in these columns, or by class there."""
    for entry in entries(out / report):
        for name in (name for column in columns for name in _names(entry.get(column))):
            path = out / name
            if path.is_file() and path.resolve().is_relative_to(out.resolve()):
                path.unlink()


def _names(value: object) -> list[str]:
    values = value.values() if isinstance(value, dict) else [value]
    return [each for each in values if isinstance(each, str)]
