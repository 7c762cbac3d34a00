"""What vectors look like, group by group: norms, moments, outliers, comparisons, AUROC."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actstore.analysis.statistics.summaries import describe

__all__ = ["describe"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'actstore.analysis.statistics' has no attribute {name!r}")
    from actstore.analysis.statistics import summaries

    return getattr(summaries, name)
