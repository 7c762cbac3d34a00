"""A report as one HTML page: nothing from outside, everything escaped, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore.analysis.plots import charts
from actstore.analysis.plots.charts import clean
from actstore.wording import counted, shorten

if TYPE_CHECKING:
    from actstore.analysis.report.contents import Panel, Place, Report

_CUT = 160
_LABELS = 40
_NAME = 80
"""Longest name of a class."""
_TASKS, _COLUMNS = 12, 8
"""Tasks and labels that are counted against each other."""

# Okabe and Ito's colours; the light ones are darkened on white, the dark ones lifted on black.
_STYLE = """
:root { color-scheme: light dark; --ink: #1d1f23; --soft: #5d636e; --paper: #fff; --card: #fff;
  --line: #e2e4e8; --grid: #e9ebee; --head: #f4f5f7;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #b8578f; --c4: #3a9bd1; --c5: #c98500;
  --c6: #000; --c7: #8c510a; --other: #8a8a8a; --none: #b5b5b5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ec; --soft: #a2a8b3; --paper: #16181c;
  --card: #1d2025; --line: #343941; --grid: #2b2f36; --head: #23272d;
  --c0: #4aa8e0; --c1: #f08033; --c2: #2cc79b; --c3: #e39fc4; --c4: #8fd0f5; --c5: #f2bd3f;
  --c6: #fff; --c7: #c9a06a; --other: #8d939c; --none: #666c75; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 1.2rem 1rem 3rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 0 0 .3rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); font-size: .88rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr));
  gap: 1rem; align-items: start; margin: .8rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .8rem; min-width: 0; }
