"""`actstore verify` names damaged files and says so in its exit code."""

import json
from pathlib import Path

from tests.commands.conftest import Command


def test_a_sound_store(actstore: Command, store: Path) -> None:
    finished = actstore("verify", store)
    assert finished.code == 0
    assert finished.out.startswith("sound: 2 shards, 40 rows, ")


def test_a_damaged_shard_is_named(actstore: Command, store: Path) -> None:
    shard = sorted(store.rglob("*.parquet"))[1]
    content = bytearray(shard.read_bytes())
    content[200] ^= 1
    shard.write_bytes(content)
    finished = actstore("verify", store)
    assert finished.code == 4
    assert shard.name in finished.out
    problems = json.loads(actstore("verify", store, "--json").out)["problems"]
    assert {problem["path"] for problem in problems} == {shard.relative_to(store).as_posix()}


def test_an_earlier_commit_can_be_checked(actstore: Command, store: Path) -> None:
    assert json.loads(actstore("verify", store, "--at", 1, "--json").out)["commit"] == 1
    missing = actstore("verify", store, "--at", 9)
    assert missing.code == 1
    assert "9" in missing.err


def test_a_contract_lists_every_violation(actstore: Command, store: Path, tmp_path: Path) -> None:
    rules = {"name": "mine", "classes": ["faithful", "unfaithful"], "layers": [3], "width": 8}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(rules | {"min_rows_per_class": 11}))
    finished = actstore("verify", store, "--contract", path)
    assert finished.code == 4
    assert len(finished.out.splitlines()) == 1 + 5
    path.write_text(json.dumps(rules | {"layers": [3, 7]}))
    kept = actstore("verify", store, "--contract", path)
    assert (kept.code, kept.out.splitlines()[1]) == (0, "the contract mine is kept")
