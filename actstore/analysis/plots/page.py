"""A picture as an HTML page of its own: the SVG inline, with hover text, nothing from outside."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html import escape
from typing import TYPE_CHECKING

from actstore.analysis.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_STYLE = """
body { margin: 0; background: #fff; color: #222; font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 1rem; }
svg { width: 100%; height: auto; background: #fff; }
use:hover { stroke: #000 !important; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) { body { background: #1b1b1f; } svg { border-radius: 6px; } }
"""


def page(figure: Figure) -> str:
    """Return ``figure`` as one self-contained HTML page."""
    title = escape(figure.get_suptitle().replace(r"\$", "$") or "actstore")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n"
        f"<body><main>{inline(figure)}</main></body></html>\n"
    )


def inline(figure: Figure) -> str:
    """Return ``figure`` as an SVG element to stand in HTML.

    What :func:`hover` noted of points becomes their hover text.
    """
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    root = ET.fromstring(style.render(figure, ".svg"))
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    texts: dict[str, list[str]] = getattr(figure, "hover_texts", {})
    for name, lines in texts.items():
        group = root.find(f".//{{{_SVG}}}g[@id='{name}']")
        points = [] if group is None else list(group.iter(f"{{{_SVG}}}use"))
        for point, line in zip(points, lines, strict=True):
            ET.SubElement(point, f"{{{_SVG}}}title").text = line
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    text = ET.tostring(root, encoding="unicode")
    # Ids are the page's: a second picture on it must not have the same ones.
    return re.sub(r"\s+$", "", text)


def hover(figure: Figure, name: str, lines: list[str]) -> None:
    """Note the hover texts of a scatter whose gid is ``name``, in the order of its points."""
    texts: dict[str, list[str]] = getattr(figure, "hover_texts", {})
    clean = ["".join(c if c.isprintable() or c == "\n" else " " for c in line) for line in lines]
    figure.hover_texts = {**texts, name: clean}  # type: ignore[attr-defined]  # ours
