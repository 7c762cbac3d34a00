"""`python -m docs.study.steering`: does adding the truth direction move the model's answers?

The direction is made of the statements in ``cities.jsonl``; it is tried on those in
``others.jsonl``, on other cities, put as questions: "Is it true that …?". What is measured is how
much the model prefers "Yes" to "No" as its first word, with the direction added, and with random
directions of the same length, which tell what any push of that size does.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.utils import logging

import actstore
from actstore.models.loading import load
from docs.study.model import NAME

SCALES = (-4.0, -2.0, 0.0, 2.0, 4.0)
STATEMENTS = 24
RANDOM = 2
"""Random directions of the same length, each tried at the two outermost scales."""
ASK = "Is it true that {statement}? Answer with Yes or No."


class Measured(NamedTuple):
    """Preference for Yes over No, in nats, at one scale."""

    scale: float
    true: float
    """Mean over the true statements."""
    false: float
    """Mean over the false ones."""
    yes: float
    """Share of statements to which Yes is likelier than No."""


def questions(path: Path) -> tuple[list[str], np.ndarray]:
    """Return the statements of a file as questions, and which of them are true, ``[n]`` bool."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [row["question"].rstrip(".") for row in rows]
    asked = [ASK.format(statement=text[0].lower() + text[1:]) for text in texts]
    return asked, np.array([row["label"] == "true" for row in rows])


def preference(
    model: Any, tokenizer: Any, asked: Sequence[str], vector: np.ndarray, layer: int, scale: float
) -> np.ndarray:
    """Return how much likelier, in nats, the answer begins with Yes than with No: ``[n]``."""
    yes, no = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No"))
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        for question in asked
    ]
    found = []
    with torch.inference_mode(), actstore.steering(model, vector, layer, scale):
        for start in range(0, len(prompts), 8):
            batch = tokenizer(
                prompts[start : start + 8],
                return_tensors="pt",
                padding=True,
                padding_side="left",
                add_special_tokens=False,
            )
            positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
            last = model(**batch, position_ids=positions, logits_to_keep=1).logits[:, -1].float()
            found.append((last[:, yes] - last[:, no]).numpy())
    return np.concatenate(found)


def measure(
    model: Any,
    tokenizer: Any,
    asked: Sequence[str],
    truth: np.ndarray,
    vector: np.ndarray,
    layer: int,
    scales: Sequence[float] = SCALES,
) -> list[Measured]:
    """Return what the direction does at each scale."""
    found = []
    for scale in scales:
        values = preference(model, tokenizer, asked, vector, layer, scale)
        found.append(
            Measured(
                scale,
                float(values[truth].mean()),
                float(values[~truth].mean()),
                float((values > 0).mean()),
            )
        )
    return found


def shift(found: Sequence[Measured]) -> float:
    """Return how far the preference moves from the smallest scale to the largest, in nats."""
    means = [(one.true + one.false) / 2 for one in (found[0], found[-1])]
    return means[1] - means[0]


def main() -> None:
    """Measure, and print what comes out, whatever it is."""
    parser = argparse.ArgumentParser(description="Does the truth direction move the answers?")
    parser.add_argument("--folder", type=Path, default=Path("."), help="where the study is")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--statements", type=int, default=STATEMENTS)
    given = parser.parse_args()
    folder: Path = given.folder
    file = folder / "steering" / "vectors" / f"layer_{given.layer}.pt"
    vector = torch.load(file, weights_only=True).numpy()
    logging.disable_progress_bar()
    loaded = load(folder / NAME, dtype="float32", device="cpu")
    asked, truth = questions(folder / "others.jsonl")
    asked, truth = asked[: given.statements], truth[: given.statements]
    tried = measure(loaded.model, loaded.processor, asked, truth, vector, given.layer)
    print(f"{len(asked)} questions such as: {asked[0]}")
    print("log odds of Yes against No, and how often Yes is likelier:")
    print("scale  true statements  false statements  Yes")
    for one in tried:
        print(f"{one.scale:5g}  {one.true:15.2f}  {one.false:16.2f}  {one.yes:4.0%}")
    draw = np.random.default_rng(0)
    shifts = []
    for _ in range(RANDOM):
        other = draw.standard_normal(len(vector)).astype(np.float32)
        other *= np.linalg.norm(vector) / np.linalg.norm(other)
        ends = (SCALES[0], SCALES[-1])
        shifts.append(
            shift(measure(loaded.model, loaded.processor, asked, truth, other, given.layer, ends))
        )
    print(
        f"from scale {SCALES[0]:g} to {SCALES[-1]:g} it moves the log odds by {shift(tried):+.2f}"
    )
    listed = ", ".join(f"{each:+.2f}" for each in shifts)
    print(f"random directions of the same length move them by {listed}")


if __name__ == "__main__":
    main()
