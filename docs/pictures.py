"""Draws the pictures of docs/plots.md anew: ``python -m docs.pictures [FOLDER]``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import actstore
from actstore.analysis import plots
from docs import examples

FOLDER = Path(__file__).parent / "pictures"


def draw(folder: Path) -> list[Path]:
    """Draw every picture into ``folder``, from the data that the pages' examples use."""
    with tempfile.TemporaryDirectory() as place:
        examples.prepare(Path(place))
        root = Path(place) / "runs.store"
        actstore.ingest(Path(place) / "unfaithful-reasoning", root)
        with actstore.open(root) as store:
            everything, one_layer = store.select(), store.select(layer=24)
            figures = {
                "norms.svg": plots.norms(everything),
                "histogram.svg": plots.histogram(everything),
                "heatmap.png": plots.heatmap(everything),
                "pca.svg": plots.pca(everything),
                "similarity.png": plots.similarity(one_layer),
                "auroc.svg": plots.auroc(everything),
            }
            return [plots.save(figure, folder / name) for name, figure in figures.items()]


if __name__ == "__main__":
    for path in draw(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER):
        print(path.name, path.stat().st_size)
