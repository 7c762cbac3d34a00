"""Writes SpatialEval residual-stream caches as the original inference scripts do."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

Row = dict[str, Any]
"""One expected row: the schema's columns, ``activation`` as a NumPy vector."""

Ids = Literal["hub", "document"]

DATASET = "MilaWang/SpatialEval"
MODEL = "meta-llama/Meta-Llama-3-8B-Instruct"
ANSWERS = ("The answer is (A) Northeast.", "Southwest", "I cannot tell.\nPerhaps 3?")


def write_cache(
    cache: Path,
    *,
    dataset: str = DATASET,
    model: str = MODEL,
    modes: Sequence[str] = ("tqa", "vqa"),
    tasks: Sequence[str] = ("spatialmap", "mazenav"),
    questions: int = 2,
    kinds: int = 2,
    width: int = 16,
    rank: Literal[1, 2, 3] = 3,
    ids: Ids = "hub",
    model_dtype: torch.dtype = torch.float16,
    view: bool = False,
    seed: int = 0,
) -> list[Row]:
    """Write ``{dataset}/{model}/{mode}/{task}/{example}_{index}.pt`` below ``cache``.

    ``questions`` per task and ``kinds`` of question per task; ``index`` counts within a kind
    across tasks, as the original does.
    Rows come in reading order. ``rank`` 3 is what the code writes, 2 what its documentation
    says. ``ids``: ``spatialmap.tqa.0.1`` of the hub or ``spatialmap.0`` of the
    documentation. ``view`` leaves the tensor a view of all prompt tokens, as a float32 model
    on the CPU does, so that the file holds the whole storage.
    """
    generator = torch.Generator().manual_seed(seed)
    expected: list[Row] = []
    for mode in modes:
        counters: Counter[str] = Counter()
        for task in tasks:
            for number, kind in ((n, k) for n in range(questions) for k in range(kinds)):
                name = f"{task}.{mode}.{number}.{kind}" if ids == "hub" else f"{task}.{number}"
                group = name.rsplit(".", 1)[-1]
                index = counters[group]
                counters[group] += 1
                tensor = _last_token(width, rank, model_dtype, view, generator)
                document = {
                    "question": f'Consider a map with {number + 1} objects.\nWhere is "{task}"?',
                    "oracle_answer": ("Northeast", "Southwest")[kind % 2],
                    "model_prediction": ANSWERS[(number + kind) % len(ANSWERS)],
                    "example_id": name,
                    "index": index,
                    "task": task,
                    "mode": mode,
                    "hidden_states_last": tensor,
                    "hidden_size": width,
                }
                folders = (dataset.replace("/", "__"), model.replace("/", "__"), mode, task)
                path = cache.joinpath(*folders, f"{name.replace('.', '_')}_{index}.pt")
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.save(document, path)
                expected.append(
                    {
                        "example_id": name,
                        "example_index": index,
                        "dataset": dataset,
                        "task": task,
                        "mode": mode,
                        "model": model,
                        "question": document["question"],
                        "oracle": document["oracle_answer"],
                        "prediction": document["model_prediction"],
                        "label": None,
                        "layer": None,
                        "site": "final_norm",
                        "pooling": "last",
                        "region": "prompt",
                        "position": None,
                        "source": path.relative_to(cache).as_posix() + "#hidden_states_last",
                        "activation": np.array(tensor.reshape(-1).numpy()),
                    }
                )
    return sorted(expected, key=_place)


def _place(row: Row) -> list[list[tuple[bool, int, str]]]:
    """Return the reading order: folder by folder, ``_2`` before ``_10``."""
    return [
        [(not piece.isdigit(), int(piece) if piece.isdigit() else 0, piece) for piece in pieces]
        for pieces in (
            [piece for piece in re.split(r"(\d+)", segment) if piece]
            for segment in row["source"].partition("#")[0].split("/")
        )
    ]


def _last_token(
    width: int, rank: int, dtype: torch.dtype, view: bool, generator: torch.Generator
) -> torch.Tensor:
    states = torch.randn(1, 7, width, generator=generator)
    states[..., 0] = -0.0
    # Values come out of a 16-bit model and are cast: half of each float32 is zero bits.
    hidden = states if dtype == torch.float32 else states.to(dtype).float()
    last = hidden[:, -1:, :]
    if not view:
        last = last.clone()
    return last if rank == 3 else last[0] if rank == 2 else last[0, 0]


def write_answers(
    output: Path,
    rows: Iterable[Row],
    *,
    style: str = "bare",
    one_file: bool = False,
    changed: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Write ``<data set>/<mode>/<task or all>/m-<model>_<style>.jsonl`` beside the cache.

    Returns the lines by example id. ``one_file`` writes ``all`` instead of one folder per
    task. ``changed`` replaces every answer, as a run with another prompt has it.
    """
    written: dict[str, dict[str, Any]] = {}
    files: dict[Path, list[dict[str, Any]]] = {}
    for row in rows:
        line = {
            "id": row["example_id"],
            "answer": row["prediction"] if changed is None else changed,
            "oracle_answer": row["oracle"],
            "oracle_option": "A",
            "oracle_full_answer": f"A. {row['oracle']}",
            "prompt": f"[{style}] {row['question']}\nAnswer:",
        }
        written[row["example_id"]] = line
        folder = output / row["dataset"].replace("/", "__") / row["mode"]
        folder = folder / ("all" if one_file else row["task"])
        path = folder / f"m-{row['model'].rsplit('/', 1)[-1]}_{style}.jsonl"
        files.setdefault(path, []).append(line)
    for path, lines in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        path.write_text(text, encoding="utf-8")
    return written


def write_evaluation(output: Path, rows: Iterable[Row]) -> list[Path]:
    """Write the evaluator's files: they carry no ids, so nothing can be joined to them."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["mode"], row["task"], row["model"]), []).append(row)
    paths = []
    for (mode, task, model), members in groups.items():
        name = model.rsplit("/", 1)[-1]
        path = output / "eval_summary" / mode / f"{task}_{name}_eval_summary.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            {
                "ref": row["oracle"],
                "model_output": row["prediction"],
                "eval_result": int(row["oracle"].lower() in row["prediction"].lower()),
            }
            for row in members
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        accuracy = path.with_name(f"{task}_acc.csv")
        accuracy.write_text(f"Model Name,Acc\n{name},0.5\n", encoding="utf-8")
        paths += [path, accuracy]
    return paths
