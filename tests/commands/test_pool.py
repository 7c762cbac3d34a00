"""`actstore pool` says what it made and what it left out."""

import json
from pathlib import Path

from tests.capturing import token_stores as stores
from tests.commands.conftest import Command


def test_what_it_says(actstore: Command, tmp_path: Path) -> None:
    stores.write(tmp_path / "s")
    words = ("pool", tmp_path / "s", "--pool", "response.mean", "--exclude", "bos,sinks")
    finished = actstore(*words)
    assert finished.code == 0
    assert finished.out == "commit 2: 4 rows made\n"
    assert finished.err == "left out: the region has no token: 2 examples (of all layers)\n"
    assert actstore(*words).out == "nothing to do: 4 rows stored already\n"


def test_chosen_rows_as_json(actstore: Command, tmp_path: Path) -> None:
    stores.write(tmp_path / "s")
    chosen = ("--layer", "4", "--where", "example_id = 'e2'", "--as-variant", "x")
    finished = actstore("pool", tmp_path / "s", "--pool", "prompt.last", *chosen, "--json")
    done = json.loads(finished.out)
    assert (done["commit"], done["rows_written"], done["tokens"]) == (2, 1, 7)
    log = json.loads(actstore("query", tmp_path / "s", _ROWS, "--format", "json").out)
    assert log == [{"layer": 4, "variant": "x", "token_id": 105}]


_ROWS = "SELECT layer, variant, token_id FROM activations WHERE pooling = 'last'"


def test_what_is_refused(actstore: Command, tmp_path: Path) -> None:
    stores.write(tmp_path / "s", examples=1)
    assert actstore("pool", tmp_path / "s", "--pool", "response.tokens").code == 2
    assert actstore("pool", tmp_path / "s").code == 2
    assert actstore("pool", tmp_path / "s", "--pool", "all.mean", "--layer", "9").code == 1
