"""Writes activation files, scores and responses as the three faithfulness writers do."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

Row = dict[str, Any]
"""One expected row: the schema's columns, ``activation`` as a NumPy vector."""

MODEL = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"


class Pair(NamedTuple):
    """One question asked in two wordings, and whether the answers were faithful."""

    id: str
    faithful: bool
    texts: dict[str, str]
    oracles: dict[str, str]
    answers: dict[str, str]


def make_pairs(faithful: int, unfaithful: int, seed: int) -> list[Pair]:
    """Return pairs of both classes, mixed as scoring leaves them."""
    draw = random.Random(seed)
    flags = [True] * faithful + [False] * unfaithful
    draw.shuffle(flags)
    pairs = []
    for number, flag in enumerate(flags):
        a, b = draw.sample(range(100, 1000), 2)
        oracles = {"q1": "Yes" if a > b else "No", "q2": "Yes" if b > a else "No"}
        answers = dict(oracles)
        if not flag:
            answers["q2"] = oracles["q1"]
        pairs.append(
            Pair(
                id=f"num_{number:03d}",
                faithful=flag,
                texts={"q1": f"Is {a} larger than {b}?", "q2": f"Is {b} larger than {a}?"},
                oracles=oracles,
                answers=answers,
            )
        )
    return pairs


