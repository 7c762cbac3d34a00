"""What an ingest notes of its files, and how it is found again."""

from __future__ import annotations

import json
from typing import Any

from actstore.storage import source_dtypes
from actstore.storage.manifest import Run
from actstore.storage.source_dtypes import FormNotes, Forms


def noted(settings: dict[str, Any]) -> Forms:
    """Look up settings that went through a manifest."""
    stored = json.loads(json.dumps(settings))
    return Forms([Run(run_id="r", kind="ingest", started_at="", settings=stored)])


def test_most_files_are_alike_and_stand_once() -> None:
    settings: dict[str, Any] = {"recipe": "amber"}
    notes = FormNotes(settings)
    for number in range(1000):
        notes.note(f"{number}.pt", dtype="bfloat16", rank=3)
    assert settings["forms"] == {"": [{"dtype": "bfloat16", "rank": 3}]}
    found = noted(settings)
    assert found.find("r", "7.pt") == {"dtype": "bfloat16", "rank": 3}
    assert found.recipe("r") == "amber"


def test_files_that_differ_are_named() -> None:
    settings: dict[str, Any] = {}
    notes = FormNotes(settings)
    notes.note("a.pt", dtype="float16", keys=("layer",))
    notes.note("b.pt", dtype="float32", keys=())
    notes.note("b.pt", dtype="float32", keys=())
    notes.note("c.pt", kind="y", dtype="bfloat16")
    found = noted(settings)
    assert found.find("r", "a.pt") == {"dtype": "float16", "keys": ["layer"]}
    assert found.find("r", "b.pt")["dtype"] == "float32"
    assert found.find("r", "b.pt", "y") == {"dtype": "bfloat16"}
    assert settings["forms"][""][1]["sources"] == ["b.pt"]
    assert not found.cut("r")


def test_too_many_that_differ_are_cut(monkeypatch: Any) -> None:
    monkeypatch.setattr(source_dtypes, "_NAMED", 2)
    settings: dict[str, Any] = {}
    notes = FormNotes(settings)
    notes.note("0.pt", rank=1)
    for number in range(1, 5):
        notes.note(f"{number}.pt", rank=2)
    found = noted(settings)
    assert found.cut("r")
    assert found.find("r", "2.pt")["rank"] == 2
    assert found.find("r", "4.pt") == {"rank": 1}


def test_runs_without_notes_know_nothing() -> None:
    found = noted({"forms": "damaged"})
    assert found.find("r", "a.pt") == {}
    assert found.find("another", "a.pt") == {}
    assert found.recipe("another") is None
    assert noted({"forms": {"": ["damaged"]}}).find("r", "a.pt") == {}
