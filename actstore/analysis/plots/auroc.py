"""AUROC by layer with intervals: of probes where they were trained, else of mean differences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from actstore.analysis.examples import lineages
from actstore.analysis.examples.lineages import InSample
from actstore.analysis.plots import style
from actstore.analysis.probes import probe_runs
from actstore.analysis.statistics import sampling, separation
from actstore.errors import UsageError
from actstore.wording import counted, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from actstore.querying.selected import SelectedRows


_MEANS = "mean difference (no probe)"


class Point(NamedTuple):
    """One layer's AUROC."""

    series: str
    """Site and pooling, where there are several."""
    layer: int | None
    auroc: float
    low: float
    high: float
    shuffled: float | None = None
    """What 95 of 100 probes of shuffled labels stay below, where that is known."""


def auroc(
    selection: SelectedRows,
    *,
    by: str = "label",
    positive: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    probes: Sequence[str | Path] = (),
) -> Figure:
    """Return the AUROC by layer of trained probes, or along the difference of class means.

    Both are of rows that were not trained on, and the picture says which it is.

    Args:
        selection: of one model, site, pooling and region.
        by: column with the classes.
        positive: value or values of the positive class.
        negative: the same for the negative class.
        probes: what ``actstore probe --out`` wrote for these rows, folders or their
            ``report.json``; without any, the difference of means is measured.

    Raises:
        MismatchError: the probes are for other rows.
        TooFewRowsError: no rows, one class only, or too few examples.
        UsageError: several models, sites or poolings, or more than two classes.
    """
    place = sampling.require_one_place(selection)
    named = tuple(
        () if one is None else (one,) if isinstance(one, str) else tuple(one)
        for one in (positive, negative)
    )
    curves = list(probe_runs.curves(probes, selection, by, (named[0], named[1])).values())
    if curves:
        # More than one where the embeddings go with the residual stream that they begin.
        points = [
            Point("probe", one.layer, *one.auroc, one.shuffled_95)
            for curve in curves
            for one in curve.layers
        ]
        curve = curves[0]
        told = _against([curve.positive, curve.negative])
        title = f"AUROC of probes: {told} · {style.subject(place)}"
        return draw(points, title, curve.note + "; bars: 95 % intervals")
    found = separation.by_layer(selection, by, positive=positive, negative=negative)
    points = [Point(_MEANS, one.layer, *one.auroc) for one in found.layers]
    told = _against([found.positive, found.negative])
    title = f"{told} · {style.subject(place)} · mean difference"
    return draw(points, title, found.note + "; bars: 95 % intervals")


def auroc_of_report(path: str | Path) -> Figure:
    """Return the AUROC by layer that the ``report.json`` of probes or of a validation tells.

    The picture says whose figures they are, and whether they are in-sample.

    Raises:
        UsageError: the file is no such report.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "report.json"
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        points, rows = points_of(document)
        results = document["results"] if isinstance(document, dict) else document
        title = _title(results[0])
        marked = lineages.title([_in_sample(one) for one in results])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{file}: no report of a probe ({type(error).__name__}: {error}); "
            "`actstore probe STORE --out DIR` writes DIR/report.json"
        ) from error
    note = f"up to {counted(rows)} a layer; bars: 95 % intervals"
    return draw(points, f"{marked}: {title}" if marked else title, note)


def _in_sample(entry: dict[str, Any]) -> InSample:
    """Return what an entry says of rows of the making; a probe's own report has none."""
    if not _of_vectors(entry):
        return InSample(0, False)
    # Validations of older versions say nothing of it, and left no row out.
    return InSample(entry.get("in_sample"), bool(entry.get("in_sample_shown")))


def _of_vectors(entry: dict[str, Any]) -> bool:
    """Whether an entry is of `actstore validate`: steering vectors, not probes."""
    return "vectors" in (entry.get("lineage") or {})