.stack { display: grid; gap: 1rem; grid-template-columns: minmax(0, 1fr); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; width: 100%; }
th, td { text-align: left; padding: .28rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { background: var(--head); font-weight: 600; white-space: nowrap; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.t { min-width: 9rem; overflow-wrap: anywhere; }
td, th, .key, h2 { unicode-bidi: plaintext; text-align: left; }
.bar { background: var(--c0); height: .6rem; border-radius: 2px; min-width: 1px; }
td.w { width: 40%; min-width: 4rem; vertical-align: middle; }
.chart { display: block; width: 100%; height: auto; }
.chart text { fill: var(--soft); font-size: 12px; text-anchor: middle; }
.chart text.left { text-anchor: end; } .chart text.name { fill: var(--ink); }
.chart .grid { stroke: var(--grid); fill: none; } .chart .rule { stroke: var(--soft);
  stroke-dasharray: 5 4; fill: none; }
.chart .band { opacity: .15; stroke: none; } .chart .line { fill: none; stroke-width: 1.8; }
.chart path.bar { stroke-width: 1.4; fill: none; }
.dot { stroke: var(--card); stroke-width: .5; } .dots .dot { opacity: .8; }
.dot:hover, .dot.on { stroke: var(--ink); stroke-width: 1.5; opacity: 1; cursor: pointer; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem .9rem; font-size: .85rem; }
.key { display: inline-flex; align-items: center; gap: .3rem; overflow-wrap: anywhere; }
.mark { width: 12px; height: 12px; flex: none; }
@media (max-width: 560px) { th { white-space: normal; } th, td { padding: .25rem .35rem; }
  table { font-size: .82rem; } td.t { min-width: 7rem; } }
#told { position: fixed; display: none; width: max-content; max-width: min(360px, 92vw);
  padding: .5rem .7rem;
  background: var(--ink); color: var(--paper); font-size: .82rem; line-height: 1.4;
  border-radius: 6px; white-space: pre-line; overflow-wrap: anywhere; pointer-events: none;
  z-index: 9; }
"""
# Hover text for fingers too: without the script, the browser's own shows over a mouse.
_SCRIPT = """
(function () {
  var told = document.getElementById('told'), last = null;
  function hide() {
    told.style.display = 'none';
    if (last) last.classList.remove('on');
    last = null;
  }
  document.querySelectorAll('.dot > title').forEach(function (title) {
    var dot = title.parentNode; dot.told = title.textContent; title.remove();
  });
  function show(event) {
    var dot = event.target;
    if (!dot.told) { hide(); return; }
    if (last) last.classList.remove('on');
    last = dot; dot.classList.add('on');
    told.textContent = dot.told; told.style.display = 'block';
    // Where it was is not where it will be, and a box near the edge is narrow.
    told.style.left = told.style.top = '0';
    var box = told.getBoundingClientRect(), x = event.clientX + 14, y = event.clientY + 14;
    if (x + box.width > innerWidth - 8) x = Math.max(8, innerWidth - box.width - 8);
    if (y + box.height > innerHeight - 8) y = Math.max(8, event.clientY - box.height - 14);
    told.style.left = x + 'px'; told.style.top = y + 'px';
  }
  document.addEventListener('pointerover', show);
  document.addEventListener('click', show);
  document.addEventListener('scroll', hide, true);
})();
"""


def page(report: Report) -> str:
    """Return the page."""
    body = "\n".join(_body(report))
    colours = "".join(f".c{n} {{ fill: var(--c{n}); stroke: var(--c{n}); }}" for n in range(8))
    extra = ".c8 { fill: var(--other); stroke: var(--other); } .c9 { fill: var(--none); "
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{clean(report.name)}</title>\n"
        f"<style>{_STYLE}{colours}{extra}stroke: var(--none); }}</style>\n</head>\n"
        f'<body>\n<main>\n{body}\n</main>\n<div id="told" role="status"></div>\n'
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _body(report: Report) -> Iterable[str]:
    yield f"<h1>{clean(report.name)}</h1>"
    yield (
        f'<p class="soft">{counted(report.rows)} at commit {report.commit} of '
        f"{clean(report.created_at)}</p>"
    )
    yield "<h2>Composition</h2>"
    if not report.rows:
        yield "<p>There are no rows.</p>"
        return
    yield _table(
        list(report.composition[0]), [list(row.values()) for row in report.composition[:50]]
    )
    if len(report.composition) > 50:
        yield f'<p class="soft">… and {len(report.composition) - 50:,} more</p>'
    yield from _labels(report)
    for place in report.places:
        yield from _place(place, report.by)
    if report.left_out:
        yield (
            f'<p class="soft">{report.left_out:,} more of model, site, pooling and region, of '
            "fewer rows each, are not shown: narrow the report to them.</p>"
        )


def _labels(report: Report) -> Iterable[str]:
    yield f"<h2>Rows by {clean(report.by)}</h2>"
    most = max(report.labels.values())
    rows = []
    for name, count in list(report.labels.items())[:_LABELS]:
        bar = f'<div class="bar" style="width:{100 * count / most:.1f}%"></div>'
        share = f"{count / report.rows:.1%}"
        rows.append(
            f'<tr><td class="t">{_value(_name(name))}</td><td class="n">{count:,}</td>'
            f'<td class="n">{share}</td><td class="w">{bar}</td></tr>'
        )
    left = len(report.labels) - len(rows)
    more = f'<p class="soft">… and {left:,} more values</p>' if left > 0 else ""
    head = f'<th>{clean(report.by)}</th><th class="n">rows</th><th class="n">share</th><th></th>'
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
        [_name(task), *(counts.get(name, 0) for name in names)]
        for task, counts in list(report.table.items())[:_TASKS]
    ]
    header = ["task", *(_name(name) or f"no {report.by}" for name in names)]
    left = []
    if len(report.table) > len(rows):
        left.append(counted(len(report.table) - len(rows), "more task"))
    if len(report.labels) > len(names):
        left.append(f"{len(report.labels) - len(names):,} more of {report.by}")
    more = f'<p class="soft">… and {clean(", ".join(left))}</p>' if left else ""
    return _table(header, rows) + more


def _place(place: Place, by: str) -> Iterable[str]:
    yield f"<h2>{clean(place.title)}</h2>"
    finite = f", {place.nonfinite:,} with a norm that is not finite" if place.nonfinite else ""
    yield f'<p class="soft">{counted(place.rows)}{finite}</p>'
    numbers = _colours(place)
    yield _legend(place, numbers)
    yield '<div class="cards">'
    lines = []
    for profile in place.norms:
        median, low, high = (
            np.array([np.nan if one is None else getattr(one, name) for one in profile.layers])
            for name in ("median", "q05", "q95")
        )
        lines.append(charts.Line(profile.name, median, low, high))
    drawn = charts.lines(
        place.layers, lines, numbers, y_name="L2 norm", title="Norms of the vectors by layer"
    )
    yield _card("Norms by layer", drawn, "median, and where 90 % of the rows lie")
    yield _separation(place)
    for panel in place.panels:
        yield _panel(panel, place, numbers)
    yield "</div>"
    yield from _outliers(place)


def _colours(place: Place) -> list[int]:
    """Return the number of each class's colour."""
    own = place.classes.own
    return [*range(own), *range(charts.GREY, charts.GREY + len(place.classes.names) - own)]


def _legend(place: Place, numbers: Sequence[int]) -> str:
    keys = "".join(
        charts.key(number, shorten(name, _NAME))
        for number, name in zip(numbers, place.classes.names, strict=True)
    )
    return f'<div class="legend">{keys}</div>'


def _separation(place: Place) -> str:
    """Return the card of AUROC by layer, which says whose figures it shows."""
    found = place.probes or place.separation
    if found is None:
        return _card("AUROC by layer", "", place.why_not)
    probed = place.probes is not None
    whose = "trained probes" if probed else "the mean difference, not a trained probe"
    value, lower, upper = (np.array([one.auroc[part] for one in found.layers]) for part in range(3))
    line = charts.Line("probe" if probed else "mean difference", value, lower, upper, bars=True)
    low = min(0.4, float(np.nanmin(line.low)) - 0.02)
    drawn = charts.lines(
        [one.layer for one in found.layers],
        [line],
        [0],
        y_name="AUROC",
        title=f"AUROC by layer of {whose}",
        limits=(max(0.0, low), 1.02),
        rule=0.5,
    )
    names = [shorten(name, _NAME) for name in (found.positive, found.negative)]
    told = f"{' against '.join(names)}: {found.note}; bars are 95 % intervals"
    if not probed:
        told += ". Probes of these rows would stand here: actstore probe"
    return _card(f"AUROC by layer of {whose}", drawn, told)


def _panel(panel: Panel, place: Place, numbers: Sequence[int]) -> str:
    points = []
    for code, number in enumerate(numbers):
        mine = np.flatnonzero(panel.codes == code)
        if len(mine):
            texts = [panel.texts[at] for at in mine.tolist()]
            points.append(charts.Points(number, panel.points[mine], texts))
    layer = "layer not recorded" if panel.layer is None else f"layer {panel.layer}"
    drawn = charts.scatter(
        points,
        x_name=f"PC 1 ({panel.explained[0]:.0%} of variance)",
        y_name=f"PC 2 ({panel.explained[1]:.0%})",
        title=f"Principal components, {layer}",
    )
    return _card(f"Principal components, {layer}", drawn, panel.note)


def _card(title: str, drawn: str, note: str) -> str:
    return (
        f'<div class="card"><h3>{clean(title)}</h3>{drawn}<p class="soft">{clean(note)}</p></div>'
    )


def _outliers(place: Place) -> Iterable[str]:
    yield '<div class="stack">'
    if place.dimensions:
        from actstore.analysis.report.contents import layer_list

        table = _table(
            ("dimension", "layers", "x median dimension"),
            [(str(one.dimension), layer_list(one.layers), one.ratio) for one in place.dimensions],
        )
    else:
        table = '<p class="soft">none: no dimension is six times as large as the median one</p>'
    yield f'<div class="card"><h3>Outlier dimensions</h3>{table}</div>'
    # Of rows that are tokens it matters which: the first one is where attention sinks.
    tokens = any(one.row["position"] is not None for one in place.rows_apart)
    header = ["example", "layer", "label", "question", "norm", "x median"]
    rows = [
        [
            one.row["example_id"],
            "?" if one.layer is None else str(one.layer),
            _name(one.row["label"]),
            one.row["question"],
            one.row["norm"],
            one.ratio,
        ]
        for one in place.rows_apart
    ]
    if tokens:
        header.insert(1, "position")
        for cells, one in zip(rows, place.rows_apart, strict=True):
            cells.insert(1, one.row["position"])
    table = _table(header, rows)
    yield f'<div class="card"><h3>Rows of largest norm for their layer</h3>{table}</div></div>'


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    numeric = [all(isinstance(row[at], int | float) for row in rows) for at in range(len(header))]
    head = "".join(
        f'<th class="n">{clean(name)}</th>' if number else f"<th>{clean(name)}</th>"
        for name, number in zip(header, numeric, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{"n" if number else "t" if _long(value) else ""}">{_value(value)}</td>'
            for value, number in zip(row, numeric, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _name(value: object) -> str | None:
    """Return a class or task, cut in its middle where it is very long; None where there is none."""
    return None if value is None else shorten(str(value), _NAME)


def _long(value: object) -> bool:
    return isinstance(value, str) and len(value) > 24


def _value(value: object) -> str:
    if value is None:
        return '<span class="soft">none</span>'
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    text = " ".join(str(value).split())
    return clean(text if len(text) <= _CUT else text[: _CUT - 1] + "…")
