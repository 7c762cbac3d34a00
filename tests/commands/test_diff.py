"""`actstore diff`: what it tells, and its exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from actstore.commands.exit_codes import Exit
from tests.commands.conftest import Command
from tests.commands.terminal import on_a_terminal
from tests.querying import stores


def test_equal_stores(actstore: Command, store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "copy.store")
    done = actstore("diff", store, tmp_path / "copy.store")
    assert done.code == Exit.DONE
    assert done.out == "equal: 40 rows with the same vectors and labels\n"


def test_a_bar_shows_how_far_it_is(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "copy.store")
    code, shown = on_a_terminal("diff", store, tmp_path / "copy.store")
    assert code == Exit.DONE
    bar, _, told = shown.partition("equal: ")
    assert "640/640 bytes" in bar
    assert " 40 rows, " in bar
    assert told.startswith("40 rows")


def test_labels_of_two_commits(actstore: Command, store: Path) -> None:
    words = ("--set", "'doubtful'", "--where", "example_id = 'e0'")
    assert actstore("label", store, *words).code == 0
    done = actstore("diff", store, store, "--at-a", 1)
    assert done.code == Exit.DIFFERENT
    assert "label faithful in A, doubtful in B" in done.out
    document = json.loads(actstore("diff", store, store, "--at-a", 1, "--json").out)
    assert document["equal"] is False
    assert [one["columns"] for one in document["partitions"]] == [{"label": 1}, {"label": 1}]


def test_rows_and_vectors(actstore: Command, tmp_path: Path) -> None:
    a = stores.vectors(30, 4, "float32", 0)
    b = a.copy()
    b[3] += 1
    stores.add(tmp_path / "a", a, label=["x"] * 30)
    stores.add(tmp_path / "b", b[:12], label=["x"] * 12, task=["maze"] * 12)
    done = actstore("diff", tmp_path / "a", tmp_path / "b")
    assert done.code == Exit.DIFFERENT
    assert "… and 8 more" in done.out  # of the 18 rows that only A has
    assert "vectors that differ most:" in done.out
    assert "max abs 1, relative" in done.out


def test_a_value_that_is_no_number_is_json_all_the_same(actstore: Command, tmp_path: Path) -> None:
    a = stores.vectors(3, 4, "float32", 0)
    b = a.copy()
    b[1, 1] = np.nan
    stores.add(tmp_path / "a", a)
    stores.add(tmp_path / "b", b)
    document = json.loads(actstore("diff", tmp_path / "a", tmp_path / "b", "--json").out)
    assert document["vectors"][0]["max_abs"] == "NaN"


def test_two_commits_of_one_store_and_a_summary_of_labels(actstore: Command, store: Path) -> None:
    rest = "CASE WHEN example_id IN ('e0', 'e1') THEN 'doubtful' WHEN layer = 3 THEN label END"
    assert actstore("label", store, "--set", rest).code == 0
    done = actstore("diff", store, "--at-a", 1)
    assert done.code == Exit.DIFFERENT
    at = done.out.index("labels that differ:")
    lines = [line.strip() for line in done.out[at:].splitlines()[1:5]]
    assert set(lines) == {
        "faithful -> (none)  9",
        "unfaithful -> (none)  9",
        "faithful -> doubtful  2",
        "unfaithful -> doubtful  2",
    }
    document = json.loads(actstore("diff", store, "--at-a", 1, "--at-b", 2, "--json").out)
    assert sum(each["rows"] for each in document["labels"]) == 22
    back = json.loads(actstore("diff", store, "--at-b", 1, "--json").out)
    swapped = {(each["b"], each["a"], each["rows"]) for each in back["labels"]}
    assert swapped == {(each["a"], each["b"], each["rows"]) for each in document["labels"]}
    for words in ((), ("--at-a", 1, "--at-b", 1)):
        refused = actstore("diff", store, *words)
        assert refused.code == 2
        assert "--at-a and --at-b" in refused.err
