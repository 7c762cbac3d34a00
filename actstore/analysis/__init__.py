"""What stored activations tell: statistics, comparisons, probes, pictures, reports."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actstore.analysis import plots, report, statistics
    from actstore.analysis.comparison import compare
    from actstore.analysis.difference import diff
    from actstore.analysis.probing import probe
    from actstore.analysis.scoring import score
    from actstore.analysis.validation import validate
    from actstore.analysis.vectors import steer

__all__ = [
    "compare",
    "diff",
    "plots",
    "probe",
    "report",
    "score",
    "statistics",
    "steer",
    "validate",
]

_MODULES = ("plots", "report", "statistics")
_HOMES = {
    "compare": "actstore.analysis.comparison",
    "diff": "actstore.analysis.difference",
    "probe": "actstore.analysis.probing",
    "score": "actstore.analysis.scoring",
    "steer": "actstore.analysis.vectors",
    "validate": "actstore.analysis.validation",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"actstore.analysis.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'actstore.analysis' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
