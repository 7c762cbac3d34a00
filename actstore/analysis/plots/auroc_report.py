"""Reads the ``report.json`` of probes and of validations as points of a picture of AUROC."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actstore.analysis.examples import lineages
from actstore.analysis.examples.lineages import InSample
from actstore.analysis.plots.auroc import Point, against, figure_of
from actstore.analysis.plots.looks import Picture, Style
from actstore.analysis.probes import probe_runs
from actstore.analysis.statistics.metrics import IntervalEstimate
from actstore.errors import UsageError
from actstore.wording import counted


def auroc_of_report(
    path: str | Path, *, title: str | None = None, style: Style = "screen"
) -> Picture:
    """Return the AUROC by layer that the ``report.json`` of probes or of a validation tells.

    The picture says whose figures they are, and whether they are in-sample.

    Args:
        path: the file, or its folder.
        title: above the picture; by default whose figures these are.
        style: ``screen``, ``paper`` or ``dark``.

    Raises:
        UsageError: the file is no such report.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "report.json"
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        probe_runs.refuse_several(file, document)
        points, rows = points_of(document)
        results = document["results"] if isinstance(document, dict) else document
        heading = _heading(results[0])
        marked = lineages.title([_in_sample(one) for one in results])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{file}: no report of a probe ({type(error).__name__}: {error}); "
            "`actstore probe STORE --out DIR` writes DIR/report.json"
        ) from error
    if marked:
        heading = f"{marked}: {heading}"
    return figure_of(points, heading, f"up to {counted(rows)} a layer", title=title, style=style)


def points_of(document: Any) -> tuple[list[Point], int]:
    """Return the points of a report, as JSON has it, and the most rows a layer has."""
    results = document["results"] if isinstance(document, dict) else document
    if not results:
        raise ValueError("it has no results")
    names = ("model", "site", "pooling", "region")
    several = [name for name in names if len({str(one.get(name)) for one in results}) > 1]
    points = []
    for one in results:
        value = float(one["auroc"])
        low, high = one.get("auroc_interval") or (value, value)
        shuffled = (one.get("baselines") or {}).get("permutation") or {}
        points.append(
            Point(
                " ".join(str(one[name]) for name in several if one.get(name) is not None)
                or ("steering vector" if _of_vectors(one) else "probe"),
                one["layer"],
                IntervalEstimate(value, float(low), float(high)),
                shuffled.get("auroc_95"),
                _in_sample(one).marked,
            )
        )
    return points, max(int(one["rows"]) for one in results)


def _in_sample(entry: dict[str, Any]) -> InSample:
    """Return what an entry says of rows of the making; a probe's own report has none."""
    if not _of_vectors(entry):
        return InSample(0, False)
    # Validations of older versions say nothing of it, and left no row out.
    return InSample(entry.get("in_sample"), bool(entry.get("in_sample_shown")))


def _of_vectors(entry: dict[str, Any]) -> bool:
    """Whether an entry is of `actstore validate`: steering vectors, not probes."""
    return "vectors" in (entry.get("lineage") or {})


def _heading(result: dict[str, Any]) -> str:
    classes = [" or ".join(result.get(side) or ()) for side in ("positive", "negative")]
    told = against(classes) if all(classes) else ""
    model = str(result.get("model", "")).rsplit("/", 1)[-1]
    whose = "AUROC of steering vectors" if _of_vectors(result) else "AUROC of probes"
    return " · ".join(filter(None, [f"{whose}: {told}" if told else whose, model]))
