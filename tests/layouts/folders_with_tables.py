"""Folders of activations with a table beside them that says what each vector is of."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.layouts.drawing import WIDTH, Row, draw, row


def stack_beside_table(folder: Path) -> list[Row]:
    stack = draw(3, 6, WIDTH)
    torch.save(stack, folder / "acts.pt")
    with (folder / "rows.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "prompt", "label", "difficulty"])
        table.writerows([f"r{at}", f"Q{at}", "ab"[at % 2], at] for at in range(6))
    return _rows_of_stack(stack, difficulty=str)


def _rows_of_stack(stack: torch.Tensor, difficulty: Callable[[int], Any]) -> list[Row]:
    return [
        row(
            stack[layer, at],
            example_id=f"r{at}",
            example_index=at,
            question=f"Q{at}",
            label="ab"[at % 2],
            layer=layer,
            extra=json.dumps({"difficulty": difficulty(at)}),
        )
        for layer in range(3)
        for at in range(6)
    ]


def _records(folder: Path) -> torch.Tensor:
    stack = draw(3, 6, WIDTH)
    torch.save({"acts": stack}, folder / "acts.pt")
    return stack


def _table_rows() -> list[dict[str, Any]]:
    return [
        {"id": f"r{at}", "prompt": f"Q{at}", "label": "ab"[at % 2], "difficulty": at}
        for at in range(6)
    ]


def stack_beside_jsonl(folder: Path) -> list[Row]:
    stack = _records(folder)
    text = "".join(json.dumps(record) + "\n" for record in _table_rows())
    (folder / "prompts.jsonl").write_text(text)
    return _rows_of_stack(stack, difficulty=int)


def stack_beside_parquet(folder: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stack = _records(folder)
    pq.write_table(pa.Table.from_pylist(_table_rows()), folder / "meta.parquet")
    return _rows_of_stack(stack, difficulty=int)


def modules_beside_table(folder: Path) -> list[Row]:
    names = {"mlp": "mlp_out", "attn": "attn_out"}
    acts = {layer: {name: draw(5, WIDTH) for name in names} for layer in (0, 1)}
    torch.save(acts, folder / "acts.pt")
    lines = [json.dumps({"id": f"e{at}", "label": "ab"[at % 2]}) for at in range(5)]
    (folder / "meta.jsonl").write_text("\n".join(lines))
    return [
        row(vector, example_id=f"e{at}", label="ab"[at % 2], layer=layer, site=site)
        for layer, tensors in acts.items()
        for name, site in names.items()
        for at, vector in enumerate(tensors[name])
    ]
