"""Faithful/unfaithful files: three writers, their row order, what they leave out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from actstore.errors import UsageError
from actstore.ingestion.run import ingest
from tests.ingestion.storing import Row, assert_rows, round_trip, stored_rows
from tests.layouts import faithfulness as layout

MODEL = "org/model"
Write = Callable[..., list[Row]]
WRITERS: list[tuple[Write, str | None]] = [
    (layout.write_v1, None),
    (layout.write_v2, MODEL),
    (layout.write_test, MODEL),
]


@pytest.mark.parametrize(("write", "model"), WRITERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_round_trip(tmp_path: Path, write: Write, model: str | None, dtype: torch.dtype) -> None:
    expected = write(tmp_path / "project", dtype=dtype)
    summary = round_trip(tmp_path / "project", tmp_path / "store", expected, model=model)
    assert summary.recipe == "faithfulness"
    assert summary.detected
    assert summary.unmatched == ()


@pytest.mark.parametrize("inside", [".", "data", "data/activations"])
def test_source_may_lie_at_any_depth(tmp_path: Path, inside: str) -> None:
    expected = layout.write_v1(tmp_path / "project")
    project = tmp_path / "project"
    ingest(project / inside, tmp_path / "store", allow_parent=project)
    prefix = "" if inside == "." else f"{inside}/"
    for row in expected:
        row["source"] = row["source"].removeprefix(prefix)
    assert_rows(stored_rows(tmp_path / "store"), expected)


def test_pairs_without_a_response_move_later_rows_up(tmp_path: Path) -> None:
    # Beyond the caps as well, where being absent changes nothing.
    expected = layout.write_v1(
        tmp_path / "project",
        faithful=40,
        unfaithful=25,
        absent=("num_001", "num_005", "num_063"),
        without_q1=("num_009",),
    )
    assert len(expected) < 2 * (30 + 20)
    round_trip(tmp_path / "project", tmp_path / "store", expected)


def test_older_scores_have_one_correct_answer(tmp_path: Path) -> None:
    expected = layout.write_v1(tmp_path / "project", older_scorer=True)
    shutil.rmtree(tmp_path / "project/data/raw")
    round_trip(tmp_path / "project", tmp_path / "store", expected)


def test_files_written_without_limits_are_accepted_where_they_fit_exactly(tmp_path: Path) -> None:
    expected = layout.write_v1(
        tmp_path / "project", faithful=34, unfaithful=22, caps=(None, None), absent=("num_002",)
    )
    summary = round_trip(tmp_path / "project", tmp_path / "store", expected)
    assert any("without the writer's limits" in note for note in summary.notes)


@pytest.mark.parametrize("caps", [(10, 10), (30, 10), (None, 20), (29, 20)])
def test_a_row_count_that_no_rule_explains_is_refused(
    tmp_path: Path, caps: tuple[int | None, int | None]
) -> None:
    layout.write_v1(tmp_path / "project", faithful=40, unfaithful=25, caps=caps)
    summary = ingest(tmp_path / "project", tmp_path / "store")
    assert summary.rows_written == 0
    assert [refusal.path for refusal in summary.refused] == [
        "data/activations/layer_6_activations.pt",
        "data/activations/layer_12_activations.pt",
    ]
    for refusal in summary.refused:
        assert "30 faithful and 20 unfaithful (at most 30 and 20)" in refusal.reason
        assert "40 faithful and 25 unfaithful (no limit)" in refusal.reason


def test_later_writers_skip_pairs_without_a_score(tmp_path: Path) -> None:
    expected = layout.write_v2(tmp_path / "project", unscored=("num_003",))
    round_trip(tmp_path / "project", tmp_path / "store", expected, model=MODEL)


def test_each_writer_finds_its_own_tables(tmp_path: Path) -> None:
    project = tmp_path / "project"
    first = layout.write_v1(project)
    test = layout.write_test(project)
    ingest(project / "data/activations", tmp_path / "first", allow_parent=project)
    ingest(project / "data/test_activations", tmp_path / "test", model=MODEL, allow_parent=project)
    for rows, store in ((first, "first"), (test, "test")):
        for row in rows:
            row["source"] = Path(row["source"]).name
        assert_rows(stored_rows(tmp_path / store), rows)


def test_without_tables_rows_are_numbered_and_say_so(tmp_path: Path) -> None:
    expected = layout.write_v1(tmp_path / "project")
    shutil.copytree(tmp_path / "project/data/activations", tmp_path / "alone")
    summary = ingest(tmp_path / "alone", tmp_path / "store", model=MODEL)
    rows = stored_rows(tmp_path / "store")
    assert len(rows) == len(expected)
    assert [row["example_id"] for row in rows[:15]] == [
        *(f"faithful-{number:04d}" for number in range(14)),
        "unfaithful-0000",
    ]
    assert [row["example_index"] for row in rows[12:16]] == [12, 13, 0, 1]
    assert rows[0]["label"] == "faithful"
    assert rows[0]["question"] is None
    assert any("numbered" in note for note in summary.notes)
    for row, wanted in zip(rows, expected, strict=True):
        assert row["activation"].tobytes() == wanted["activation"].tobytes()


def test_scores_alone_give_pair_ids(tmp_path: Path) -> None:
    expected = layout.write_v1(tmp_path / "project")
    shutil.rmtree(tmp_path / "project/data/responses")
    summary = ingest(tmp_path / "project", tmp_path / "store", model=layout.MODEL)
    assert_rows(stored_rows(tmp_path / "store"), expected)
    assert any("no responses" in note for note in summary.notes)


def test_responses_alone_do_not_tell_the_order(tmp_path: Path) -> None:
    layout.write_v1(tmp_path / "project")
    shutil.rmtree(tmp_path / "project/data/processed")
    ingest(tmp_path / "project", tmp_path / "store", model=MODEL)
    assert stored_rows(tmp_path / "store")[0]["example_id"] == "faithful-0000"


def test_tables_may_be_named(tmp_path: Path) -> None:
    expected = layout.write_v2(tmp_path / "project")
    (tmp_path / "tables").mkdir()
    for name in ("processed/faithfulness_scores.csv", "responses/responses.jsonl"):
        moved = tmp_path / "project/data" / name
        moved.rename(tmp_path / "tables" / moved.name)
    sidecars = {
        "scores": tmp_path / "tables/faithfulness_scores.csv",
        "responses": tmp_path / "tables/responses.jsonl",
    }
    round_trip(tmp_path / "project", tmp_path / "store", expected, model=MODEL, sidecars=sidecars)


def test_scores_of_another_writer_are_refused(tmp_path: Path) -> None:
    layout.write_v2(tmp_path / "project")
    scores = tmp_path / "project/data/processed/faithfulness_scores.csv"
    scores.write_text(scores.read_text().replace("faithful,", "is_faithful,", 1))
    summary = ingest(tmp_path / "project", tmp_path / "store", model=MODEL)
    assert len(summary.refused) == 2
    assert "'faithful'" in summary.refused[0].reason


def test_saved_probes_are_refused_by_name_and_an_empty_table_passed_over(tmp_path: Path) -> None:
    expected = layout.write_v1(tmp_path / "project")
    layout.write_stray(tmp_path / "project")
    summary = ingest(tmp_path / "project", tmp_path / "store")
    assert_rows(stored_rows(tmp_path / "store"), expected)
    assert [refusal.path for refusal in summary.refused] == [
        "results/probe_results/all_probe_results.pt"
    ]
    assert "tests.layouts.faithfulness.SavedProbe" in summary.refused[0].reason
    assert summary.unmatched == ("faithfulness_scores.csv",)


def test_an_empty_table_is_as_good_as_none(tmp_path: Path) -> None:
    layout.write_v1(tmp_path / "project")
    layout.write_stray(tmp_path / "project")
    shutil.rmtree(tmp_path / "project/data/processed")
    summary = ingest(tmp_path / "project", tmp_path / "store", model=MODEL)
    assert stored_rows(tmp_path / "store")[0]["example_id"] == "faithful-0000"
    assert any("faithfulness_scores.csv is empty" in note for note in summary.notes)


def _tensors(rows: int = 3, width: int = 4) -> dict[str, Any]:
    return {
        name: layout.make_vectors(rows, width, dtype=torch.float16, seed=seed)
        for seed, name in enumerate(("faithful", "unfaithful"))
    }


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"layer": 7, "d_model": 4}, "layer 6"),
        ({"layer": 6, "d_model": 5}, "d_model 5"),
        ({"d_model": 4}, "known writers"),
        ({"unfaithful": torch.ones(3, 5)}, "unfaithful 5"),
        ({"faithful": torch.ones(3, 2, 4)}, "example, hidden"),
        ({"faithful": torch.ones(0, 4)}, "no values"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    (tmp_path / "source").mkdir()
    torch.save(_tensors(), tmp_path / "source/layer_12_activations.pt")
    torch.save({**_tensors(), **changed}, tmp_path / "source/layer_6_activations.pt")
    summary = ingest(tmp_path / "source", tmp_path / "store", model=MODEL)
    assert summary.files_read == 1
    assert [refusal.path for refusal in summary.refused] == ["layer_6_activations.pt"]
    assert named in summary.refused[0].reason


def test_everything_else_goes_to_extra(tmp_path: Path) -> None:
    layout.write_v1(tmp_path / "project", layers=(6,))
    ingest(tmp_path / "project", tmp_path / "store")
    extra = json.loads(stored_rows(tmp_path / "store")[3]["extra"])
    assert extra["row"] == 3
    assert extra["response"].endswith("</think>\n\n**Answer:** " + extra["scores"]["q1_answer"])
    assert extra["final_answer"].startswith("tep 2:")
    assert extra["think_section"] == "I compare …\n</think>"
    assert extra["generation_config"] == {"temperature": 0.6, "model": layout.MODEL}
    assert extra["scores"]["extraction_confidence"] == "0.95"
    assert extra["pair"] == {"difficulty": "easy", "metadata": {"type": "integer_comparison"}}


def test_what_the_user_fixes_holds(tmp_path: Path) -> None:
    layout.write_v1(tmp_path / "project", layers=(6,))
    ingest(
        tmp_path / "project",
        tmp_path / "store",
        model="mine/model",
        dataset="numbers",
        site="hook_resid_mid",
        first_k=2,
        map={"mode": "{path.layer}"},
    )
    rows = stored_rows(tmp_path / "store")
    assert [row["label"] for row in rows] == ["faithful"] * 2 + ["unfaithful"] * 2
    fixed = ("model", "dataset", "site", "layer", "mode")
    assert {tuple(row[name] for name in fixed) for row in rows} == {
        ("mine/model", "numbers", "resid_mid", 6, "6")
    }


def test_a_model_that_is_not_recorded_must_be_named(tmp_path: Path) -> None:
    layout.write_v2(tmp_path / "project")
    with pytest.raises(UsageError, match="--model"):
        ingest(tmp_path / "project", tmp_path / "store")
