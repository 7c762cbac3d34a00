"""Tables of several folders or files: each is joined to the files that it belongs to, no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from actstore.errors import UsageError
from actstore.ingestion.folder import recipe_of
from actstore.ingestion.run import ingest
from tests.ingestion.storing import stored_rows
from tests.layouts.drawing import WIDTH, draw

MODEL = "org/model"
ROWS: dict[str, int] = {"a": 4, "b": 6}


def write_table(path: Path, name: str, rows: int, ids: list[str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{ids[at] if ids else at},{name}{at}\n" for at in range(rows)]
    path.write_text("file,label\n" + "".join(lines))


def write_acts(path: Path, *shape: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"layer_3": draw(*shape, WIDTH)}, path)


def labels(store: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in stored_rows(store):
        found.setdefault(row["source"].partition("#")[0], []).append(row["label"])
    return found


def numbered(name: str, rows: int) -> list[str]:
    return [f"{name}{at}" for at in range(rows)]


@pytest.mark.parametrize(
    ("acts", "table"),
    [
        ("{}/acts.pt", "{}/labels.csv"),
        ("{}/acts.pt", "{}/{}_rows.csv"),
        ("{}/acts.pt", "tables/{}.csv"),
        ("{}/acts.pt", "{}.csv"),
        ("{}/deep/acts.pt", "{}/labels.csv"),
        ("x/{}/acts.pt", "x/{}/labels.csv"),
        ("{}.pt", "{}.csv"),
        ("{}.pt", "labels_{}.csv"),
        ("acts/{}.pt", "labels/{}.csv"),
        ("{}_acts.pt", "{}_labels.csv"),
        ("run-3.{}.acts.pt", "run-3.{}.csv"),
        ("acts/{}[1]{{x}}.pt", "acts/{}[1]{{x}}.csv"),
        ("acts/{}/layer_3.pt", "acts/{}/layer[3].csv"),
    ],
)
@pytest.mark.parametrize("axis", [None, "axis0"])
@pytest.mark.parametrize("same", [False, True])
def test_the_table_of_each_is_joined_by_its_rows(
    tmp_path: Path, acts: str, table: str, axis: str | None, same: bool
) -> None:
    expected = {}
    for name, rows in ROWS.items():
        rows = 4 if same else rows
        write_acts(tmp_path / "in" / acts.format(name), rows)
        write_table(tmp_path / "in" / table.format(name, name), name, rows)
        expected[acts.format(name)] = numbered(name, rows)
    summary = ingest(
        tmp_path / "in", tmp_path / "s", model=MODEL, example_from=axis, yes=same and axis is None
    )
    assert labels(tmp_path / "s") == expected
    assert (summary.refused, summary.unmatched) == ((), ())


def test_what_could_be_tokens_of_one_length_needs_a_yes(tmp_path: Path) -> None:
    for name in ROWS:
        write_acts(tmp_path / name / "acts.pt", 4)
        write_table(tmp_path / name / "labels.csv", name, 4)
    with pytest.raises(UsageError, match=r"example = axis0 \(as long as the table of each, all"):
        ingest(tmp_path, tmp_path / "s", model=MODEL)


def test_a_folder_without_a_table_has_none(tmp_path: Path) -> None:
    for name in "ab":
        write_acts(tmp_path / "in" / name / "acts.pt", 4)
    write_table(tmp_path / "in" / "a" / "labels.csv", "a", 4)
    ingest(tmp_path / "in", tmp_path / "s", model=MODEL, example_from="axis0")
    assert labels(tmp_path / "s") == {"a/acts.pt": numbered("a", 4), "b/acts.pt": [None] * 4}


@pytest.mark.parametrize("by", ["names", "numbers"])
def test_the_table_of_each_folder_is_joined_by_the_files(tmp_path: Path, by: str) -> None:
    expected = {}
    for name in "ab":
        for at in range(3):
            write_acts(tmp_path / "in" / name / f"p{at}.pt")
            expected[f"{name}/p{at}.pt"] = [f"{name}{at}"]
        ids = [f"p{at}" for at in range(3)] if by == "names" else None
        write_table(tmp_path / "in" / name / "labels.csv", name, 3, ids)
    ingest(tmp_path / "in", tmp_path / "s", model=MODEL, yes=by == "numbers")
    assert labels(tmp_path / "s") == expected


def test_the_table_of_each_is_joined_by_keys_and_by_entries(tmp_path: Path) -> None:
    for name, rows in ROWS.items():
        keys = {f"ex_{at}": draw(WIDTH) for at in range(rows)}
        entries = [{"text": f"{name}{at}", "layer_3": draw(WIDTH)} for at in range(rows)]
        for kind, document in {"keys": keys, "entries": entries}.items():
            path = tmp_path / kind / f"{name}.pt"
            path.parent.mkdir(exist_ok=True)
            torch.save(document, path)
            write_table(tmp_path / kind / f"{name}.csv", name, rows)
    for kind in ("keys", "entries"):
        ingest(tmp_path / kind, tmp_path / f"{kind}.s", model=MODEL, yes=True)
        found = labels(tmp_path / f"{kind}.s")
        assert found == {f"{name}.pt": numbered(name, rows) for name, rows in ROWS.items()}


def test_a_table_as_long_as_one_of_two_files_is_not_joined(tmp_path: Path) -> None:
    for name, rows in ROWS.items():
        write_acts(tmp_path / "in" / f"{name}.pt", rows)
    write_table(tmp_path / "in" / "labels.csv", "x", 4)
    inferred = recipe_of(tmp_path / "in", example_from="axis0")
    assert inferred.recipe.sidecars == ()
    assert inferred.mapping.left_out[0][0] == "labels.csv"


def test_one_table_for_each_of_several_files_is_a_guess(tmp_path: Path) -> None:
    for at in range(2):
        write_acts(tmp_path / f"batch_{at}.pt", 4)
    write_table(tmp_path / "labels.csv", "x", 4)
    with pytest.raises(UsageError, match=r"table = labels.csv .* could be those of one file"):
        ingest(tmp_path, tmp_path / "s", model=MODEL, example_from="axis0")


def test_a_table_that_cannot_be_read_is_named_with_its_reason(tmp_path: Path) -> None:
    write_acts(tmp_path / "in" / "acts.pt", 2)
    (tmp_path / "in" / "labels.csv").write_text("label,prompt\nx,one, or two\ny,three\n")
    (tmp_path / "in" / "config.json").write_text("{")
    summary = ingest(tmp_path / "in", tmp_path / "s", model=MODEL, yes=True)
    (note,) = [note for note in summary.notes if "labels.csv" in note]
    assert "labels.csv was not read as a table: line 2 has 3 values for 2 columns" in note
    assert not any("config.json" in note for note in summary.notes)


def test_a_file_that_was_not_looked_into_is_held_against_its_own_table(tmp_path: Path) -> None:
    for at in range(40):
        name = f"f{at:02d}"
        write_acts(tmp_path / "in" / name / "acts.pt", 5 if at == 3 else 4)
        write_table(tmp_path / "in" / name / "labels.csv", name, 4)
    summary = ingest(tmp_path / "in", tmp_path / "s", model=MODEL, example_from="axis0")
    (refused,) = summary.refused
    assert refused.path == "f03/acts.pt"
    assert "labels.csv has 4 rows for 5 examples" in refused.reason
    assert labels(tmp_path / "s")["f39/acts.pt"] == numbered("f39", 4)


def test_of_several_tables_none_is_joined_to_all_of_several_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_acts(tmp_path / "in" / f"{name}.pt", 4)
    for name in ("first", "second"):
        write_table(tmp_path / "in" / f"{name}.csv", name, 4)
    ingest(tmp_path / "in", tmp_path / "s", model=MODEL, example_from="axis0")
    assert labels(tmp_path / "s") == {"one.pt": [None] * 4, "two.pt": [None] * 4}
