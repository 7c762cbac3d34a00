"""Tables above the source: asked about on a terminal, named elsewhere, allowed by an option."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.conftest import Command
from tests.commands.terminal import on_a_terminal
from tests.ingestion.storing import stored_rows
from tests.layouts import faithfulness


@pytest.mark.parametrize(("answer", "joined"), [("y\n", True), ("n\n", False)])
def test_on_a_terminal_it_is_asked_and_yes_does_not_answer(
    tmp_path: Path, answer: str, joined: bool
) -> None:
    faithfulness.write_v1(tmp_path / "project")
    source, store = tmp_path / "project/data/activations", tmp_path / "s"
    words = ("ingest", source, "--store", store, "--model", "m", "--yes")
    code, shown = on_a_terminal(*words, answer=answer, NO_COLOR="1")
    assert code == 0
    assert "above the source" in shown
    assert "May they be read?" in shown
    assert "faithfulness_scores.csv" in shown
    assert ("num_" in stored_rows(store)[0]["example_id"]) is joined


def test_elsewhere_it_is_named_and_an_option_allows_it(actstore: Command, tmp_path: Path) -> None:
    faithfulness.write_v1(tmp_path / "project")
    source = tmp_path / "project/data/activations"
    words = ("ingest", source, "--model", "m", "--dry-run", "--store", tmp_path / "s")
    finished = actstore(*words)
    assert "faithfulness_scores.csv lies outside of the source" in finished.err
    assert "--allow-parent" in finished.err
    allowed = actstore(*words, "--allow-parent", tmp_path / "project")
    assert "note: sidecar scores: faithfulness_scores.csv" in allowed.err
    assert "outside" not in allowed.err
