"""Writes pickles of hook activations, and result logs, as the original benchmark code does."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

Row = dict[str, Any]
"""One expected row: the schema's columns, ``activation`` as a NumPy vector."""

MODEL = "meta-llama/Llama-3.2-3B-Instruct"
QUESTIONS = (
    "Which gas do plants absorb?\nA. Oxygen\nB. Carbon dioxide\nC. Helium\nD. Neon",
    "What is the résumé of Pauli's exclusion principle?",
    "not ( True ) and ( False ) is",
)
PREAMBLE = (
    "You are an expert tutor. You may think step-by-step to reach the solution, "
    "but you MUST finish with a line that starts exactly with `FINAL ANSWER:` "
    "followed by your single best answer.\n\n"
)


def write_decoded(
    folder: Path,
    *,
    questions: Sequence[str] = QUESTIONS,
    layers: Sequence[int] = (0, 1, 2),
    width: int = 16,
    embeddings: bool = True,
    model: str = MODEL,
    dtype: torch.dtype = torch.float16,
    started: datetime = datetime(2025, 9, 9, 20, 23, 33, 105000),
    seed: int = 0,
) -> list[Row]:
    """Write what generation with a cache leaves: the last decoding step, ``[1, 1, H]``."""
    folder.mkdir(parents=True, exist_ok=True)
    expected: list[Row] = []
    for number, question in enumerate(questions):
        document = _document(
            question,
            layers=layers,
            width=width,
            embeddings=embeddings,
            tokens=1,
            model=model,
            dtype=dtype,
            finished=started + timedelta(minutes=number, seconds=9),
            seed=100 * seed + number,
        )
        path = folder / _file_name(question, started + timedelta(minutes=number))
        with path.open("wb") as file:
            pickle.dump(document, file)
        expected += _rows(document, question, path.name, pooled=True)
    return expected


def write_full_sequence(
    folder: Path,
    *,
    name: str = "example_activations.pkl",
    question: str = QUESTIONS[0],
    layers: Sequence[int] = (0, 1, 2),
    width: int = 16,
    generated: int = 0,
    dtype: torch.dtype = torch.float16,
    seed: int = 7,
) -> list[Row]:
    """Write what generation without a cache leaves: every token so far, ``[1, T, H]``.

    T is the prompt's length plus ``generated``; the ids cover the prompt only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = _document(
        question,
        layers=layers,
        width=width,
        embeddings=True,
        tokens=_PROMPT_TOKENS + generated,
        model=MODEL,
        dtype=dtype,
        finished=datetime(2025, 9, 10, 8, 0, 0),
        seed=seed,
    )
    with (folder / name).open("wb") as file:
        pickle.dump(document, file)
    return _rows(document, question, name, pooled=False)


def write_direct(
    folder: Path,
    *,
    name: str = "my_activations.pkl",
    prompt: str = "What is the capital of France?",
) -> list[Row]:
    """Write a direct call: a bare prompt without the tutor's preamble, any file name."""
    folder.mkdir(parents=True, exist_ok=True)
    document = _document(
        prompt,
        layers=(0, 2),
        width=16,
        embeddings=True,
        tokens=1,
        model=MODEL,
        dtype=torch.float16,
        finished=datetime(2025, 9, 10, 9, 0, 0, 250000),
        seed=11,
    )
    document["prompt"] = prompt
    with (folder / name).open("wb") as file:
        pickle.dump(document, file)
    return _rows(document, prompt, name, pooled=True)


def write_torch(folder: Path, *, name: str = "example activations.pt") -> list[Row]:
    """Write the same dictionary with ``torch.save``, as a safe export does."""
    folder.mkdir(parents=True, exist_ok=True)
    document = _document(
        QUESTIONS[1],
        layers=(0, 1),
        width=16,
        embeddings=True,
        tokens=1,
        model=MODEL,
        dtype=torch.float16,
        finished=datetime(2025, 9, 10, 10, 0, 0),
        seed=13,
    )
    torch.save(document, folder / name)
    return _rows(document, QUESTIONS[1], name, pooled=True)


def write_results(
    project: Path,
    questions: Sequence[str],
    *,
    model: str = MODEL,
    benchmark: str = "mmlu",
    subquestions: int = 2,
) -> list[str]:
    """Write the logs of correctly answered questions; a question in no log was answered wrongly."""
    written = []
    for trial, question in enumerate(questions):
        for index in range(subquestions):
            for number, category in enumerate(("initial", "edited_with_error")):
                folder = f"results/{model}/{benchmark}/{trial}/{category}"
                relative = f"{folder}/Gas_{index}_{number}.json"
                path = project / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(
                    json.dumps(
                        {
                            "original_question": question,
                            "concept": "Gas exchange",
                            "subquestion": f"Sub-question {index}?",
                            "answer": "Carbon dioxide",
                            "judge_answer": "FINAL ANSWER: correct",
                            "category": category,
                            "expected_answer": ("correct", "incorrect")[number],
                            "coherent": 1 - number,
                        }
                    ),
                    encoding="utf-8",
                )
                written.append(relative)
    return written


_PROMPT_TOKENS = 5


def _file_name(question: str, started: datetime) -> str:
    sanitized = re.sub(r"[^\w\s-]", "", question)[:50]
    return f"benchmark_activations_{started:%Y%m%d_%H%M%S_%f}_{sanitized}.pkl"


def _document(
    question: str,
    *,
    layers: Sequence[int],
    width: int,
    embeddings: bool,
    tokens: int,
    model: str,
    dtype: torch.dtype,
    finished: datetime,
    seed: int,
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    names = ["embeddings"] * embeddings + [f"layer_{layer}" for layer in layers]
    activations = {}
    for name in names:
        values = torch.randn(1, tokens, width, generator=generator)
        values[..., 0] = -0.0
        activations[name] = values.to(dtype)
    return {
        "prompt": f"{PREAMBLE}Question:\n{question}\n",
        "response": "Plants take in carbon dioxide.\nFINAL ANSWER: B",
        "model": model,
        "timestamp": finished.isoformat(),
        "input_ids": torch.arange(128000, 128000 + _PROMPT_TOKENS).unsqueeze(0),
        "activations": activations,
    }


def _rows(document: dict[str, Any], question: str, name: str, *, pooled: bool) -> list[Row]:
    ids = document["input_ids"][0].tolist()
    stamp = document["timestamp"]
    rows: list[Row] = []
    for key, tensor in document["activations"].items():
        embedded = key == "embeddings"
        # bfloat16 has no NumPy type; float32 holds it exactly.
        values = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        for position, vector in enumerate(values[0]):
            covered = not pooled and position < len(ids)
            generated = not pooled and position >= len(ids)
            rows.append(
                {
                    "example_id": Path(name).stem,
                    "question": question,
                    "prediction": document["response"],
                    "model": document["model"],
                    "label": None,
                    "layer": -1 if embedded else int(key.removeprefix("layer_")),
                    "site": "embeddings" if embedded else "resid_post",
                    "pooling": "last" if pooled else "none",
                    "region": "response" if pooled else None,
                    "position": None if pooled else position,
                    "token_id": ids[position] if covered else None,
                    "token_role": "generated" if generated else None,
                    "captured_at": f"{stamp}Z",
                    "source": f"{name}#activations.{key}",
                    "activation": np.asarray(vector.numpy()),
                }
            )
    return rows
