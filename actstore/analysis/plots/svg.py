"""A picture as an SVG element to stand in HTML: points tell themselves, ids are its own."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import TYPE_CHECKING

from actstore.analysis.plots import looks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_GEOMETRY = ("d", "x", "y", "transform", "width", "height", "points")
_REFERENCE = re.compile(r"#([\w.-]+)")
_DIGITS = re.compile(r"(\d\.\d\d)\d+")
_FONT = re.compile(r"font: (?:(?:normal|bold|\d+) )*([\d.]+)px [^;]*")


def inline(
    figure: Figure,
    *,
    prefix: str = "",
    label: str = "",
    variables: Mapping[str, str] | None = None,
) -> str:
    """Return a figure as an SVG element without namespaces, as HTML has it.

    Args:
        figure: what to show; its ``hover_texts`` become the titles of its points.
        prefix: begins every id, so that no other picture of the page has the same.
        label: what the picture is, for those who do not see it.
        variables: by colour (lower case): what stands in its place, such as ``var(--ink)``.
            With any, the ground is left to the page, and fonts are its own.
    """
    root = ET.fromstring(looks.encode(figure, ".svg"))
    texts = figure.hover_texts if isinstance(figure, looks.Picture) else {}
    groups = {each.get("id"): each for each in root.iter(f"{_SVG}g")}
    for name, lines in texts.items():
        points = groups[name].iter(f"{_SVG}use") if name in groups else iter(())
        for point, line in zip(list(points), lines, strict=True):
            ET.SubElement(point, f"{_SVG}title").text = line
    _leave_out(root)
    _name_ids(root, prefix)
    _share_styles(root)
    for each in root.iter():
        _simplify(each, variables or {})
    root.attrib = {
        "viewBox": root.get("viewBox", ""),
        "role": "img",
        **({"aria-label": label} if label else {}),
        "style": "stroke-linejoin: round",
    }
    if variables:
        root.set("class", "chart")
        ground = next((each for each in root.iter("g") if each.find("path") is not None), None)
        if ground is not None:
            ground.clear()
    return ET.tostring(root, encoding="unicode").rstrip()


def _leave_out(root: ET.Element) -> None:
    """Take out what is for files of their own: metadata, and rules that a whole page would obey."""
    for parent in list(root.iter()):
        for child in list(parent):
            own_title = parent is root and child.tag == f"{_SVG}title"
            if own_title or child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)


def _name_ids(root: ET.Element, prefix: str) -> None:
    """Give what is referred to an id of this picture's own, and take the other ids away."""
    names: dict[str, str] = {}
    for each in root.iter():
        for key, value in each.attrib.items():
            if key == f"{_XLINK}href" or "url(#" in value:
                for name in _REFERENCE.findall(value):
                    names.setdefault(name, f"{prefix}{len(names)}")
    for each in root.iter():
        name = each.attrib.pop("id", "")
        if name in names:
            each.set("id", names[name])
        for key, value in list(each.attrib.items()):
            if "url(#" in value:
                each.set(key, _REFERENCE.sub(lambda found: f"#{names[found[1]]}", value))
        address = each.attrib.pop(f"{_XLINK}href", "")
        if address.startswith("#"):
            each.set("href", f"#{names[address[1:]]}")
        elif address:
            each.set("href", address)


def _share_styles(root: ET.Element) -> None:
    """Let the points of a line have their style from what is around them, and once."""
    for group in root.iter(f"{_SVG}g"):
        points = list(group)
        styles = {each.get("style", "") for each in points}
        if len(points) > 1 and len(styles) == 1 and {e.tag for e in points} == {f"{_SVG}use"}:
            group.set("style", styles.pop())
            for each in points:
                each.attrib.pop("style", None)
    for defs in root.iter(f"{_SVG}defs"):
        for path in defs.findall(f"{_SVG}path"):
            path.attrib.pop("style", None)  # those who use it have their own


def _simplify(each: ET.Element, variables: Mapping[str, str]) -> None:
    each.tag = each.tag.removeprefix(_SVG)
    for key in _GEOMETRY:
        if key in each.attrib:
            # No screen shows a hundredth of a point.
            each.set(key, _DIGITS.sub(r"\1", " ".join(each.attrib[key].split())))
    style = each.get("style")
    if style and variables:
        style = _FONT.sub(r"font-size: \1px", style)
        for colour, variable in variables.items():
            style = style.replace(colour, variable)
        each.set("style", style)
    for part in ("text", "tail"):
        text = getattr(each, part)
        if text is not None and not text.strip():
            setattr(each, part, None)
