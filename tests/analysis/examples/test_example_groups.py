"""Rows that share an example or a question are on one side: components, held against a search."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import actstore
from actstore import schema
from actstore.analysis.examples import example_groups
from actstore.errors import NotInStoreError, SqlError
from tests.analysis import labelled


def table(rows: list[dict[str, Any]]) -> pa.Table:
    typed = schema.metadata_schema()
    return pa.table(
        {
            name: pa.array([row.get(name) for row in rows], typed.field(name).type)
            for name in example_groups.COLUMNS
        }
    )


def searched(rows: list[dict[str, Any]]) -> list[int]:
    """Return components found by walking from row to row."""
    found = [-1] * len(rows)
    count = 0
    for start in range(len(rows)):
        if found[start] >= 0:
            continue
        waiting = [start]
        while waiting:
            at = waiting.pop()
            found[at] = count
            for other, row in enumerate(rows):
                names = ("dataset", "split", "example_id")
                same = all(row.get(name) == rows[at].get(name) for name in names)
                asked = bool(row["question"]) and row["question"] == rows[at]["question"]
                if found[other] < 0 and (same or asked):
                    waiting.append(other)
        count += 1
    return found


def test_of_no_rows_there_are_no_components() -> None:
    nothing = np.zeros(0, np.int64)
    assert example_groups.connected(nothing, nothing).tolist() == []


@pytest.mark.parametrize("seed", range(12))
def test_groups_are_the_connected_components(seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = [
        {
            "dataset": [None, "a", "b"][draw.integers(3)],
            "example_id": f"e{draw.integers(20)}",
            "split": [None, "train"][draw.integers(2)],
            "question": f"q{draw.integers(30)}"
            if draw.random() < 0.8
            else (None, "")[int(draw.integers(2))],
            "variant": f"v{number}",
        }
        for number in range(40)
    ]
    found = example_groups.of_table(table(rows))
    assert found.groups.tolist() == searched(rows)
    assert found.count == max(searched(rows)) + 1
    assert found.grouped_by == "example_id or question"


def test_a_long_chain_is_one_group() -> None:
    count = 20_000
    draw = np.random.default_rng(0)
    links = np.repeat(np.arange(count), 2)
    examples, questions = links[1:-1], links[:-2]
    order = draw.permutation(len(examples))
    groups = example_groups.connected(examples[order], questions[order])
    assert groups.max() == 0


def test_a_pair_of_phrasings_stays_together_and_equal_ids_of_other_sets_do_not() -> None:
    rows: list[dict[str, Any]] = [
        {"dataset": "a", "example_id": "0", "question": "first?", "variant": "q1"},
        {"dataset": "a", "example_id": "0", "question": "second?", "variant": "q2"},
        {"dataset": "b", "example_id": "0", "question": "third?"},
        {"dataset": "b", "example_id": "1", "question": None},
    ]
    assert example_groups.of_table(table(rows)).groups.tolist() == [0, 0, 1, 2]


def test_one_question_for_all_connects_nothing() -> None:
    rows: list[dict[str, Any]] = [{"example_id": str(n), "question": "Describe."} for n in range(3)]
    notes: list[str] = []
    found = example_groups.of_table(table(rows), notes=notes)
    assert (found.count, found.grouped_by) == (3, "example_id")
    assert "one question" in notes[0]
    # A row that is of no class may have another question: that changes nothing.
    rows.append({"example_id": "9", "question": "Other?"})
    assert example_groups.of_table(table(rows), used=np.array([True] * 3 + [False])).count == 4
    assert example_groups.of_table(table(rows)).count == 2


def test_units_are_examples_versions_and_tokens() -> None:
    rows: list[dict[str, Any]] = [
        {"example_id": "a", "variant": "q1", "position": 0},
        {"example_id": "a", "variant": "q1", "position": 1},
        {"example_id": "a", "variant": "q2", "position": 0},
        {"example_id": "b", "variant": "q1", "position": 0},
    ]
    units = example_groups.of_table(table([row | {"question": None} for row in rows])).units
    assert units[:, 0].tolist() == [0, 0, 0, 1]
    assert [len(np.unique(units[:, level])) for level in range(3)] == [2, 3, 4]


def test_rows_without_a_group_go_with_their_examples_other_rows() -> None:
    """The field was recorded for one mode only: the other mode's row knows the same answer."""
    rows = [
        {"example_id": example, "mode": mode, "question": None}
        for mode in ("tqa", "vqa")
        for example in ("a", "b", "c", "d")
    ]
    given = np.array(["1", "1", "2", None, None, None, None, None], object)
    found = example_groups.of_table(table(rows), "extra.pair", given)
    assert found.groups.tolist() == [0, 0, 1, 2, 0, 0, 1, 2]
    given = np.array(["1", "2", "3", None, "1", "1", "1", None], object)
    apart = example_groups.of_table(table(rows), "extra.pair", given)
    assert apart.groups.tolist() == [0, 1, 2, 3, 0, 0, 0, 3]  # as it was named