def points_of(document: Any) -> tuple[list[Point], int]:
    """Return the points of a probe's report, and the most rows a layer has."""
    results = document["results"] if isinstance(document, dict) else document
    if not results:
        raise ValueError("it has no results")
    names = ("model", "site", "pooling", "region")
    several = [name for name in names if len({str(one.get(name)) for one in results}) > 1]
    points = []
    for one in results:
        low, high = one.get("auroc_interval") or (one["auroc"], one["auroc"])
        shuffled = (one.get("baselines") or {}).get("permutation") or {}
        points.append(
            Point(
                " ".join(str(one[name]) for name in several if one.get(name) is not None)
                or ("steering vector" if _of_vectors(one) else "probe"),
                one["layer"],
                float(one["auroc"]),
                float(low),
                float(high),
                shuffled.get("auroc_95"),
            )
        )
    return points, max(int(one["rows"]) for one in results)


def _title(result: dict[str, Any]) -> str:
    classes = [" or ".join(result.get(side) or ()) for side in ("positive", "negative")]
    told = _against(classes) if all(classes) else ""
    model = str(result.get("model", "")).rsplit("/", 1)[-1]
    whose = "AUROC of steering vectors" if _of_vectors(result) else "AUROC of probes"
    return " · ".join(filter(None, [f"{whose}: {told}" if told else whose, model]))


def _against(classes: Sequence[str]) -> str:
    return " against ".join(shorten(name, 32) for name in classes)


def draw(points: Sequence[Point], title: str, note: str) -> Figure:
    """Return points as a line per series over the layers."""
    layers = sorted({one.layer for one in points}, key=lambda layer: (layer is None, layer or 0))
    series = list(dict.fromkeys(one.series for one in points))
    with style.styled():
        figure = style.picture(7, 3.8)
        axes = figure.add_subplot()
        axes.axhline(0.5, color="#666666", linewidth=1, linestyle="--")
        axes.annotate(
            "chance",
            (1.005, 0.5),
            xycoords=("axes fraction", "data"),
            ha="left",
            va="center",
            fontsize=7.5,
            color="#666666",
        )
        for number, name in enumerate(series):
            mine = sorted(
                (one for one in points if one.series == name),
                key=lambda one: (one.layer is None, one.layer or 0),
            )
            shift = (number - (len(series) - 1) / 2) * min(0.12, 0.6 / len(series))
            places = [layers.index(one.layer) + shift for one in mine]
            # A layer that is not recorded does not follow the last one that is.
            end = len(mine) - (len(mine) > 1 and mine[-1].layer is None)
            for part in filter(None, (range(end), range(end, len(mine)))):
                axes.errorbar(
                    [places[at] for at in part],
                    [mine[at].auroc for at in part],
                    [
                        [max(0.0, mine[at].auroc - mine[at].low) for at in part],
                        [max(0.0, mine[at].high - mine[at].auroc) for at in part],
                    ],
                    color=style.COLOURS[number % len(style.COLOURS)],
                    marker=style.MARKERS[number % len(style.MARKERS)],
                    markersize=5 if len(layers) <= 40 else 3,
                    linewidth=1.3,
                    elinewidth=1,
                    capsize=2.5 if len(layers) <= 40 else 0,
                    label=None if part.start else style.plain(name or "all rows", 32),
                )
        for number, name in enumerate(series):
            known = [
                (layers.index(one.layer), one.shuffled)
                for one in points
                if one.series == name and one.shuffled is not None
            ]
            axes.scatter(
                [place for place, _ in known],
                [value for _, value in known],
                marker="_",
                s=90 if len(layers) <= 40 else 16,
                color="#777777",
                label="95 % of shuffled labels stay below" if known and not number else None,
            )
        lowest = min(0.4, *(one.low for one in points))
        axes.set_ylim(max(-0.02, lowest - 0.03), 1.02)
        axes.set_ylabel("AUROC")
        style.layer_ticks(axes, layers)
        if len(layers) == 1:
            axes.set_xlim(-0.6, 0.6)
        style.legend(figure, axes)
        style.finish(figure, title, note)
    return figure
