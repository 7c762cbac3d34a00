"""What stored activations tell: statistics, comparisons, probes, pictures, reports."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actstore.analysis import plots, report, statistics
    from actstore.analysis.probes.probing import probe
    from actstore.analysis.probes.scoring import score
    from actstore.analysis.statistics.comparison import compare
    from actstore.analysis.statistics.difference import diff
    from actstore.analysis.steering.validation import validate
    from actstore.analysis.steering.vectors import steer

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
    "compare": "actstore.analysis.statistics.comparison",
    "diff": "actstore.analysis.statistics.difference",
    "probe": "actstore.analysis.probes.probing",
    "score": "actstore.analysis.probes.scoring",
    "steer": "actstore.analysis.steering.vectors",
    "validate": "actstore.analysis.steering.validation",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"actstore.analysis.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'actstore.analysis' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
