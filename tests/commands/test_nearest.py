"""`actstore nearest`: around an example, a row or a vector of one's own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands.conftest import Command, vectors


def found(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def best(layer: int, query: np.ndarray) -> list[str]:
    matrix = vectors(layer).astype(np.float64)
    scores = matrix @ query / np.linalg.norm(matrix, axis=1)
    return [f"e{i}" for i in np.argsort(-scores)]


def test_around_an_example(actstore: Command, store: Path) -> None:
    words = ("--example", "e4", "--layer", 7, "-k", 3, "--format", "jsonl")
    rows = found(actstore("nearest", store, *words).out)
    assert [row["example_id"] for row in rows] == best(7, vectors(7)[4].astype(float))[1:4]
    assert rows[0]["score"] >= rows[1]["score"]


def test_around_a_row(actstore: Command, store: Path) -> None:
    words = ("--row", 4, "--layer", 3, "-k", 1, "--format", "jsonl", "--columns", "example_id")
    rows = found(actstore("nearest", store, *words).out)
    assert [row["example_id"] for row in rows] == best(3, vectors(3)[4].astype(float))[1:2]


def test_around_a_vector_of_ones_own(actstore: Command, store: Path, tmp_path: Path) -> None:
    query = np.linspace(-1, 1, 8)
    np.save(tmp_path / "v.npy", query[None])
    (tmp_path / "v.json").write_text(json.dumps(query.tolist()))
    for given in (tmp_path / "v.npy", tmp_path / "v.json", json.dumps(query.tolist())):
        words = ("--vector", given, "--layer", 3, "-k", 20, "--format", "jsonl")
        rows = found(actstore("nearest", store, *words).out)
        assert [row["example_id"] for row in rows] == best(3, query)


def test_several_queries_at_once(actstore: Command, store: Path, tmp_path: Path) -> None:
    words = ("--layer", 3, "-k", 2, "--format", "jsonl", "--columns", "example_id")
    several = found(actstore("nearest", store, "--example", "e4", "--example", "e1", *words).out)
    assert [row["query"] for row in several] == [0, 0, 1, 1]
    for number, name in enumerate(("e4", "e1")):
        alone = found(actstore("nearest", store, "--example", name, *words).out)
        mine = several[2 * number : 2 * number + 2]
        assert [row["example_id"] for row in mine] == [row["example_id"] for row in alone]
    np.save(tmp_path / "m.npy", vectors(3)[:3])
    rows = found(actstore("nearest", store, "--vector", tmp_path / "m.npy", *words).out)
    assert [row["example_id"] for row in rows[::2]] == ["e0", "e1", "e2"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), 2),
        (("--row", "1", "--example", "e1"), 2),
        (("--vector", "nothing.npy"), 2),
        (("--vector", "[[[1, 2], [3, 4]]]"), 2),
        (("--vector", "[1, 2"), 2),
        (("--vector", "[1, 2]"), 1),
        (("--vector", "[1, null, 0, 0, 0, 0, 0, 0]"), 2),
        (("--vector", "[1, NaN, 0, 0, 0, 0, 0, 0]"), 2),
        (("--vector", "[0, 0, 0, 0, 0, 0, 0, 0]"), 2),
        (("--row", "1000"), 2),
        (("--example", "nobody"), 1),
        (("--example", "e1"), 2),
    ],
)
def test_what_cannot_be_searched(
    actstore: Command, store: Path, words: tuple[str, ...], code: int
) -> None:
    finished = actstore("nearest", store, *words)
    assert finished.code == code
    assert finished.err.startswith("error: ")


def test_a_row_that_is_not_there_is_named(actstore: Command, store: Path) -> None:
    said = actstore("nearest", store, "--row", 99999).err
    assert said.startswith("error: row_id goes from 0 to ")
    assert said.rstrip().endswith(", got 99999")
