"""`actstore verify` names damaged files and says so in its exit code."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from actstore.storage import manifest as manifests
from tests.commands.conftest import Command
from tests.storage.undoing import flip


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


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, the same with other weights, a store captured from the first, its questions."""
    import actstore
    from tests.capturing import families

    folder = tmp_path_factory.mktemp("captures")
    questions = [{"id": f"q{n}", "question": f"which is larger : {n} or 5 ?"} for n in range(5)]
    for name, seed in (("tiny", 0), ("other", 1)):
        families.build("llama", seed).save_pretrained(folder / name)
        families.tokenizer().save_pretrained(folder / name)
    model: Any = families.build("llama")
    actstore.capture(
        model, families.tokenizer(), questions, store=folder / "s", model_name="tiny", layers=1
    )
    lines = [json.dumps(question) for question in questions]
    (folder / "questions.jsonl").write_text("\n".join(lines))
    return {name: folder / name for name in ("tiny", "other", "s", "questions.jsonl")}


def test_rows_are_captured_again(actstore: Command, captures: dict[str, Path]) -> None:
    words = ("verify", captures["s"], "--recompute", 3, "--device", "cpu")
    finished = actstore(*words, "--model", captures["tiny"])
    assert finished.code == 0
    assert "captured 3 rows again: largest difference" in finished.out
    assert "tolerance 0.0001" in finished.out
    data = ("--data", captures["questions.jsonl"], "--json")
    again = json.loads(actstore(*words, "--model", captures["tiny"], *data).out)["recomputed"]
    assert (len(again["rows"]), again["outside"], again["differences"]) == (3, 0, [])


def test_rows_of_another_model_are_named(actstore: Command, captures: dict[str, Path]) -> None:
    words = ("verify", captures["s"], "--recompute", 9, "--device", "cpu")
    finished = actstore(*words, "--model", captures["other"])
    assert finished.code == 4
    assert finished.out.count("differs by") == 5
    assert "(q0, resid_post, layer 1, prompt.last)" in finished.out
    assert "not as in the stored run: weights_sha256" in finished.err
    assert actstore(*words, "--model", captures["other"], "--tolerance", "100").code == 0


def test_of_several_models_the_one_that_is_named_is_recomputed(
    actstore: Command, captures: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(captures["s"], tmp_path / "s")
    data = captures["questions.jsonl"]
    monkeypatch.chdir(captures["tiny"].parent.parent)
    named = [f"{captures['tiny'].parent.name}/{name}" for name in ("tiny", "other")]
    for model in named:
        options = ("--store", tmp_path / "s", "--data", data, "--layers", 1, "--device", "cpu")
        assert actstore("capture", "--model", model, *options).code == 0
        found = actstore(
            "verify", tmp_path / "s", "--recompute", 3, "--model", model, "--device", "cpu"
        )
        assert "captured 3 rows again: largest difference 0" in found.out


def test_what_cannot_be_recomputed(
    actstore: Command, store: Path, captures: dict[str, Path]
) -> None:
    assert actstore("verify", captures["s"], "--recompute", 3).code == 2
    assert actstore("verify", captures["s"], "--model", captures["tiny"]).code == 2
    finished = actstore("verify", store, "--recompute", 3, "--model", captures["tiny"])
    assert finished.code == 1
    assert "no rows of `actstore capture`" in finished.err


def test_nothing_is_captured_again_beside_damage(
    actstore: Command, captures: dict[str, Path], tmp_path: Path
) -> None:
    root = tmp_path / "s"
    shutil.copytree(captures["s"], root)
    entry = manifests.latest(root).shards[0]
    flip(root / entry.path, entry.pages[0][0] + 5)
    words = ("verify", root, "--recompute", 3, "--model", tmp_path / "is not even looked for")
    finished = actstore(*words)
    assert finished.code == 4
    assert finished.out.startswith(f"{entry.path}: ")
    assert "nothing was captured again: repair the files first" in finished.err
    told = json.loads(actstore(*words, "--json").out)
    assert [problem["path"] for problem in told["problems"]] == [entry.path]
    assert "recomputed" not in told
