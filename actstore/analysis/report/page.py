"""A report as one HTML page: nothing from outside, everything escaped, light and dark."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from actstore.analysis.report import pictures
from actstore.analysis.report.contents import OutlierRow, Panel, Place, Report, layer_list
from actstore.analysis.report.page_style import SCRIPT, STYLE
from actstore.analysis.report.pictures import Drawing
from actstore.analysis.report.tables import NAME, Link, Value, cell, name_of, table
from actstore.storage.disk_errors import saving
from actstore.storage.layout import replace_durably
from actstore.wording import counted, escaped, shorten

_LABELS = 40
_TASKS, _COLUMNS = 12, 8
"""Tasks and labels that are counted against each other."""
_PLACES = 50
_STEPS = 20
_TEXT = 2000
"""Longest text of a row that is told in full."""
_UNTOLD = ("source",)
"""Columns of a row that say where files lay."""


def write(report: Report, path: str | Path) -> Path:
    """Write a report as one self-contained HTML file, whole or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    content = page(report).encode()
    with saving(target):
        replace_durably(target, content)
    return target


def page(report: Report) -> str:
    """Return the page."""
    body = "\n".join(_body(report))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(report.name)}</title>\n"
        f"<style>{STYLE}</style>\n</head>\n"
        f'<body>\n<main>\n{body}\n</main>\n<div id="told" role="status"></div>\n'
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _body(report: Report) -> Iterable[str]:
    yield f"<h1>{escaped(report.name)}</h1>"
    without = f", without {counted(report.skipped, 'damaged shard')}" if report.skipped else ""
    yield (
        f'<p class="soft">{counted(report.rows)} at commit {report.commit} of '
        f"{escaped(report.created_at)}{without}</p>"
    )
    yield "<h2>Composition</h2>"
    if not report.rows:
        yield "<p>There are no rows.</p>"
        return
    yield table(
        list(report.composition[0]), [list(row.values()) for row in report.composition[:_PLACES]]
    )
    if len(report.composition) > _PLACES:
        yield f'<p class="soft">… and {len(report.composition) - _PLACES:,} more</p>'
    yield from _labels(report)
    drawing = Drawing() if pictures.available() else None
    if drawing is None:
        yield (
            '<p class="soft">The pictures of this page need matplotlib: '
            "pip install 'actstore[plot]'</p>"
        )
    for place in report.places:
        yield from _place(place, report, drawing)
    if report.left_out:
        yield (
            f'<p class="soft">{report.left_out:,} more of model, site, pooling and region, of '
            "fewer rows each, are not shown: narrow the report to them.</p>"
        )
    yield from _making(report)


def _labels(report: Report) -> Iterable[str]:
    yield f"<h2>Rows by {escaped(report.by)}</h2>"
    most = max(report.labels.values())
    rows = []
    for name, count in list(report.labels.items())[:_LABELS]:
        bar = f'<div class="bar" style="width:{100 * count / most:.1f}%"></div>'
        share = f"{count / report.rows:.1%}"
        rows.append(
            f'<tr><td class="t">{cell(name_of(name))}</td><td class="n">{count:,}</td>'
            f'<td class="n">{share}</td><td class="w">{bar}</td></tr>'
        )
    left = len(report.labels) - len(rows)
    more = f'<p class="soft">… and {left:,} more values</p>' if left > 0 else ""
    head = f'<th>{escaped(report.by)}</th><th class="n">rows</th><th class="n">share</th><th></th>'
    counts = f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>{more}'
    yield '<div class="cards">'
    yield f'<div class="card">{counts}</div>'
    if report.table:
        yield f'<div class="card">{_crossed(report)}</div>'
    yield "</div>"


def _crossed(report: Report) -> str:
    """Return the table of tasks against labels, and what it leaves out."""
    names = list(report.labels)[:_COLUMNS]
    rows: list[list[Any]] = [
        [name_of(task), *(counts.get(name, 0) for name in names)]
        for task, counts in list(report.table.items())[:_TASKS]
    ]
    header = ["task", *(name_of(name) or f"no {report.by}" for name in names)]
    left = []
    if len(report.table) > len(rows):
        left.append(counted(len(report.table) - len(rows), "more task"))
    if len(report.labels) > len(names):
        left.append(f"{len(report.labels) - len(names):,} more of {report.by}")
    more = f'<p class="soft">… and {escaped(", ".join(left))}</p>' if left else ""
    return table(header, rows) + more


def _place(place: Place, report: Report, drawing: Drawing | None) -> Iterable[str]:
    yield f"<h2>{escaped(place.title)}</h2>"
    finite = f", {place.nonfinite:,} with a norm that is not finite" if place.nonfinite else ""
    yield f'<p class="soft">{counted(place.rows)}{finite}</p>'
    if drawing is not None:
        yield _legend(place)
        yield '<div class="cards">'
        told = "median, and where 90 % of the rows lie"
        if len(place.layers) == 1:
            told = "line: median, box: 90 % of the rows, whiskers: all"
        yield _card("Norms by layer", drawing.norms(place), told)
        yield _separation(place, drawing)
        for panel in place.panels:
            yield _panel(panel, place, drawing)
        yield "</div>"
    yield from _outliers(place, report)


