"""Pictures of a selection, for notebooks and papers; each function returns its figure.

They need the extra ``plot`` (matplotlib). Rows of large stores are sampled, and the
picture says so; the same rows give the same bytes. Each takes ``style`` (``screen``,
``paper``, ``dark``) and ``title``. :func:`save` writes ``.png``,
``.svg``, ``.pdf`` and ``.html``.
"""

from __future__ import annotations

from actstore.analysis.plots.auroc import auroc
from actstore.analysis.plots.auroc_report import auroc_of_report
from actstore.analysis.plots.dose import dose
from actstore.analysis.plots.files import render, save
from actstore.analysis.plots.heatmap import heatmap
from actstore.analysis.plots.histogram import histogram
from actstore.analysis.plots.lens import COLUMNS as LENS_COLUMNS
from actstore.analysis.plots.lens import choose as choose_states
from actstore.analysis.plots.lens import lens, lens_of
from actstore.analysis.plots.norms import norms
from actstore.analysis.plots.pca import pca
from actstore.analysis.plots.positions import positions
from actstore.analysis.plots.similarity import similarity

__all__ = [
    "LENS_COLUMNS",
    "auroc",
    "auroc_of_report",
    "choose_states",
    "dose",
    "heatmap",
    "histogram",
    "lens",
    "lens_of",
    "norms",
    "pca",
    "positions",
    "render",
    "save",
    "similarity",
]