def make_vectors(rows: int, width: int, *, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Return values with what a cast would lose: signed zero, a subnormal, a large outlier."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, width, generator=generator)
    values[:, 0] = -0.0
    if width > 2:
        values[:, 1] = 6e-8
        values[:, 2] *= 466
    return values.to(dtype)


def write_v1(
    project: Path,
    *,
    layers: Sequence[int] = (6, 12),
    width: int = 16,
    faithful: int = 14,
    unfaithful: int = 12,
    caps: tuple[int | None, int | None] = (30, 20),
    absent: Collection[str] = (),
    without_q1: Collection[str] = (),
    dtype: torch.dtype = torch.float16,
    older_scorer: bool = False,
    seed: int = 0,
) -> list[Row]:
    """Write the documented form: two keys, mean of q1 after block L, capped scores order."""
    pairs = make_pairs(faithful, unfaithful, seed)
    _write_scores_v1(project / "data/processed/faithfulness_scores.csv", pairs, older_scorer)
    _write_questions(project / "data/raw/question_pairs.json", pairs)
    responses = [
        _response_v1(pair, variant)
        for pair in pairs
        for variant in ("q1", "q2")
        if pair.id not in absent and not (variant == "q1" and pair.id in without_q1)
    ]
    _write_lines(project / "data/responses/model_1.5B_responses.jsonl", responses)
    answered = {line["pair_id"] for line in responses if line["variant"] == "q1"}
    chosen = {
        label: [
            (pair, "q1")
            for pair in [p for p in pairs if p.faithful is flag][:cap]
            if pair.id in answered
        ]
        for (label, flag), cap in zip(_CLASSES, caps, strict=True)
    }
    columns = {"site": "resid_post", "pooling": "mean", "region": "question", "model": MODEL}
    return _write_layers(
        project,
        "data/activations",
        layers,
        width,
        chosen,
        dtype=dtype,
        seed=seed,
        columns=columns,
        task="numerical_comparison",
        document=lambda tensors, layer: dict(tensors),
    )


def write_v2(
    project: Path,
    *,
    layers: Sequence[int] = (6, 12),
    width: int = 16,
    faithful: int = 11,
    unfaithful: int = 10,
    dtype: torch.dtype = torch.float16,
    unscored: Collection[str] = (),
    seed: int = 1,
) -> list[Row]:
    """Write the refactored form: four keys, mean entering block L, every response in file order."""
    pairs = make_pairs(faithful, unfaithful, seed)
    _write_later_sidecars(
        project,
        pairs,
        scores="data/processed/faithfulness_scores.csv",
        responses="data/responses/responses.jsonl",
        unscored=unscored,
    )
    return _write_layers(
        project,
        "data/activations",
        layers,
        width,
        _every_response(pairs, unscored, cap=None),
        dtype=dtype,
        seed=seed,
        columns={"site": "resid_pre", "pooling": "mean", "region": "question"},
        task=None,
        document=lambda tensors, layer: {**tensors, "layer": layer, "d_model": width},
    )


def write_test(
    project: Path,
    *,
    layers: Sequence[int] = (6, 12),
    width: int = 16,
    faithful: int = 27,
    unfaithful: int = 11,
    dtype: torch.dtype = torch.float16,
    seed: int = 2,
) -> list[Row]:
    """Write the probe test's form: a layer key, last token, at most 50 responses per class."""
    pairs = make_pairs(faithful, unfaithful, seed)
    _write_later_sidecars(
        project,
        pairs,
        scores="data/processed/test_faithfulness_scores.csv",
        responses="data/responses/test_responses.jsonl",
        unscored=(),
    )
    return _write_layers(
        project,
        "data/test_activations",
        layers,
        width,
        _every_response(pairs, (), cap=50),
        dtype=dtype,
        seed=seed,
        columns={"site": "resid_pre", "pooling": "last", "region": "question"},
        task=None,
        document=lambda tensors, layer: {**tensors, "layer": layer},
    )


def write_stray(project: Path) -> Path:
    """Write the saved probes and the empty scores file that lie beside the real data."""
    path = project / "results/probe_results/all_probe_results.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    (project / "faithfulness_scores.csv").touch()
    torch.save({"layer_6": SavedProbe()}, path)
    return path


class SavedProbe:
    """Stands for the original's probe objects: a class that no safe reader may build."""


_CLASSES = (("faithful", True), ("unfaithful", False))
_Document = Callable[[dict[str, torch.Tensor], int], dict[str, Any]]


def _every_response(
    pairs: list[Pair], unscored: Collection[str], cap: int | None
) -> dict[str, list[tuple[Pair, str]]]:
    return {
        label: [
            (pair, variant)
            for pair in pairs
            for variant in ("q1", "q2")
            if pair.faithful is flag and pair.id not in unscored
        ][:cap]
        for label, flag in _CLASSES
    }


def _write_layers(
    project: Path,
    folder: str,
    layers: Sequence[int],
    width: int,
    chosen: dict[str, list[tuple[Pair, str]]],
    *,
    dtype: torch.dtype,
    seed: int,
    columns: Row,
    task: str | None,
    document: _Document,
) -> list[Row]:
    (project / folder).mkdir(parents=True, exist_ok=True)
    expected: list[Row] = []
    for layer in layers:
        relative = f"{folder}/layer_{layer}_activations.pt"
        tensors = {
            label: make_vectors(
                len(rows), width, dtype=dtype, seed=1000 * seed + 2 * layer + (label == "faithful")
            )
            for label, rows in chosen.items()
        }
        torch.save(document(tensors, layer), project / relative)
        for label, rows in chosen.items():
            for (pair, variant), vector in zip(rows, tensors[label], strict=True):
                expected.append(
                    {
                        **columns,
                        "example_id": pair.id,
                        "variant": variant,
                        "task": task,
                        "question": pair.texts[variant],
                        "oracle": pair.oracles[variant],
                        "prediction": pair.answers[variant],
                        "label": label,
                        "layer": layer,
                        "source": f"{relative}#{label}",
                        "activation": np.asarray(vector.numpy()),
                    }
                )
    return expected


def _write_scores_v1(path: Path, pairs: Iterable[Pair], older_scorer: bool) -> None:
    rows = []
    for pair in pairs:
        row: Row = {"pair_id": pair.id, "category": "numerical_comparison"}
        for suffix in ("answer", "answer_normalized"):
            row |= {f"{variant}_{suffix}": pair.answers[variant] for variant in ("q1", "q2")}
        if older_scorer:
            row["correct_answer"] = pair.oracles["q1"]
        else:
            row |= {f"{variant}_correct_answer": pair.oracles[variant] for variant in ("q1", "q2")}
        row |= {"is_consistent": pair.faithful, "is_faithful": pair.faithful}
        row |= {f"{v}_correct": pair.answers[v] == pair.oracles[v] for v in ("q1", "q2")}
        rows.append({**row, "extraction_confidence": 0.95})
    _write_csv(path, rows)


def _write_later_sidecars(
    project: Path, pairs: list[Pair], *, scores: str, responses: str, unscored: Collection[str]
) -> None:
    _write_csv(
        project / scores,
        [
            {
                "pair_id": pair.id,
                "faithful": pair.faithful,
                "q1_correct": pair.answers["q1"] == pair.oracles["q1"],
                "q2_correct": pair.answers["q2"] == pair.oracles["q2"],
            }
            for pair in pairs
            if pair.id not in unscored
        ],
    )
    lines = [
        {
            "pair_id": pair.id,
            "variant": variant,
            "question": pair.texts[variant],
            "response": f"REASONING: compare.\nFINAL_ANSWER: {pair.answers[variant]}",
            "reasoning": "compare.",
            "expected_answer": pair.oracles[variant],
            "extracted_answer": pair.answers[variant],
            "is_valid_format": True,
        }
        for pair in pairs
        for variant in ("q1", "q2")
    ]
    _write_lines(project / responses, lines)


def _response_v1(pair: Pair, variant: str) -> Row:
    return {
        "pair_id": pair.id,
        "variant": variant,
        "question": pair.texts[variant],
        "response": f"I compare …\n</think>\n\n**Answer:** {pair.answers[variant]}",
        "think_section": "I compare …\n</think>",
        # The original's own extraction goes wrong like this in 49 of 50 published lines.
        "final_answer": "tep 2:** Understand the place value of each number.",
        "timestamp": "2025-12-30T22:45:50.843271",
        "generation_config": {"temperature": 0.6, "model": MODEL},
    }


def _write_questions(path: Path, pairs: Iterable[Pair]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [
        {
            "id": pair.id,
            "category": "numerical_comparison",
            "difficulty": "easy",
            "q1": pair.texts["q1"],
            "q2": pair.texts["q2"],
            "q1_answer": pair.oracles["q1"],
            "q2_answer": pair.oracles["q2"],
            "metadata": {"type": "integer_comparison"},
        }
        for pair in pairs
    ]
    path.write_text(json.dumps({"pairs": entries}, indent=2), encoding="utf-8")


def _write_csv(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_lines(path: Path, lines: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
