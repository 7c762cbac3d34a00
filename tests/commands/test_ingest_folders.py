"""Folders of no known layout on the command line: shown, asked about, and written as a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from actstore.commands.ingest import NAMED
from actstore.ingestion.recipes import load
from actstore.storage.snapshot import open_snapshot
from tests.commands.conftest import Command
from tests.commands.terminal import on_a_terminal
from tests.layouts.folders import SHAPES

MODEL = ("--model", "org/model")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "acts"
    path.mkdir()
    SHAPES["tokens per layer"].write(path)
    document = torch.load(path / "prompt_0.pt")
    torch.save({**document, "logits": torch.ones(2, 20)}, path / "prompt_0.pt")
    return path


def test_a_dry_run_shows_the_mapping(actstore: Command, folder: Path, tmp_path: Path) -> None:
    finished = actstore("ingest", folder, "--store", tmp_path / "s", *MODEL, "--dry-run")
    assert finished.code == 0
    lines = [line.split() for line in finished.out.splitlines()]
    assert ["layer", "key1", "{…}", "guessed"] in [line[:4] for line in lines]
    assert ["example", "name", "{…}", "found"] in [line[:4] for line in lines]
    assert ["first", "row", "second", "row", "last", "row"] in lines
    assert "would store  18 rows from 3 files" in finished.out
    assert "left out: logits: [2, 20]" in finished.err
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("count", "more"), [(NAMED, []), (NAMED + 2, ["left out: 2 more"])])
def test_of_what_is_left_out_so_much_is_named(
    actstore: Command, tmp_path: Path, count: int, more: list[str]
) -> None:
    path = tmp_path / "acts" / "prompt_0.pt"
    path.parent.mkdir()
    letters = [chr(ord("a") + number) for number in range(count)]
    document = {f"logits_{letter}": torch.ones(2, 1) for letter in letters}
    torch.save({"L3": torch.ones(8), **document}, path)
    words = ("ingest", path.parent, "--store", tmp_path / "s", *MODEL, "--dry-run")
    told = [line for line in actstore(*words).err.splitlines() if line.startswith("left out: ")]
    assert len(told) == NAMED + len(more)
    assert told[NAMED:] == more


def test_a_dry_run_as_json(actstore: Command, folder: Path, tmp_path: Path) -> None:
    words = ("ingest", folder, "--store", tmp_path / "s", *MODEL, "--dry-run", "--json")
    summary = json.loads(actstore(*words).out)
    found = {
        (each["role"], each["place"], each["how"]) for each in summary["mapping"]["assignments"]
    }
    assert ("layer", "key1", "guessed") in found
    assert summary["mapping"]["confirmed_by"] is None
    assert [each["key"] for each in summary["mapping"]["left_out"]] == ["logits"]
    assert len(summary["sample_rows"]) == 3
    assert summary["rows_written"] == 18


def test_where_nobody_watches_a_guess_needs_a_yes(
    actstore: Command, folder: Path, tmp_path: Path
) -> None:
    finished = actstore("ingest", folder, "--store", tmp_path / "s", *MODEL)
    assert finished.code == 2
    assert "--yes" in finished.err
    assert len(finished.err.splitlines()) == 1
    assert not (tmp_path / "s").exists()
    assert actstore("ingest", folder, "--store", tmp_path / "s", *MODEL, "--yes").code == 0
    said = ("--layer-from", "key1", "--example-from", "name")
    assert actstore("ingest", folder, "--store", tmp_path / "t", *MODEL, *said).code == 0
    assert open_snapshot(tmp_path / "t").rows == open_snapshot(tmp_path / "s").rows == 18


def test_the_recipe_of_a_folder(actstore: Command, folder: Path, tmp_path: Path) -> None:
    finished = actstore("recipes", "--from", folder)
    assert finished.code == 0
    (tmp_path / "mine.toml").write_text(finished.out)
    assert load(tmp_path / "mine.toml").name == "folder"
    assert "# guessed: layer = key1" in finished.out
    assert "left out: logits" in finished.err
    told = json.loads(actstore("recipes", "--from", folder, "--json").out)
    assert told["text"] == finished.out
    assert told["mapping"]["files"] == ["{name}.pt"]
    said = actstore("recipes", "--from", folder, "--example-from", "axis0", "--layer-from", "key1")
    assert 'axes = [["example", "hidden"]]' in said.out
    assert "guessed" not in said.out


def test_the_recipe_of_a_folder_without_vectors(actstore: Command, tmp_path: Path) -> None:
    torch.save({"step": 1}, tmp_path / "state.pt")
    finished = actstore("recipes", "--from", tmp_path)
    assert finished.code == 1
    assert "state.pt: holds no vectors" in finished.err


@pytest.mark.parametrize(("answer", "code", "rows"), [("y\n", 0, 18), ("n\n", 2, None)])
def test_on_a_terminal_it_asks(
    folder: Path, tmp_path: Path, answer: str, code: int, rows: int | None
) -> None:
    words = ("ingest", folder, "--store", tmp_path / "s", *MODEL)
    found, shown = on_a_terminal(*words, answer=answer, NO_COLOR="1")
    assert found == code
    assert "Is that right? [y/N]" in shown
    assert "a number as key, 2 of them" in shown
    assert (tmp_path / "s").exists() == (rows is not None)
    if rows is not None:
        assert open_snapshot(tmp_path / "s").rows == rows
        (report,) = (tmp_path / "s" / "reports").iterdir()
        assert json.loads(report.read_text())["mapping"]["confirmed_by"] == "asked"
