"""`python -m docs.study.steering`: does adding the truth direction move the model's answers?

The direction is made of the statements in ``cities.jsonl``; it is tried on those in
``others.jsonl``, on other cities, put as questions: "Is it true that …?". What is measured is how
much the model prefers "Yes" to "No" as its first word, of true and of false statements, with the
direction added, and with random directions of the same norm, which tell what any push of that
size does.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers.utils import logging

from actstore.analysis import plots
from actstore.analysis.steering import doses, vector_files
from actstore.analysis.steering.doses import DoseCurve
from actstore.models.loading import LoadedModel, load
from docs.study.model import NAME

STATEMENTS = 24
ASK = "Is it true that {statement}? Answer with Yes or No."
RANDOM = 2
"""Random directions of the same norm."""


def questions(path: Path) -> tuple[list[str], np.ndarray]:
    """Return the statements of a file as questions, and which of them are true, ``[n]`` bool."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [row["question"].rstrip(".") for row in rows]
    asked = [ASK.format(statement=text[0].lower() + text[1:]) for text in texts]
    return asked, np.array([row["label"] == "true" for row in rows])


def measure(
    loaded: LoadedModel,
    asked: Sequence[str],
    truth: np.ndarray,
    vector: np.ndarray,
    layer: int,
    scales: Sequence[float] = doses.DOSES,
) -> dict[str, DoseCurve]:
    """Return the dose curves of the true and of the false statements."""
    return {
        kind: doses.measure(
            loaded,
            vector,
            layer,
            [text for text, true in zip(asked, truth, strict=True) if true == wanted],
            target="Yes",
            against="No",
            doses=scales,
            random=RANDOM,
        )
        for kind, wanted in (("true", True), ("false", False))
    }


def main() -> None:
    """Measure, and print what comes out, whatever it is."""
    parser = argparse.ArgumentParser(description="Does the truth direction move the answers?")
    parser.add_argument("--folder", type=Path, default=Path("."), help="where the study is")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--statements", type=int, default=STATEMENTS)
    given = parser.parse_args()
    logging.disable_progress_bar()
    folder: Path = given.folder
    loaded = load(folder / NAME, dtype="float32", device="cpu")
    vector = vector_files.one(folder / "steering", given.layer).vector
    asked, truth = questions(folder / "others.jsonl")
    asked, truth = asked[: given.statements], truth[: given.statements]
    curves = measure(loaded, asked, truth, vector, given.layer)
    print(f"questions such as: {asked[0]}")
    for label, curve in curves.items():
        print(f"{curve.prompts} {label} statements, {curve.measured} in nats:")
        print("strength  value  change  95 % interval   random directions")
        for point in curve.vector:
            others = [each.change for name in curve.random for each in curve.of(name)
                      if each.dose == point.dose]  # fmt: skip
            print(
                f"{point.dose:8g}  {point.value:5.2f}  {point.change:+6.2f}  "
                f"{point.low:+5.2f} to {point.high:+5.2f}  "
                + ", ".join(f"{each:+.2f}" for each in others)
            )
    path = plots.save(plots.dose(curves["true"]), folder / "dose.png")
    print(f"{path.name}: the curve of the true statements")


if __name__ == "__main__":
    main()
