"""A picture as an HTML page of its own: the SVG inline, with hover text, nothing from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actstore.analysis.plots import looks, svg
from actstore.wording import escaped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body {{ margin: 0; background: {ground}; color: {ink}; font: 15px/1.5 system-ui, sans-serif; }}
main {{ max-width: 1100px; margin: 0 auto; padding: 1rem; }}
svg {{ width: 100%; height: auto; }}
text {{ fill: {ink}; }}
use:hover {{ stroke: {ink} !important; stroke-width: 1.5; }}
p {{ color: {soft}; font-size: .88rem; }}
"""


def page(figure: Figure) -> str:
    """Return ``figure`` as one self-contained HTML page."""
    look = looks.look_of(figure)
    title, caption = "actstore", ""
    if isinstance(figure, looks.Picture):
        title = figure.heading or title
        caption = "" if look.told else figure.caption
    style = _STYLE.format(ground=look.ground, ink=look.ink, soft=look.soft)
    below = f"<p>{escaped(caption)}</p>" if caption else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{style}</style></head>\n"
        f"<body><main>{svg.inline(figure, label=title)}{below}</main></body></html>\n"
    )