def _legend(place: Place) -> str:
    own = place.classes.own
    keys = "".join(
        pictures.key(number, own, shorten(name, NAME))
        for number, name in enumerate(place.classes.names)
    )
    return f'<div class="legend">{keys}</div>'


def _separation(place: Place, drawing: Drawing) -> str:
    """Return the card of AUROC by layer, which says whose figures it shows."""
    found = place.probes or place.separation
    if found is None:
        return _card("AUROC by layer", "", place.why_not)
    whose = "the mean difference, not a trained probe" if place.probes is None else "trained probes"
    names = [shorten(name, NAME) for name in (found.positive, found.negative)]
    told = f"{' against '.join(names)}: {found.note}; bars are 95 % intervals"
    if place.probes is None:
        told += ". Probes of these rows would stand here: actstore probe"
    elif any(one.shuffled_95 is not None for one in place.probes.layers):
        told += ", short lines what 95 % of shuffled labels stay below"
    title = f"AUROC by layer of {whose}"
    return _card(title, drawing.auroc(found, title), told)


def _panel(panel: Panel, place: Place, drawing: Drawing) -> str:
    layer = "layer not recorded" if panel.layer is None else f"layer {panel.layer}"
    title = f"Principal components, {layer}"
    return _card(title, drawing.panel(panel, place, title), panel.note)


def _card(title: str, drawn: str, note: str) -> str:
    told = f'<p class="soft">{escaped(note)}</p>'
    return f'<div class="card"><h3>{escaped(title)}</h3>{drawn}{told}</div>'


def _outliers(place: Place, report: Report) -> Iterable[str]:
    yield '<div class="stack">'
    if place.dimensions:
        shown = table(
            ("dimension", "layers", "x median dimension"),
            [(str(one.dimension), layer_list(one.layers), one.ratio) for one in place.dimensions],
        )
    else:
        shown = '<p class="soft">none: no dimension is six times as large as the median one</p>'
    yield f'<div class="card"><h3>Outlier dimensions</h3>{shown}</div>'
    # Of rows that are tokens it matters which: the first one is where attention sinks.
    tokens = any("position" in one.row for one in place.rows_apart)
    header = ["example", "layer", "label", "question", "norm", "x median"]
    rows: list[list[Value]] = [
        [
            Link(str(one.row.get("example_id", "row")), f"row-{one.row_id}"),
            "?" if one.layer is None else str(one.layer),
            name_of(one.row.get("label")),
            one.row.get("question"),
            one.row.get("norm"),
            one.ratio,
        ]
        for one in place.rows_apart
    ]
    if tokens:
        header.insert(1, "position")
        for cells, one in zip(rows, place.rows_apart, strict=True):
            cells.insert(1, one.row.get("position"))
    apart = "".join(_row(one, report) for one in place.rows_apart)
    yield (
        '<div class="card"><h3>Rows of largest norm for their layer</h3>'
        f"{table(header, rows)}{apart}</div></div>"
    )


def _row(one: OutlierRow, report: Report) -> str:
    """Return all that is known of a row, and the command that shows it."""
    known = "".join(
        f"<dt>{escaped(name)}</dt><dd>{_whole(value)}</dd>"
        for name, value in one.row.items()
        if name not in _UNTOLD
    )
    text = f"SELECT * FROM activations WHERE row_id = {one.row_id}"
    words = ["actstore", "query", report.name, text, "--at", str(report.commit)]
    words += ["--skip-damaged"] if report.skipped else []  # or the number is another row's
    command = shlex.join(words)
    return (
        f'<details id="row-{one.row_id}"><summary>row {one.row_id}: '
        f"{escaped(str(one.row.get('example_id', '')))}</summary>"
        f"<dl>{known}</dl><pre>{escaped(command)}</pre></details>"
    )


def _whole(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.6g}"
    text = str(value)
    return escaped(text if len(text) <= _TEXT else text[: _TEXT - 1] + "…")


def _making(report: Report) -> Iterable[str]:
    """Tell the command that wrote the page, and the runs that its rows come from."""
    yield "<h2>How this was made</h2>"
    if report.command:
        yield f"<pre>{escaped(report.command)}</pre>"
    if report.steps:
        shown = report.steps[:_STEPS]
        yield table(("run", "started", "name"), [tuple(step) for step in shown])
        if len(report.steps) > len(shown):
            yield f'<p class="soft">… and {len(report.steps) - len(shown):,} earlier runs</p>'
