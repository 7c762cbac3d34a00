"""Draws the pictures of docs/plots.md anew: ``python -m docs.pictures [FOLDER]``.

With ``--study`` it draws that of the README and docs/study.md, on the real model.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import actstore
from actstore import cli
from actstore.analysis import plots
from actstore.models.loading import load
from docs import examples
from docs.study import facts, model

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
                "similarity.svg": plots.similarity(everything),
                "similarity-rows.png": plots.similarity(one_layer),
                "auroc.svg": plots.auroc(everything),
            }
            return [plots.save(figure, folder / name) for name, figure in figures.items()]


def draw_study(folder: Path) -> list[Path]:
    """Draw AUROC by layer of the truth of statements, measured on the study's model."""
    loaded = load(model.checkpoint(), dtype="float32")
    with tempfile.TemporaryDirectory() as place:
        facts.write(Path(place))
        lines = (Path(place) / "cities.jsonl").read_text(encoding="utf-8").splitlines()
        actstore.capture(
            loaded.model,
            loaded.processor,
            [json.loads(line) for line in lines],
            store=Path(place) / "cities.store",
            chat_template=False,
            batch_size=16,
            model_name=model.NAME,
        )
        # The picture is the one that the command leaves beside its report.
        words = ["--label", "label", "--positive", "true"]
        out = Path(place) / "probes"
        if cli.run(["probe", str(Path(place) / "cities.store"), *words, "--out", str(out)]):
            raise RuntimeError("the probes of the study's picture failed")
        return [Path(shutil.copy(out / "auroc.png", folder / "study.png"))]


def main() -> None:
    """Draw, and say how large the pictures are."""
    parser = argparse.ArgumentParser(description="Draws the documents' pictures.")
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--study", action="store_true", help="that of the study instead")
    given = parser.parse_args()
    for path in (draw_study if given.study else draw)(given.folder):
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
