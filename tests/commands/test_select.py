"""`actstore select`: metadata on the screen, vectors and metadata into a file."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.commands.conftest import Command, vectors


def test_metadata_of_the_rows(actstore: Command, store: Path) -> None:
    words = ("--layer", 7, "--label", "faithful", "--format", "jsonl")
    rows = [json.loads(line) for line in actstore("select", store, *words).out.splitlines()]
    assert [row["example_id"] for row in rows] == [f"e{i}" for i in range(0, 20, 2)]
    assert {row["layer"] for row in rows} == {7}
    assert "dataset" in rows[0]


def test_a_table_leaves_empty_columns_out(actstore: Command, store: Path) -> None:
    header = actstore("select", store, "--layer", 7).out.splitlines()[0].split()
    assert "example_id" in header
    assert "dataset" not in header
    words = ("--layer", 7, "--columns", "example_id, dataset")
    assert actstore("select", store, *words).out.splitlines()[0].split() == [
        "example_id",
        "dataset",
    ]


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_a_matrix(actstore: Command, store: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"x.{suffix}"
    finished = actstore("select", store, "row_id < 20", "-o", target)
    assert finished.err == f"20 rows written to {target}\n"
    read = load_file(target) if suffix == "safetensors" else np.load(target, allow_pickle=False)
    assert read["activation"].tobytes() == vectors(3).tobytes()


def test_several_values_of_one_option(actstore: Command, store: Path) -> None:
    words = ("--layer", 3, "--layer", 7, "--format", "csv", "--columns", "row_id")
    assert len(actstore("select", store, *words).out.splitlines()) == 41


def test_what_is_not_there_is_named_with_what_is(actstore: Command, store: Path) -> None:
    finished = actstore("select", store, "--layer", 4)
    assert finished.code == 1
    assert "3, 7" in finished.err


def test_a_file_that_is_no_matrix(actstore: Command, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.csv"
    assert actstore("select", store, "-o", target).code == 2
    assert actstore("select", store, "-o", target, "--format", "csv").code == 0
    assert len(target.read_text().splitlines()) == 41
