"""`actstore drop`, `rename` and `checkout`: shown first, asked, done; and `ingest --replace`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import actstore
from actstore.ingestion.ingest import ingest as actstore_ingest
from actstore.storage import manifest as manifests
from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from tests.commands.conftest import Command, Finished
from tests.storage.undoing import files_of, flip, holds

CHANGES = {
    "drop": ("drop", "layer = 3"),
    "drop for good": ("drop", "layer = 3", "--prune"),
    "rename": ("rename", "layer = 3", "--set", "site='mlp_out'"),
    "checkout": ("checkout", "--at", "1"),
}
changes = pytest.mark.parametrize("words", CHANGES.values(), ids=list(CHANGES))


@pytest.fixture
def changed(store: Path) -> Path:
    """A store with a second commit, so that there is something to go back from."""
    set_labels(open_snapshot(store), np.array([0, 25]), ["a", "b"], message="two")
    return store


class Terminal:
    """Standard input of somebody who sits there and types a line."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self.answer


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(text))
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda prompt: text)


@changes
def test_without_a_terminal_and_an_answer_it_is_one_error(
    actstore: Command, changed: Path, words: tuple[str, ...]
) -> None:
    before = files_of(changed)
    command, *rest = words
    done = actstore(command, changed, *rest)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("error: this changes the store, and there is no terminal")
    assert done.err.count("\n") == 1
    assert files_of(changed) == before


@changes
def test_a_dry_run_changes_nothing_and_shows_what_the_question_shows(
    actstore: Command, changed: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(changed)
    command, *rest = words
    shown = actstore(command, changed, *rest, "--dry-run")
    assert shown.code == 0
    answer(monkeypatch, "n")
    asked = actstore(command, changed, *rest)
    assert asked.code == 1
    assert asked.out == shown.out
    assert asked.err.endswith("error: not confirmed: nothing changed\n")
    plan = json.loads(actstore(command, changed, *rest, "--dry-run", "--json").out)
    assert plan["dry_run"] is True
    assert plan["commit"] is None
    assert files_of(changed) == before
    answer(monkeypatch, "y")
    assert actstore(command, changed, *rest).code == 0
    assert manifests.latest(changed).number == 3


@changes
def test_under_json_the_document_stands_alone(
    actstore: Command, changed: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    command, *rest = words
    answer(monkeypatch, "y")
    done = actstore(command, changed, *rest, "--json")
    document = json.loads(done.out)
    assert (document["commit"], document["dry_run"]) == (3, False)
    assert "layer" in done.err


@changes
def test_damage_is_named_and_nothing_changes(
    actstore: Command, changed: Path, words: tuple[str, ...]
) -> None:
    command, *rest = words
    flip(changed / manifests.latest(changed).shards[0].path, 300)
    before = files_of(changed)
    done = actstore(command, changed, *rest, "--yes")
    assert done.code == 4
    assert "layer_003" in done.err
    assert files_of(changed) == before


def test_compaction_does_not_launder_damage(actstore: Command, changed: Path) -> None:
    flip(changed / manifests.latest(changed).shards[0].path, 300)
    before = files_of(changed)
    done = actstore("compact", changed, "--prune")
    assert done.code == 4
    assert "layer_003" in done.err
    assert files_of(changed) == before


def test_what_a_drop_says(actstore: Command, changed: Path) -> None:
    done = actstore("drop", changed, "layer = 3 AND example_index IS NULL AND label='a'", "--yes")
    assert done.out == (
        "drops 1 row (16 bytes of vectors), 39 stay; 1 shard written anew\n"
        "model  site        layer  label  rows\n"
        "m      resid_post      3  a         1\n"
        "older commits keep these rows; --prune removes them for good\n"
        "commit 3: 1 row dropped\n"
    )
    assert actstore("drop", changed, "layer = 99", "--yes").out == (
        "no row meets that condition: nothing to do\n"
    )
    assert actstore("drop", changed, "layer =", "--yes").code == 1


def test_dropping_for_good_says_what_went_and_what_may_be_left(
    actstore: Command, changed: Path
) -> None:
    (changed / "remotes").mkdir()
    (changed / "remotes/a.json").write_text('{"repository": "org/name", "revision": "main"}')
    (changed / "mine.txt").write_text("")
    assert holds(changed, "It is 7.")
    done = actstore("drop", changed, "example_id = 'e7'", "--prune", "--yes")
    assert holds(changed, "It is 7.") == []
    assert "removes for good 2 older commits" in done.out
    assert "removed for good: 2 older commits, 3 files of rows and labels" in done.out
    assert "org/name@main on the Hub" in done.out
    assert "not the store's own: mine.txt" in done.out
    again = json.loads(
        actstore("drop", changed, "example_id = 'e7'", "--prune", "--yes", "--json").out
    )
    assert again["rows"] == 0
    assert again["commit"] is None


def test_what_a_renaming_says(actstore: Command, store: Path) -> None:
    done = actstore(
        "rename", store, "--set", "site = 'hook_mlp_out'", "--set", "layer=layer+1", "layer = 7",
        "--yes",
    )  # fmt: skip
    assert "changes 20 rows; 1 shard" in done.out
    assert "site    resid_post  mlp_out    20" in done.out
    assert "layer 7 8 20" in " ".join(done.out.split())
    assert done.out.endswith("commit 2: 20 rows changed\n")
    assert open_snapshot(store).manifest.message == (
        "site = 'hook_mlp_out', layer = layer+1 for 20 rows"
    )
    assert actstore("rename", store, "--set", "layer=layer", "--yes").out == (
        "nothing to do: no row has another value there\n"
    )


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("site=resid_mid", "text stands in single quotes"),
        ("label='x'", "labels change with `actstore label`"),
        ("sites='x'", "no column 'sites' to set"),
        ("site", "sets nothing: write COLUMN=SQL"),
        ("site=='x'", "sets nothing: write COLUMN=SQL"),
        ("layer='x'", "Could not convert"),
        ("extra='[1]'", "extra must hold a JSON object"),
        ("site='blocks.3.hook_resid_mid'", "set site='resid_mid' and layer=3"),
        ("pooling='middle'", "pooling 'middle' is unknown"),
        ("example_id='same'", "these keys would come twice: model=m, example_id=same"),
        ("variant='a', dataset='b'", "give --set once for each column"),
    ],
)
def test_what_cannot_be_set(actstore: Command, store: Path, assignment: str, message: str) -> None:
    before = files_of(store)
    done = actstore("rename", store, "--set", assignment, "--yes")
    assert done.code in (1, 2)
    assert message in done.err
    assert files_of(store) == before


