"""Pictures of a selection, for notebooks and papers; each function returns its figure.

They need the extra ``plot`` (matplotlib). Rows of large stores are sampled, and the
picture says so; the same rows give the same bytes. :func:`save` writes ``.png``, ``.svg``
and ``.html``.
"""

from __future__ import annotations

from actstore.analysis.plots.auroc import auroc, auroc_of_report
from actstore.analysis.plots.heatmap import heatmap
from actstore.analysis.plots.histogram import histogram
from actstore.analysis.plots.norms import norms
from actstore.analysis.plots.pca import pca
from actstore.analysis.plots.similarity import similarity
from actstore.analysis.plots.style import render, save

__all__ = [
    "auroc",
    "auroc_of_report",
    "heatmap",
    "histogram",
    "norms",
    "pca",
    "render",
    "save",
    "similarity",
]
