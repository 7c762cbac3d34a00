"""`actstore index`, and `nearest --index`."""

import json
from pathlib import Path

import pytest

from tests.commands.conftest import Command

pytest.importorskip("usearch")


def test_a_layer_is_indexed_and_searched(
    actstore: Command, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTSTORE_CACHE", str(tmp_path / "cache"))
    words = ("--example", "e4", "--layer", 7, "-k", 3, "--format", "jsonl")
    refused = actstore("nearest", store, *words, "--index")
    assert refused.code == 2
    assert "actstore index" in refused.err
    told = actstore("index", store, "--layer", 7).out
    assert "indexed" in told
    assert "recall of the ten nearest 1.000" in told
    facts = json.loads(actstore("index", store, "--layer", 7, "--json").out)
    assert facts["recall"] == 1
    assert Path(facts["path"]).stat().st_size == facts["bytes"]
    assert (
        actstore("nearest", store, *words, "--index").out == actstore("nearest", store, *words).out
    )
