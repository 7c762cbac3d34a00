"""Hook pickles: odd names, one token or many, verdicts from the result logs."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actstore.ingestion.run import ingest
from tests.ingestion.storing import Row, assert_rows, round_trip, stored_rows
from tests.layouts import hook_pickle as layout


@pytest.mark.parametrize(
    ("write", "options"),
    [
        (layout.write_decoded, {}),
        (layout.write_decoded, {"embeddings": False, "layers": (5, 27)}),
        (layout.write_decoded, {"dtype": torch.bfloat16}),
        (layout.write_full_sequence, {}),
        (layout.write_full_sequence, {"generated": 3}),
        (layout.write_direct, {}),
        (layout.write_torch, {}),
    ],
)
def test_round_trip(
    tmp_path: Path, write: Callable[..., list[Row]], options: dict[str, Any]
) -> None:
    expected = write(tmp_path / "activations", **options)
    summary = round_trip(tmp_path / "activations", tmp_path / "store", expected)
    assert summary.recipe == "hook-pickle"
    assert summary.detected
    assert summary.models == (layout.MODEL,)


def test_names_hold_blanks_line_ends_and_accents(tmp_path: Path) -> None:
    expected = layout.write_decoded(tmp_path / "activations")
    names = " ".join(os.listdir(tmp_path / "activations"))
    assert "\n" in names
    assert "é" in names
    round_trip(tmp_path / "activations", tmp_path / "store", expected)


def test_questions_in_the_logs_were_answered_correctly(tmp_path: Path) -> None:
    project = tmp_path / "project"
    expected = layout.write_decoded(project / "activations")
    layout.write_results(project, layout.QUESTIONS[:2])
    for row in expected:
        known = row["question"] in layout.QUESTIONS[:2]
        row["label"] = "correct" if known else "incorrect"
        row["source"] = f"activations/{row['source']}"
    summary = round_trip(project, tmp_path / "store", expected)
    assert summary.unmatched == ()
    rows = {row["question"]: row for row in stored_rows(tmp_path / "store")}
    logs = json.loads(rows[layout.QUESTIONS[1]]["extra"])["logs"]
    assert {log["category"] for log in logs} == {"initial", "edited_with_error"}
    assert logs[0]["benchmark"] == "mmlu"
    assert logs[0]["trial"] == "1"
    assert rows[layout.QUESTIONS[0]]["oracle"] is None  # no file holds the gold answer


def test_logs_may_lie_beside_or_be_named(tmp_path: Path) -> None:
    layout.write_decoded(tmp_path / "here/activations")
    layout.write_results(tmp_path / "elsewhere", layout.QUESTIONS[:1])
    ingest(tmp_path / "here/activations", tmp_path / "without")
    assert {row["label"] for row in stored_rows(tmp_path / "without")} == {None}
    logs = tmp_path / "elsewhere/results"
    ingest(tmp_path / "here/activations", tmp_path / "named", sidecars={"results": logs})
    found = {(row["question"], row["label"]) for row in stored_rows(tmp_path / "named")}
    assert found == {
        (question, "correct" if question == layout.QUESTIONS[0] else "incorrect")
        for question in layout.QUESTIONS
    }


def test_logs_of_another_model_say_nothing(tmp_path: Path) -> None:
    layout.write_decoded(tmp_path / "activations")
    layout.write_results(tmp_path, layout.QUESTIONS, model="meta-llama/Llama-3.1-8B-Instruct")
    ingest(tmp_path / "activations", tmp_path / "store")
    assert {row["label"] for row in stored_rows(tmp_path / "store")} == {None}


def test_a_results_folder_of_something_else_says_nothing(tmp_path: Path) -> None:
    layout.write_decoded(tmp_path / "activations")
    (tmp_path / "results/plots").mkdir(parents=True)
    (tmp_path / "results/plots/settings.json").write_text("{")
    summary = ingest(tmp_path / "activations", tmp_path / "store")
    assert summary.refused == ()
    assert {row["label"] for row in stored_rows(tmp_path / "store")} == {None}


@pytest.mark.parametrize("pool", ["last", "first", "mean", "max"])
@pytest.mark.parametrize(("generated", "region"), [(0, "prompt"), (2, "all")])
def test_sequences_may_be_pooled(tmp_path: Path, pool: Any, generated: int, region: str) -> None:
    tokens = layout.write_full_sequence(tmp_path / "source", generated=generated)
    ingest(tmp_path / "source", tmp_path / "store", pool=pool)
    rows = stored_rows(tmp_path / "store")
    assert [row["layer"] for row in rows] == [-1, 0, 1, 2]
    for row in rows:
        assert (row["pooling"], row["region"], row["position"]) == (pool, region, None)
        assert row["token_count"] == 5 + generated
        whole = np.stack([t["activation"] for t in tokens if t["layer"] == row["layer"]])
        wanted = {
            "last": whole[-1],
            "first": whole[0],
            "mean": whole.mean(axis=0, dtype=np.float32),
            "max": whole.max(axis=0),
        }[pool]
        assert row["activation"].tobytes() == wanted.tobytes()


def test_the_same_question_at_two_times_is_two_examples(tmp_path: Path) -> None:
    first = layout.write_decoded(tmp_path / "activations", questions=layout.QUESTIONS[:1])
    second = layout.write_decoded(
        tmp_path / "activations",
        questions=layout.QUESTIONS[:1],
        started=datetime(2025, 9, 10, 7, 0, 0, 1),
        seed=3,
    )
    round_trip(tmp_path / "activations", tmp_path / "store", first + second)
    ids = {row["example_id"] for row in stored_rows(tmp_path / "store")}
    assert len(ids) == 2


def test_several_folders_become_data_sets(tmp_path: Path) -> None:
    # Direct calls use any name: without the folder the two would be one example.
    layout.write_direct(tmp_path / "source/mmlu")
    layout.write_full_sequence(tmp_path / "source/bbh", name="my_activations.pkl")
    summary = ingest(tmp_path / "source", tmp_path / "store")
    assert summary.refused == ()
    assert summary.datasets == {"bbh": 20, "mmlu": 3}


def test_timestamps_become_utc(tmp_path: Path) -> None:
    layout.write_direct(tmp_path / "source")
    path = tmp_path / "source/my_activations.pkl"
    document = pickle.loads(path.read_bytes())
    for number, stamp in enumerate(("2025-09-09T22:23:33+02:00", "yesterday", None)):
        path.with_name(f"{number}.pkl").write_bytes(pickle.dumps({**document, "timestamp": stamp}))
    summary = ingest(tmp_path / "source", tmp_path / "store")
    moments = {row["example_id"]: row["captured_at"] for row in stored_rows(tmp_path / "store")}
    assert moments == {
        "0": "2025-09-09T20:23:33Z",
        "1": None,
        "2": None,
        "my_activations": "2025-09-10T09:00:00.250000Z",
    }
    assert any("no time zone" in note for note in summary.notes)


def test_what_no_column_takes_goes_to_extra(tmp_path: Path) -> None:
    layout.write_decoded(tmp_path / "source", questions=layout.QUESTIONS[:1])
    ingest(tmp_path / "source", tmp_path / "store")
    extra = json.loads(stored_rows(tmp_path / "store")[0]["extra"])
    assert extra["prompt"] == f"{layout.PREAMBLE}Question:\n{layout.QUESTIONS[0]}\n"
    assert extra["final_answer"] == "B"
    assert extra["timestamp"] == "2025-09-09T20:23:42.105000"
    assert extra["input_ids"] == [[128000, 128001, 128002, 128003, 128004]]


def test_other_pickles_are_unmatched_and_unsafe_ones_refused(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    expected = layout.write_decoded(folder)
    (folder / "settings.pkl").write_bytes(pickle.dumps({"temperature": 0.7}))
    torch.save(torch.ones(3), folder / "vector.pt")
    (folder / "empty.pkl").touch()
    (folder / "evil.pkl").write_bytes(pickle.dumps(_Evil()))
    (folder / "plot.png").write_bytes(b"png")
    summary = ingest(folder, tmp_path / "store")
    assert_rows(stored_rows(tmp_path / "store"), expected)
    assert sorted(summary.unmatched) == ["plot.png", "settings.pkl", "vector.pt"]
    reasons = {refusal.path: refusal.reason for refusal in summary.refused}
    assert set(reasons) == {"empty.pkl", "evil.pkl"}
    assert "empty" in reasons["empty.pkl"]
    assert "posix.getcwd" in reasons["evil.pkl"]


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.getcwd, ()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"activations": {}}, "dictionary of tensors"),
        ({"activations": {"layer_0": [1.0]}}, "dictionary of tensors"),
        ({"prompt": None}, "'prompt'"),
        ({"activations": {"layer_0": torch.ones(1, 2, 4), "layer_1": torch.ones(1, 1, 4)}}, "1 1"),
        ({"activations": {"layer_0": torch.ones(2, 2, 4)}}, "batch axis"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    layout.write_direct(tmp_path / "source")
    path = tmp_path / "source/my_activations.pkl"
    document = pickle.loads(path.read_bytes())
    path.with_name("bad.pkl").write_bytes(pickle.dumps({**document, **change}))
    summary = ingest(tmp_path / "source", tmp_path / "store")
    assert [refusal.path for refusal in summary.refused] == ["bad.pkl"]
    assert named in summary.refused[0].reason
    assert summary.files_read == 1


def test_only_the_first_questions(tmp_path: Path) -> None:
    layout.write_decoded(tmp_path / "source")
    ingest(tmp_path / "source", tmp_path / "store", first_k=2)
    assert len({row["example_id"] for row in stored_rows(tmp_path / "store")}) == 2
