"""What stored activations tell: statistics, comparisons, probes, pictures, reports.

Its rooms import one way, each only those before it:

1. ``examples``: which rows belong to a place, a class, a group; what was trained on which.
2. ``statistics``: figures of vectors and scores, their intervals, folds and shuffled labels.
3. ``solvers``: linear classifiers, one fit or all fits of a cross-validation.
4. ``probes``: trained, tested, held against chance, saved, applied.
5. ``steering``: vectors made, chosen, validated, added to a model.
6. ``lens``: stored states read by the model's own head.
7. ``harm``, then ``conversion``: what a smaller stored type does to vectors and to probes.
8. ``plots``, then ``report`` and ``viewing``: what the others found, drawn.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actstore.analysis import plots, report, statistics
    from actstore.analysis.examples.place_rows import RowChoice
    from actstore.analysis.probes.scoring import score
    from actstore.analysis.probes.splits import ProbeSettings
    from actstore.analysis.probes.tasks import probe
    from actstore.analysis.statistics.comparison import compare
    from actstore.analysis.statistics.difference import diff
    from actstore.analysis.steering.validation import validate
    from actstore.analysis.steering.vectors import steer

__all__ = [
    "ProbeSettings",
    "RowChoice",
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
    "ProbeSettings": "actstore.analysis.probes.splits",
    "RowChoice": "actstore.analysis.examples.place_rows",
    "compare": "actstore.analysis.statistics.comparison",
    "diff": "actstore.analysis.statistics.difference",
    "probe": "actstore.analysis.probes.tasks",
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
