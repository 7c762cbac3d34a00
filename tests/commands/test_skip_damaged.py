"""``--skip-damaged``: what is sound is read as it was, and the shards that are not are named."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import actstore as package
from actstore import Store
from actstore.errors import UsageError
from actstore.storage import manifest as manifests
from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from tests.commands.conftest import Command
from tests.storage.undoing import files_of, flip

LEFT = 20
"""Rows of the sound layer, 3: their numbers are those of the whole store too."""


@pytest.fixture
def damaged(store: Path) -> Path:
    """A store of layers 3 and 7, with labels of both, whose layer 7 is damaged."""
    set_labels(open_snapshot(store), np.array([1, 25]), ["x", "y"], message="")
    flip(store / path_of(store, 7), manifests.latest(store).shards[1].pages[0][0] + 21)
    return store


def path_of(store: Path, layer: int) -> str:
    return next(e.path for e in manifests.latest(store).shards if e.layer == layer)


@pytest.mark.parametrize("format", ["csv", "json"])
@pytest.mark.parametrize(
    "command",
    [
        "query STORE |SELECT row_id, layer, label, norm FROM activations|",
        "query STORE --name label-counts",
        "select STORE",
        "nearest STORE --row 0 -k 3",
        "stats STORE --by label",
        "info STORE",
    ],
)
def test_what_is_left_is_read_as_from_a_store_without_damage(
    actstore: Command, damaged: Path, command: str, format: str
) -> None:
    """The same words, of a store that never had the damaged layer."""
    words = [
        word.replace("STORE", str(damaged))
        for number, part in enumerate(command.split("|"))
        for word in ([part] if number % 2 else part.split())
    ] + ["--format", format]
    done = actstore(*words, "--skip-damaged")
    assert done.code == 0, done.err
    assert (
        done.err.count(
            f"left out, damaged: 20 rows of m, resid_post, layer 7 in {path_of(damaged, 7)}"
        )
        == 1
    )
    assert "CRC" in done.err or "SHA-256" in done.err
    assert "layer 7" not in done.out

    sound = damaged.parent / "sound"
    damaged.rename(sound)  # results name the store
    entry = manifests.latest(sound).shards[1]
    flip(sound / entry.path, entry.pages[0][0] + 21)
    assert actstore("drop", sound, "layer = 7", "--yes").code == 0
    sound.rename(damaged)
    again = actstore(*words)
    assert again.code == 0
    if command == "info STORE":
        if format == "json":
            told, other = json.loads(done.out), json.loads(again.out)
            assert [each["path"] for each in told.pop("skipped")] == [entry.path]
            assert other.pop("skipped") == []
            assert {told.pop(name) != other.pop(name) for name in ("commit", "commits")} == {True}
            told.pop("created_at"), other.pop("created_at")
            assert told == other
    else:
        assert done.out == again.out


WRITTEN = {
    "select": "select {store} --layers 3 -o {out}/rows.safetensors",
    "export": "export {store} {out}/npz --to npz",
    "plot": "plot {store} --kind norms -o {out}/norms.svg",
    "report": "report {store} -o {out}/report.html",
    "probe": "probe {store} --label oracle --folds 2 -o {out}/probe",
    "steer": "steer {store} --positive faithful --negative unfaithful -o {out}/vectors",
    "compare": "compare {store} {store}",
}


@pytest.mark.parametrize("command", WRITTEN.values(), ids=list(WRITTEN))
def test_what_is_left_is_handed_on(actstore: Command, damaged: Path, command: str) -> None:
    out = damaged.parent / "out"
    out.mkdir()
    words = command.format(store=damaged, out=out).split()
    done = actstore(*words, "--skip-damaged")
    assert path_of(damaged, 7) in done.err
    assert done.code == 0, done.err


def test_a_report_says_what_it_is_of(actstore: Command, damaged: Path) -> None:
    page = damaged.parent / "report.html"
    assert actstore("report", damaged, "-o", page, "--skip-damaged").code == 0
    text = page.read_text("utf-8")
    assert "without 1 damaged shard" in text
    assert "actstore report runs.store --skip-damaged" in text
    assert text.count("--at 2 --skip-damaged") > 0


def test_with_at(actstore: Command, damaged: Path) -> None:
    done = actstore("info", damaged, "--at", 1, "--skip-damaged", "--json")
    assert done.code == 0
    assert json.loads(done.out)["labels"] == {"faithful": 10, "unfaithful": 10}
    assert json.loads(done.out)["skipped"][0]["rows"] == 20
    assert "left out" in actstore("info", damaged, "--skip-damaged").out


def test_errors_are_json_as_ever(actstore: Command, damaged: Path) -> None:
    (overlay,) = manifests.latest(damaged).labels
    flip(damaged / overlay.path)
    done = actstore("select", damaged, "--skip-damaged", "--json")
    assert (done.code, done.out) == (4, "")
    assert overlay.path in json.loads(done.err)["error"]["message"]


@pytest.mark.parametrize(
    "command",
    ["compact", "drop", "label", "rename", "push", "checkout", "pool", "verify", "diff", "repair"],
)
def test_what_writes_has_no_such_option(actstore: Command, damaged: Path, command: str) -> None:
    before = files_of(damaged)
    done = actstore(command, damaged, "--skip-damaged")
    assert done.code == 2
    assert "commands that only read" in done.err
    assert files_of(damaged) == before


WRITES: dict[str, Callable[[Store], object]] = {
    "writer": lambda store: store.writer(),
    "write": lambda store: store.write({("resid_post", 3): np.ones((1, 8))}, {"example_id": ["a"]}),
    "label": lambda store: store.label("'new'"),
    "label by function": lambda store: store.label(lambda row: "new"),
    "drop": lambda store: store.drop("layer = 3"),
    "drop, pruned": lambda store: store.drop("layer = 3", prune=True),
    "rename": lambda store: store.rename("task = 'x'"),
    "checkout": lambda store: store.checkout(1),
    "push": lambda store: store.push("org/name", dry_run=True),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=list(WRITES))
def test_python_refuses_to_write(damaged: Path, write: Callable[[Store], object]) -> None:
    before = files_of(damaged)
    with (
        package.open(damaged, skip_damaged=True) as opened,
        pytest.raises(UsageError, match=r"1 damaged shard, for reading only: (\w+) is refused"),
    ):
        write(opened)
    assert files_of(damaged) == before


def test_scores_become_no_labels(actstore: Command, damaged: Path) -> None:
    probe = damaged.parent / "probe"
    words = ["--label", "label", "--where", "label IN ('faithful', 'unfaithful')", "--folds", 2]
    done = actstore("probe", damaged, *words, "-o", probe, "--skip-damaged")
    assert done.code == 0, done.err
    before = files_of(damaged)
    done = actstore("score", damaged, "--probe", probe, "--write-label", "class", "--skip-damaged")
    assert done.code == 2
    assert "writing labels is refused" in done.err
    assert files_of(damaged) == before
    assert actstore("score", damaged, "--probe", probe, "--skip-damaged").code == 0


def test_python_reads_what_is_left(damaged: Path) -> None:
    with package.open(damaged, skip_damaged=True) as opened, package.open(damaged) as whole:
        assert opened.rows == len(opened) == LEFT
        assert opened.layers == [3]
        assert [each.path for each in opened.skipped] == [path_of(damaged, 7)]
        assert "without 1 damaged shard" in repr(opened)
        assert "without 1 damaged shard" in opened._repr_html_()
        np.testing.assert_array_equal(
            opened.select().numpy(), whole.select(layer=3).numpy(), strict=True
        )
        assert opened.select().to_arrow() == whole.select(layer=3).to_arrow()
        assert opened.labels["x"] == 1
        assert "y" not in opened.labels
        assert opened.frame().collect().height == LEFT
        assert opened.refresh().rows == LEFT
        assert len(opened.skipped) == 1
        assert "skipped" not in repr(whole)


def test_workers_leave_out_the_same(store: Path) -> None:
    """One that was brought back meanwhile would change the numbers of all rows behind it."""
    with package.open(store) as whole:
        wanted = whole.select(layer=7).numpy()
    first = store / path_of(store, 3)
    sound = first.read_bytes()
    flip(first)
    with package.open(store, skip_damaged=True) as opened:
        dataset = opened.select().torch_dataset(20)
        assert opened.rows == 20
        first.write_bytes(sound)
        (item,) = pickle.loads(pickle.dumps(dataset))
        np.testing.assert_array_equal(item["activation"].numpy(), wanted)


def test_what_is_created_or_afar_has_nothing_to_leave_out(store: Path) -> None:
    with pytest.raises(UsageError, match="choose one"):
        package.open(store, create=True, skip_damaged=True)
    with pytest.raises(UsageError, match="on this machine only"):
        package.open("hf://datasets/org/name", skip_damaged=True)
