"""A flipped bit in a shard or a label file: whatever reads it names the file and ends with 4."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import actstore as package
from actstore import Store
from actstore.errors import DamageError
from actstore.storage import manifest as manifests
from actstore.storage.checksums import Check
from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from tests.commands.conftest import Command
from tests.storage.undoing import files_of, flip

VECTORS = {
    "export": "export {store} {out}/npz --to npz",
    "nearest": "nearest {store} --row 0 --layer 7",
    "cosine": "query {store} |SELECT cosine(activation, [1,0,0,0,0,0,0,0]) FROM activations",
    "vectors": "query {store} |SELECT activation FROM activations",
    "select": "select {store} --layer 7 --out {out}/rows.parquet",
    "stats": "stats {store} --by layer",
    "diff": "diff {store} {store}",
    "compact": "compact {store} --prune",
    "drop": "drop {store} |row_id = 20 --yes",
    "checkout": "checkout {store} --at 1 --yes",
    "verify": "verify {store}",
}
METADATA = {
    "query": "query {store} |SELECT question FROM activations",
    "label": "label {store} --set 'new'",
    "info": "info {store}",
    **{name: VECTORS[name] for name in ("export", "stats", "compact", "drop", "verify")},
}
LABELS = {
    "query": "query {store} |SELECT label FROM activations",
    **{name: VECTORS[name] for name in ("export", "stats", "compact", "drop", "verify")},
}


@pytest.fixture
def labelled(store: Path) -> Path:
    set_labels(open_snapshot(store), np.array([1, 25]), ["x", "y"], message="")
    (store.parent / "out").mkdir()
    return store


def refused(actstore: Command, store: Path, command: str, damaged: str) -> None:
    """The command names the file, ends with 4, and leaves the store and the target as they were."""
    before = files_of(store)
    out = store.parent / "out"
    words: list[str] = []
    for number, part in enumerate(command.split("|")):
        query, yes, option = part.partition(" --yes")
        words += [query] if number else query.split()
        words += [option or yes.strip()] if yes else []
    done = actstore(*(word.format(store=store, out=out) for word in words))
    assert done.code == 4, done
    assert damaged in done.out + done.err
    assert "Traceback" not in done.err
    assert files_of(store) == before
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("command", VECTORS.values(), ids=list(VECTORS))
def test_damaged_vectors(actstore: Command, labelled: Path, command: str) -> None:
    entry = manifests.latest(labelled).shards[1]
    flip(labelled / entry.path, entry.pages[0][0] + 21)
    refused(actstore, labelled, command, entry.path)


@pytest.mark.parametrize("command", METADATA.values(), ids=list(METADATA))
def test_damaged_metadata(actstore: Command, labelled: Path, command: str) -> None:
    entry = manifests.latest(labelled).shards[1]
    flip(labelled / entry.path, entry.bytes - 2000)
    refused(actstore, labelled, command, entry.path)


@pytest.mark.parametrize("command", LABELS.values(), ids=list(LABELS))
def test_damaged_labels(actstore: Command, labelled: Path, command: str) -> None:
    (overlay,) = manifests.latest(labelled).labels
    flip(labelled / overlay.path)
    refused(actstore, labelled, command, overlay.path)


READS: dict[str, Callable[[Store], object]] = {
    "numpy": lambda store: store.select(layer=7).numpy(),
    "view": lambda store: store.select(layer=7).numpy(copy=None),
    "some rows": lambda store: store.rows_at([20, 3, 22]).numpy(mixed=True),
    "tensor": lambda store: store.select(layer=7).tensor("float32"),
    "batches": lambda store: list(store.select(layer=7).batches(4, shuffle=True, seed=0)),
    "torch": lambda store: list(store.select(layer=7).torch_dataset(4)),
    "stack": lambda store: store.select(layer=[3, 7]).stack("layer"),
    "norms": lambda store: store.select(layer=7).to_arrow(),
}


@pytest.mark.parametrize("read", READS.values(), ids=list(READS))
@pytest.mark.parametrize("check", ["lazy", "always"])
def test_python_names_the_rows(store: Path, read: Callable[[Store], object], check: Check) -> None:
    entry = manifests.latest(store).shards[1]
    flip(store / entry.path, entry.pages[0][0] + 21)
    with package.open(store, check=check) as opened:
        for _ in range(2):
            with pytest.raises(DamageError, match=r"the vectors of its rows 0 to 19.*CRC") as found:
                read(opened)
        assert [path for path, _ in found.value.problems] == [entry.path]
        assert opened.select(layer=3).numpy().shape == (20, 8)  # the rest stays of use


def test_what_is_never_checked_is_read(store: Path) -> None:
    entry = manifests.latest(store).shards[1]
    sound = package.open(store).select(layer=7).numpy()
    flip(store / entry.path, entry.pages[0][0] + 21)
    with package.open(store, check="never") as opened:
        found = opened.select(layer=7).numpy()
    assert (found.view(np.uint16) != sound.view(np.uint16)).sum() == 1


def test_always_notices_what_came_after_the_first_reading(store: Path) -> None:
    entry = manifests.latest(store).shards[1]
    with package.open(store, check="always") as opened:
        chosen = opened.select(layer=7)
        chosen.numpy()
        with (store / entry.path).open("r+b") as file:  # the same file, as a disk would
            file.seek(entry.pages[0][0] + 21)
            file.write(b"\xff")
        with pytest.raises(DamageError):
            chosen.numpy()
        with pytest.raises(DamageError):
            opened.rows_at([22, 20, 3]).numpy(mixed=True)