def test_groups_by_column_field_or_expression(tmp_path: Path) -> None:
    labelled.add(
        tmp_path / "s",
        np.ones((6, 3), np.float16),
        ["yes", "no"] * 3,
        task=["x", "x", "y", "y", None, None],
        extra=[
            *('{"city": "Rome", "at": {"km": 1.5}}', '{"city": "Rome"}', '{"city": 5}'),
            *('{"city": null}', None, '{"city": [1, 2]}'),
        ],
    )
    with actstore.open(tmp_path / "s") as store:
        rows = store.select()

        def groups(by: str) -> list[int]:
            found = example_groups.groups_of(rows, by)
            assert found.grouped_by == by
            return [int(group) for group in found.groups]

        assert groups("task") == [0, 0, 1, 1, 2, 3]
        assert groups("extra.city") == [0, 0, 1, 2, 3, 4]
        assert groups("extra.at.km") == [0, 1, 2, 3, 4, 5]
        assert groups("row_id % 2") == [0, 1, 0, 1, 0, 1]
        assert groups("CASE WHEN task = 'x' THEN 1 END -- others alone") == [0, 0, 1, 2, 3, 4]
        assert groups("extra->>'city'") == [0, 0, 1, 2, 3, 4]
        assert groups("row_id") == list(range(6))
        assert groups("example_id") == list(range(6))
        some = rows.take(np.array([5, 0, 1]))
        assert example_groups.groups_of(some, "upper(task)").groups.tolist() == [0, 1, 1]
        for wrong, error, message in (
            ("city", NotInStoreError, "write extra.city"),
            ("extra.town", NotInStoreError, r"no column extra\.town.*extra\.city"),
            ("tsak", NotInStoreError, "did you mean task"),
            ("count(*)", SqlError, "'count.*gives no value for each row .*name a column"),
            ("lower(", SqlError, "'lower.*gives no value for each row .*name a column"),
            ("random()", SqlError, "gives other values each time"),
            ("task) FROM activations --", SqlError, "."),
            ("task, label", SqlError, "."),
            ("unnest([1, 2])", SqlError, "12 values for 6 rows|UNNEST"),
            ("(SELECT 1 FROM read_csv('/etc/passwd'))", SqlError, "SQL may read the store"),
            (" ", SqlError, "empty"),
        ):
            with pytest.raises(error, match=message):
                example_groups.groups_of(rows, wrong)


def test_rows_of_two_stores_are_grouped_together(tmp_path: Path) -> None:
    for name, questions in (("a", ["p", "q", "r"]), ("b", ["q", "s", "t"])):
        labelled.add(
            tmp_path / name,
            np.ones((3, 3), np.float16),
            ["yes", "no", "no"],
            questions=questions,
            dataset=[name] * 3,
        )
    with actstore.open(tmp_path / "a") as one, actstore.open(tmp_path / "b") as other:
        found = example_groups.groups_of([one.select(), other.select()])
        assert found.groups.tolist() == [0, 1, 2, 1, 3, 4]
        assert found.part(slice(3, None)).groups.tolist() == [1, 3, 4]


def test_unnamed_examples_of_two_stores_are_the_same_where_run_or_silence_says_so(
    tmp_path: Path,
) -> None:
    draw = np.random.default_rng(0)
    for name, asked in (("one", "one?"), ("other", "other?"), ("silent", None)):
        labelled.add(
            tmp_path / name,
            draw.standard_normal((4, 3)).astype(np.float32),
            ["yes", "no"] * 2,
            questions=[f"{number} {asked}" if asked else None for number in range(4)],
            dataset=[None] * 4,
            run=f"run of {name}",
        )
    with (
        actstore.open(tmp_path / "one") as one,
        actstore.open(tmp_path / "other") as other,
        actstore.open(tmp_path / "silent") as silent,
    ):
        rows = one.select()
        assert example_groups.groups_of([rows, other.select()]).count == 8
        assert example_groups.groups_of([rows, rows]).count == 4
        assert example_groups.groups_of([rows, silent.select()]).count == 4
