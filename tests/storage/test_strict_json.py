"""JSON without the NaN and Infinity that Python writes and other readers refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actstore.storage import strict_json
from tests.commands.conftest import Command, actstore

__all__ = ["actstore"]


def refuse(word: str) -> Any:
    raise AssertionError(f"{word} is no JSON")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": 1.5, "é": [True, None]}, '{"a": 1.5, "é": [true, null]}'),
        (
            {"a": float("nan"), "b": (float("inf"), {"c": -float("inf")})},
            '{"a": null, "b": [null, {"c": null}]}',
        ),
    ],
)
def test_what_is_not_finite_becomes_null(value: Any, text: str) -> None:
    assert strict_json.dumps(value) == text


def test_tables_beside_matrices_hold_json(tmp_path: Path, actstore: Command) -> None:
    vectors = np.ones((2, 4), np.float32)
    vectors[0, 1] = np.nan
    np.save(tmp_path / "layer_3.npy", vectors)
    root, out = tmp_path / "s", tmp_path / "out"
    given = ("--model", "m", "--site", "x", "--recipe", "numpy", "--allow-nonfinite")
    assert actstore("ingest", tmp_path / "layer_3.npy", "--store", root, *given).code == 0
    assert actstore("export", root, out, "--to", "npz", "--metadata", "jsonl").code == 0
    (table,) = out.rglob("*.jsonl")
    rows = [json.loads(line, parse_constant=refuse) for line in table.read_text().splitlines()]
    assert [row["norm"] for row in rows] == [None, 2.0]
