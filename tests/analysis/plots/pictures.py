"""Stores to draw, and what stands in a drawn SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from actstore.analysis import plots
from tests.querying import stores

SVG = "{http://www.w3.org/2000/svg}"


def make(
    root: Path,
    *,
    layers: tuple[int | None, ...] = (0, 1, 2),
    rows: int = 40,
    width: int = 12,
    labels: tuple[str | None, ...] = ("yes", "no"),
) -> Path:
    """Write layers in which each label has a direction of its own, stronger with depth."""
    rng = np.random.default_rng(0)
    given = [labels[number % len(labels)] for number in range(rows)]
    directions = {label: rng.standard_normal(width) for label in labels}
    for depth, layer in enumerate(layers):
        matrix = rng.standard_normal((rows, width))
        matrix += depth * np.stack([directions[label] for label in given])
        stores.add(
            root,
            matrix.astype(np.float16),
            layer=layer,
            label=given,
            task=[None] * rows,
            question=[f"{number}: </title><script>$x$ 你好" for number in range(rows)],
        )
    return root


def texts(figure: Figure) -> list[str]:
    """Return every text of a figure as it is written to SVG."""
    root = ET.fromstring(plots.render(figure, ".svg"))
    return ["".join(node.itertext()).strip() for node in root.iter(f"{SVG}text")]
