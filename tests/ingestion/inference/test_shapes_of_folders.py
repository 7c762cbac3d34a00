"""Every shape of a folder gives its own rows, with what was guessed shown and confirmed first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from actstore.errors import UsageError
from actstore.ingestion.folder import recipe_of
from actstore.ingestion.run import ingest
from tests.ingestion.storing import Row, stored_rows
from tests.layouts.drawing import WIDTH, draw
from tests.layouts.folders import SHAPES

MODEL = "org/model"


def place(row: Row) -> tuple[Any, ...]:
    layer, position = row.get("layer"), row.get("position")
    return (
        row["example_id"],
        -2 if layer is None else layer,
        row.get("site") or "",
        -1 if position is None else position,
        row.get("variant") or "",
        row.get("split") or "",
    )


def assert_rows(found: list[Row], expected: list[Row]) -> None:
    names = {name for row in expected for name in row} | {"site"}
    known = [{name: row[name] for name in names} for row in found]
    if not any("site" in row for row in expected):
        assert {row["site"] for row in known} == {"unknown"}
        for row in known:
            del row["site"]
    known.sort(key=place)
    expected = sorted(expected, key=place)
    assert len(known) == len(expected)
    for row, wanted in zip(known, expected, strict=True):
        vector = wanted["activation"]
        assert {n: row[n] for n in wanted if n != "activation"} == {
            n: v for n, v in wanted.items() if n != "activation"
        }
        assert row["activation"].dtype == vector.dtype
        assert row["activation"].tobytes() == vector.tobytes()


def bits(store: Path) -> list[Row]:
    """Every column of a store's rows but the run, vectors as bytes."""
    rows = stored_rows(store)
    for row in rows:
        row["activation"] = (str(row["activation"].dtype), row["activation"].tobytes())
        del row["run_id"]
    return rows


@pytest.mark.parametrize("name", SHAPES)
def test_a_folder_is_read_and_its_recipe_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    shape = SHAPES[name]
    expected = shape.write(folder)
    shown = ingest(folder, tmp_path / "none", model=MODEL, dry_run=True)
    assert shown.mapping is not None
    assert set(shown.mapping.guessed()) == shape.guessed
    assert shown.rows_written == len(expected)
    assert not shown.refused
    if shape.guessed:
        with pytest.raises(UsageError, match="--yes"):
            ingest(folder, tmp_path / "store", model=MODEL)
        assert not (tmp_path / "store").exists()
    summary = ingest(folder, tmp_path / "store", model=MODEL, yes=True)
    assert summary.recipe == "folder"
    assert_rows(stored_rows(tmp_path / "store"), expected)

    assert summary.report is not None
    report = json.loads((tmp_path / "store" / summary.report).read_text())
    assert report["mapping"]["confirmed_by"] == ("--yes" if shape.guessed else None)
    guessed = {
        f"{each['role']} = {each['place']}"
        for each in report["mapping"]["assignments"]
        if each["how"] == "guessed"
    }
    assert guessed == shape.guessed

    (tmp_path / "mine.toml").write_text(recipe_of(folder).recipe.text)
    again = ingest(folder, tmp_path / "again", model=MODEL, recipe=tmp_path / "mine.toml")
    assert again.mapping is not None
    assert not again.mapping.guesses  # a recipe is what the user says
    assert bits(tmp_path / "again") == bits(tmp_path / "store")


@pytest.mark.parametrize(
    ("tokens", "said"), [((4, 4), "4 long in all 2; it"), ((3, 5), "3 to 5 long; it")]
)
def test_a_guess_says_how_long_an_axis_is(
    tmp_path: Path, tokens: tuple[int, int], said: str
) -> None:
    for number, length in enumerate(tokens):
        torch.save(draw(length, WIDTH), tmp_path / f"prompt_{number}.pt")
    with pytest.raises(UsageError, match=rf"axis0 .*{said} could be"):
        ingest(tmp_path, tmp_path / "s", model=MODEL)
