"""Pictures as PNG, SVG, PDF and HTML files, the same bytes for the same picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from actstore.analysis.plots import looks, page
from actstore.errors import UsageError
from actstore.storage.disk_errors import saving
from actstore.storage.layout import replace_durably

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf", ".html")


def render(figure: Figure, suffix: str) -> bytes:
    """Return a figure as a ``.png``, ``.svg``, ``.pdf`` or ``.html`` file, each time the same.

    Raises:
        UsageError: there is no such kind of picture.
    """
    if suffix == ".html":
        return page.page(figure).encode()
    if suffix == ".svg":
        return looks.encode(figure, ".svg")
    if suffix == ".png":
        return looks.encode(figure, ".png")
    if suffix == ".pdf":
        return looks.encode(figure, ".pdf")
    raise UsageError(f"a picture is one of {', '.join(FORMATS)}, got {suffix!r}")


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure to a ``.png``, ``.svg``, ``.pdf`` or ``.html`` file, whole or not at all.

    Raises:
        UsageError: the name has another ending.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(f"{target.name}: a picture ends in {', '.join(FORMATS)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    content = render(figure, suffix)
    with saving(target):
        replace_durably(target, content)
    return target
