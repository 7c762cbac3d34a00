"""Nothing outside of a source is read because a recipe or a link names it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest

from actstore.errors import PathError, RecipeError, UnreadableFileError, UsageError
from actstore.ingestion import containers, recipes
from actstore.ingestion.discovery import assign
from actstore.ingestion.gate import Gate
from actstore.ingestion.recipe import Recipe
from actstore.ingestion.run import ingest
from actstore.ingestion.sidecars import Sidecars
from actstore.ingestion.walking import walk
from tests.ingestion.storing import stored_rows

SECRET = "not-for-others"


def layout(path: str, constants: str = "") -> Recipe:
    return recipes.parse(
        f"""
name = "foreign"
container = "numpy"
[[files]]
path = "{{k}}.npz"
constants = {{ {constants} }}
[[tensors]]
key = "v"
axes = [["hidden"]]
[columns]
example_id = "{{path.k}}"
site = "s"
pooling = "last"
model = "m"
label = "{{sidecar.t.label}}"
[[sidecars]]
name = "t"
paths = [{json.dumps(path)}]
on = {{ id = "{{column.example_id}}" }}
"""
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """``home/project/source`` with one file, and tables at every height above it."""
    folder = tmp_path / "home/project/source"
    folder.mkdir(parents=True)
    np.savez(folder / "a.npz", v=np.ones(3, np.float32))
    for place in (folder.parent, folder.parent.parent, tmp_path):
        (place / "secret.jsonl").write_text(json.dumps({"id": "a", "label": SECRET}) + "\n")
    return folder


def labels(source: Path, recipe: Recipe, **options: Any) -> tuple[set[str | None], str]:
    """Ingest, and return the labels that were stored and all notes."""
    store = source.parents[2] / "store"
    summary = ingest(source, store, recipe=recipe, **options)
    assert not summary.refused
    return {row["label"] for row in stored_rows(store)}, "\n".join(summary.notes)


OUTWARD = [
    ("../secret.jsonl", ""),
    ("../../secret.jsonl", ""),
    ("x/../../secret.jsonl", ""),
    ("../../project/secret.jsonl", ""),
    ("../s*.jsonl", ""),
    ("../../*/secret.jsonl", ""),
    ("../SOURCE/../secret.jsonl", ""),
    ("secret.jsonl", ""),
    ("{path.up}/secret.jsonl", 'up = ".."'),
    ("{path.up}secret.jsonl", 'up = "../"'),
    ("{path.whole}", 'whole = "HOME/secret.jsonl"'),
    ("link.jsonl", ""),
    ("folder/secret.jsonl", ""),
    ("*.jsonl", ""),
    ("chain.jsonl", ""),
]


@pytest.mark.parametrize(("path", "constants"), OUTWARD)
def test_no_recipe_reaches_out(source: Path, path: str, constants: str) -> None:
    (source / "x").mkdir()
    (source / "link.jsonl").symlink_to("../secret.jsonl")
    (source / "chain.jsonl").symlink_to("link.jsonl")
    (source / "folder").symlink_to(source.parent)
    home = str(source.parents[1])
    found, notes = labels(source, layout(path, constants.replace("HOME", home)))
    assert found == {None}
    assert SECRET not in notes
    assert home not in notes


@pytest.mark.parametrize("path", ["../secret.jsonl", "secret.jsonl", "link.jsonl", "../s*.jsonl"])
def test_what_was_not_read_is_named_and_may_be_allowed(source: Path, path: str) -> None:
    (source / "link.jsonl").symlink_to(source.parent / "secret.jsonl")
    _, notes = labels(source, layout(path))
    assert "sidecar t: none was read" in notes
    assert "outside of the source" in notes
    assert "--allow-parent" in notes
    found, notes = labels(source, layout(path), allow_parent=source.parent, replace=True)
    assert found == {None}  # stored already, with no label: rows keep theirs
    assert "sidecar t: secret.jsonl" in notes or "sidecar t: link.jsonl" in notes


def test_allowing_one_folder_allows_no_other(source: Path) -> None:
    (source.parents[2] / "other").mkdir()
    found, _ = labels(source, layout("secret.jsonl"), allow_parent=source.parents[2] / "other")
    assert found == {None}


def test_an_allowed_folder_is_read(source: Path) -> None:
    (source.parents[2] / "other").mkdir()
    folders = [source.parents[2] / "other", source.parent]
    found, notes = labels(source, layout("secret.jsonl"), allow_parent=folders)
    assert found == {SECRET}
    assert "none was read" not in notes


def test_tables_in_the_source_are_read_by_any_way_that_stays_in_it(source: Path) -> None:
    (source / "deep").mkdir()
    (source / "deep/t.jsonl").write_text('{"id": "a", "label": "own"}\n')
    (source / "link.jsonl").symlink_to("deep/t.jsonl")
    for number, path in enumerate(("deep/../deep/t.jsonl", "link.jsonl", "deep/*.jsonl")):
        store = source.parents[2] / f"store{number}"
        ingest(source, store, recipe=layout(path))
        assert [row["label"] for row in stored_rows(store)] == ["own"]


def test_a_source_that_is_itself_a_link_is_bounded_by_what_it_leads_to(
    source: Path, tmp_path: Path
) -> None:
    (source / "t.jsonl").write_text('{"id": "a", "label": "own"}\n')
    (tmp_path / "way").symlink_to(source)
    for path, label in (("t.jsonl", "own"), ("../secret.jsonl", None)):
        store = tmp_path / f"store-{label}"
        ingest(tmp_path / "way", store, recipe=layout(path))
        assert [row["label"] for row in stored_rows(store)] == [label]


@pytest.mark.parametrize("path", ["/etc/passwd.jsonl", "~/secret.jsonl", "**/secret.jsonl"])
def test_what_no_recipe_may_write(path: str) -> None:
    with pytest.raises(RecipeError, match="a relative path"):
        layout(path)


@pytest.mark.parametrize(
    "path", ["$HOME/secret.jsonl", "file:///secret.jsonl", "s3://b/secret.jsonl", "a" * 300]
)
def test_names_are_names_and_nothing_else(
    source: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(source.parent))
    found, _ = labels(source, layout(path))
    assert found == {None}


def test_the_question_names_what_the_search_found_and_nothing_else(source: Path) -> None:
    asked: list[list[Path]] = []

    def answer(found: Sequence[Path]) -> bool:
        asked.append(list(found))
        return True

    found, _ = labels(source, layout("secret.jsonl"), confirm_parent=answer)
    assert asked == [[source.parent / "secret.jsonl"]]  # the nearest of three
    assert found == {SECRET}
    asked.clear()
    (source / "link.jsonl").symlink_to("../secret.jsonl")
    for path in ("../secret.jsonl", "link.jsonl"):
        ingest(source, source.parents[2] / path[-6:], recipe=layout(path), confirm_parent=answer)
    assert asked == []


def test_no_is_an_answer_and_yes_is_none(source: Path) -> None:
    found, _ = labels(source, layout("secret.jsonl"), confirm_parent=lambda _: False, yes=True)
    assert found == {None}


def test_what_is_allowed_must_be_a_folder(source: Path) -> None:
    for wrong in (source / "a.npz", source / "nowhere"):
        with pytest.raises(UsageError, match="--allow-parent"):
            Gate.allowing(wrong)


def test_a_required_table_that_lies_outside_says_how_it_may_be_read(source: Path) -> None:
    recipe = recipes.parse(layout("secret.jsonl").text + "required = true\n")
    summary = ingest(source, source.parents[2] / "store", recipe=recipe)
    (refused,) = summary.refused
    assert "../secret.jsonl" in refused.reason
    assert "--allow-parent" in refused.reason


def test_a_file_beside_must_lie_in_the_source_to_decide_anything(source: Path) -> None:
    recipe = recipes.parse(
        layout("t.jsonl").text.replace(
            'path = "{k}.npz"', 'path = "{k}.npz"\nbeside = "../secret.jsonl"'
        )
    )
    with pytest.raises(RecipeError, match="no file fits"):
        ingest(source, source.parents[2] / "store", recipe=recipe)


def test_a_folder_that_is_one_file_holds_no_link_out_of_its_source(tmp_path: Path) -> None:
    table = pa.table({"v": [[1.0, 2.0]]})
    outside, inside = tmp_path / "outside.arrow", tmp_path / "source/set"
    inside.mkdir(parents=True)
    with pa.OSFile(str(outside), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    (inside / "data.arrow").symlink_to(outside)
    (inside / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    with pytest.raises(UnreadableFileError, match=r"data\.arrow, that leads out of the source"):
        containers.read("huggingface", inside, within=tmp_path / "source")
    assert containers.read("huggingface", inside, within=tmp_path).schema.names == ["v"]
    os.mkfifo(inside / "pipe")
    with pytest.raises(UnreadableFileError, match="FIFO"):
        containers.read("huggingface", inside, within=tmp_path)


def test_a_file_that_became_a_link_after_it_was_listed_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    np.save(tmp_path / "outside.npy", np.ones(3, np.float32))
    (tmp_path / "source/a.npy").symlink_to(tmp_path / "outside.npy")
    with pytest.raises(UnreadableFileError, match="is a link that leads out of the source"):
        containers.read("numpy", tmp_path / "source/a.npy", within=tmp_path / "source")


def test_logs_below_a_folder_are_not_read_through_links(tmp_path: Path) -> None:
    folder = tmp_path / "source/results"
    folder.mkdir(parents=True)
    (tmp_path / "log.json").write_text("{}")
    (folder / "log.json").symlink_to(tmp_path / "log.json")
    (tmp_path / "source/a.npz").write_bytes(b"x")
    recipe = layout("t.jsonl")
    files, _ = assign(recipe, walk([tmp_path / "source"]))
    with pytest.raises(PathError, match="leads out of the folders"):
        Sidecars(recipe).document("t", folder / "log.json", files[0])
