"""`actstore compare`: tables, JSON and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.commands.conftest import LAYERS, Command, vectors
from tests.querying import stores


def test_two_conditions(actstore: Command, store: Path) -> None:
    sides = ("--a", "label = 'faithful'", "--b", "label = 'unfaithful'")
    document = json.loads(actstore("compare", store, *sides, "--json").out)
    assert [one["a"]["layer"] for one in document["layers"]] == list(LAYERS)
    matrix = vectors(3).astype(np.float64)
    apart = np.linalg.norm(matrix[::2].mean(axis=0) - matrix[1::2].mean(axis=0))
    assert document["layers"][0]["mean_distance"] == pytest.approx(apart)
    out = actstore("compare", store, *sides).out
    assert out.startswith("matched by example_id, pooling\n")
    heading, *rows = (line.split() for line in out.splitlines()[2 : 3 + len(LAYERS)])
    assert heading[:5] == ["layer", "rows", "A", "rows", "B"]
    assert [row[:4] for row in rows] == [[str(layer), "10", "10", "0"] for layer in LAYERS]
    assert "40 rows without a counterpart" in out


def test_two_examples_and_two_stores(actstore: Command, store: Path) -> None:
    document = json.loads(
        actstore("compare", store, "--example", "e1", "--example", "e2", "--json").out
    )
    a, b = vectors(7)[1:3].astype(np.float64)
    assert document["layers"][1]["distance"]["mean"] == pytest.approx(np.linalg.norm(a - b))
    document = json.loads(actstore("compare", store, store, "--layer", 3, "--json").out)
    (one,) = document["layers"]
    assert one["matched"] == 20
    assert one["cka"] == pytest.approx(1)
    assert one["cosine"]["minimum"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ((), 2, "say what to compare"),
        (("--example", "e1"), 2, "give --example twice"),
        (("--a", "layer = 3"), 2, "say what to compare"),
        (("--a", "false", "--b", "true"), 1, "A has no rows"),
        (("--example", "e1", "--example", "nobody"), 1, "nobody"),
    ],
)
def test_what_is_refused(
    actstore: Command, store: Path, words: tuple[str, ...], code: int, told: str
) -> None:
    done = actstore("compare", store, *words)
    assert done.code == code
    assert told in done.err


def test_pairs_that_are_not_finite_are_not_called_a_sample(
    actstore: Command, tmp_path: Path
) -> None:
    matrix = stores.vectors(9, 4, "float32", 0)
    stores.add(tmp_path, matrix, mode=["a"] * 9)
    matrix = matrix + 1
    matrix[2] = np.inf
    stores.add(tmp_path, matrix, mode=["b"] * 9)
    out = actstore("compare", tmp_path, "--a", "mode = 'a'", "--b", "mode = 'b'").out
    assert "left out, for they are not finite: 1 matched pair" in out
    assert "evenly spread" not in out


def test_what_figures_leave_out_is_counted(actstore: Command, tmp_path: Path) -> None:
    matrix = stores.vectors(9, 4, "float32", 0)
    matrix[4] = 0
    stores.add(tmp_path, matrix, mode=["a"] * 9, label=["x", None, None] * 3)
    matrix = matrix + 1
    matrix[2] = np.inf
    matrix[3, 0] = np.nan
    stores.add(tmp_path, matrix, mode=["b"] * 9, label=["x", None, None] * 3)
    sides = ("--a", "mode = 'a'", "--b", "mode = 'b'")
    out = actstore("compare", tmp_path, *sides).out
    assert "left out of the means: 5 values not finite" in out
    assert "left out, for they are not finite: 2 matched pairs" in out
    assert "left out of the cosine, which zeros have not: 1 matched pair" in out
    (one,) = json.loads(actstore("compare", tmp_path, *sides, "--json").out)["layers"]
    assert (one["nonfinite_a"], one["nonfinite_b"]) == (0, 5)
    assert (one["matched"], one["distance"]["rows"], one["cosine"]["rows"]) == (9, 7, 6)
    # Without any match too: these means are of one row less in one dimension.
    sides = ("--a", "mode = 'b' AND label = 'x'", "--b", "mode = 'b' AND label IS NULL")
    assert "left out of the means: 5 values not finite" in actstore("compare", tmp_path, *sides).out