def test_what_going_back_says(actstore: Command, changed: Path) -> None:
    done = actstore("checkout", changed, "--at", "1", "--yes")
    assert done.out == (
        "goes back to commit 1 with 40 rows (40 now); 1 later commit undone and kept in the log\n"
        "model  site        layer  label       now  then\n"
        "m      resid_post      3  a             1     0\n"
        "m      resid_post      3  faithful      9    10\n"
        "m      resid_post      7  b             1     0\n"
        "m      resid_post      7  unfaithful    9    10\n"
        "commit 3: as commit 1 was, 40 rows\n"
    )
    assert actstore("checkout", changed, "--at", "1", "--yes").out == (
        "nothing to do: the store is as commit 1 left it\n"
    )
    assert "has no commit 9" in actstore("checkout", changed, "--at", "9", "--yes").err


def test_python_says_the_same_words(changed: Path) -> None:
    with actstore.open(changed) as store:
        plan = store.drop("layer = 3", dry_run=True)
        assert (plan.rows, plan.commit, store.commit) == (20, None, 2)
        done = store.drop("layer = 3")
        assert (done.commit, store.commit, len(store)) == (3, 3, 20)
        renamed = store.rename({"site": "mlp_out", "dataset": "it's"}, "label = 'faithful'")
        assert (renamed.rows, store.sites) == (10, ["mlp_out", "resid_post"])
        assert store.rename(["site='mlp_out'", "dataset='it''s'"]).rows == 10
        assert (store.sites, len(store.select(dataset="it's"))) == (["mlp_out"], 20)
        back = store.checkout(2)
        assert (back.commit, len(store)) == (6, 40)
        gone = store.drop("label = 'b'", prune=True)
        assert gone.erased is not None
        assert gone.erased.commits == (1, 2, 3, 4, 5, 6)
        assert len(store) == 39
        with actstore.open(changed) as other:
            other.drop("label = 'a'")
        with pytest.raises(actstore.ActstoreError, match=r"its latest is 8.*refresh\(\) first"):
            store.checkout(7)


def write_vectors(folder: Path, scale: float) -> None:
    """Two layers of three examples, as one matrix per layer."""
    folder.mkdir(exist_ok=True)
    for layer in (0, 1):
        values = np.arange(12, dtype=np.float32).reshape(3, 4)
        values[2] *= scale  # the last example alone differs
        np.savez(folder / f"layer_{layer}.npz", activations=values)


def ingest(actstore: Command, folder: Path, *words: str) -> Finished:
    return actstore(
        "ingest", folder, "--store", folder.parent / "s", "--model", "m", "--site", "resid_post",
        *words,
    )  # fmt: skip


def test_replacing_stored_rows(
    actstore: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, store = tmp_path / "vectors", tmp_path / "s"
    write_vectors(folder, 1)
    assert ingest(actstore, folder).code == 0
    write_vectors(folder, 2)
    assert "stored with a different vector" in ingest(actstore, folder).err
    before = files_of(store)
    refused = ingest(actstore, folder, "--replace")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    dry = ingest(actstore, folder, "--replace", "--dry-run")
    assert "2 in place of stored ones, 4 were there already" in dry.out
    answer(monkeypatch, "n")
    no = ingest(actstore, folder, "--replace")
    assert no.code == 1
    assert "replaces 2 stored rows, their labels too" in no.out
    assert files_of(store).items() >= before.items()
    assert manifests.numbers(store) == [1]
    done = json.loads(ingest(actstore, folder, "--replace", "--yes", "--json").out)
    assert (done["rows_written"], done["rows_replaced"], done["rows_present"]) == (2, 2, 4)
    assert manifests.numbers(store) == [1, 2]
    assert len(open_snapshot(store).manifest.shards) == 4
    assert open_snapshot(store).rows == 6
    again = json.loads(ingest(actstore, folder, "--replace", "--yes", "--json").out)
    assert (again["rows_written"], again["rows_present"], again["commit"]) == (0, 6, None)
    write_vectors(folder, 3)
    summary = actstore_ingest(folder, store, model="m", site="resid_post", replace=True)
    assert (summary.rows_written, summary.rows_replaced, summary.commit) == (2, 2, 3)
