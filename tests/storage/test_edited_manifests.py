"""Manifests edited field by field: nothing that is returned changes, or an error names it.

Whoever edits one by hand breaks its seal; whoever knows how they are sealed, seals it again; and
those of earlier versions have none.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actstore.errors import ActstoreError, CorruptStoreError
from actstore.storage import layout
from actstore.storage import manifest as manifests
from actstore.storage.labels import set_labels
from actstore.storage.snapshot import open_snapshot
from actstore.storage.verification import verify
from tests.storage.stores import Content, batch, content, document, sealed, write
from tests.torture.effort import TORTURE, attack

Document = dict[str, Any]
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2,
    5,
    1 << 31,
    1 << 40,
    10**12,
    (1 << 63) - 1,
    10**30,
    1.5,
    float("nan"),
    "",
    "x",
    "7",
    "../x",
    "\ud800",
    "float32",
    "float16",
    "0" * 64,
    [],
    {},
    [[64, 1]],
    [[4, 10**12]],
    {"a": {"b": [1]}},
]
"""What is put in the place of each field."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    root = tmp_path / "s"
    write(root, batch(0, 6), batch(0, 6, layer=4), batch(0, 3, layer=9, dtype="float32", width=4))
    write(root, batch(6, 5))
    set_labels(open_snapshot(root), np.array([0, 8, 17]), ["x", None, "z"], message="")
    set_labels(open_snapshot(root), np.array([0, 4]), ["u", "v"], message="")
    return root


def _put(value: Any, at: Any, key: Any) -> None:
    at[key] = value


def edits(original: Document) -> Iterator[tuple[str, Document]]:
    """Yield each edit: values of other types and sizes, swaps, deletions, what comes twice."""

    def places(found: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        if path:
            yield path
        if isinstance(found, dict | list) and len(path) < 4:
            for key in found if isinstance(found, dict) else range(len(found)):
                yield from places(found[key], (*path, key))

    def edited(path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Document:
        made = copy.deepcopy(original)
        inside: Any = made
        for key in path[:-1]:
            inside = inside[key]
        change(inside, path[-1])
        return made

    for path in places(original, ()):
        for value in VALUES:
            yield f"{path} = {value!r}", edited(path, partial(_put, value))
        yield f"{path} gone", edited(path, lambda at, key: at.pop(key))
    for kind in ("shards", "labels"):
        entries = original[kind]
        for one in range(len(entries)):
            twice = copy.deepcopy(original)
            twice[kind].append(copy.deepcopy(entries[one]))
            yield f"{kind} {one} twice", twice
            for other in range(one):
                moved = copy.deepcopy(original)
                moved[kind][one], moved[kind][other] = entries[other], entries[one]
                yield f"{kind} {one} and {other} in another order", moved
                for name in entries[one]:
                    swapped = copy.deepcopy(original)
                    swapped[kind][one][name] = entries[other][name]
                    swapped[kind][other][name] = entries[one][name]
                    yield f"{name} of {kind} {one} and {other}", swapped
                    same = copy.deepcopy(original)
                    same[kind][one][name] = entries[other][name]
                    yield f"{name} of {kind} {one} as of {other}", same


def read(root: Path) -> tuple[Content, list[Any]] | None:
    """Return all rows and where they belong; None where an error says why not."""
    try:
        snapshot = open_snapshot(root)
        return content(snapshot), [shard.partition for shard in snapshot.shards]
    except ActstoreError:
        return None


def found(root: Path) -> bool:
    try:
        return bool(verify(open_snapshot(root)))
    except ActstoreError:
        return True


def by_hand(edited: Document) -> bytes:
    """Return what somebody saves who does not know of the seal, which stays as it was."""
    return json.dumps(edited).encode()[:-1] + b',\n"sha256": "%s"\n}\n' % (b"5" * 64)


def unsealed(edited: Document) -> bytes:
    """Return what an earlier version would have written."""
    return json.dumps({k: v for k, v in edited.items() if k not in _LATER}).encode()


_LATER = ("tails", "parent_sha256")


@pytest.mark.parametrize("saved", [by_hand, sealed, unsealed])
def test_every_edit_is_harmless_or_refused(
    store: Path, saved: Callable[[Document], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    whole = read(store)
    assert whole is not None
    path = layout.manifest_path(store, 4)
    chosen = list(edits(document(manifests.load(store))))
    if not TORTURE:
        random.Random(saved.__name__).shuffle(chosen)
        chosen = chosen[:120]
    with attack("damage", f"manifests edited, {saved.__name__.replace('_', ' ')}") as tally:
        for what, edited in chosen:
            try:
                path.write_bytes(saved(edited))
            except (UnicodeEncodeError, ValueError):
                continue
            tally.tries += 1
            got = read(store)
            if saved is by_hand:
                assert got is None, what
                continue
            if got is None:
                assert found(store), what
            elif not is_of_whole_entries(what):
                assert got[0] == whole[0], what
                assert set(got[1]) == set(whole[1]), what
            else:
                labels = {"x", "z", "u", "v", None}
                assert got[0].keys() <= whole[0].keys(), what
                assert all(
                    whole[0][k][:2] == v[:2] and v[2] in labels for k, v in got[0].items()
                ), what


def is_of_whole_entries(what: str) -> bool:
    """Say whether an edit takes shards or labels away, or moves them, as a whole."""
    return "another order" in what or bool(
        re.fullmatch(r"\(('shards'|'labels')(, \d+)?,?\) .*", what)
    )


def test_a_manifest_that_another_one_was_made_on(store: Path) -> None:
    """Each says what its parent was, so that history is one piece."""
    assert not found(store)
    for number in (1, 2, 3):
        path = layout.manifest_path(store, number)
        text = path.read_bytes()
        path.write_bytes(sealed({**document(manifests.load(store, number)), "message": "other"}))
        ((name, reason),) = verify(open_snapshot(store))
        assert name == f"manifests/{number:010d}.json"
        assert f"another than the one that commit {number + 1} was made on" in reason
        path.write_bytes(text[: len(text) // 2])
        ((name, reason),) = verify(open_snapshot(store))
        assert name == f"manifests/{number:010d}.json"
        assert "is damaged" in reason
        path.write_bytes(text)
    layout.manifest_path(store, 2).unlink()  # pruned: nothing to compare with
    assert not found(store)


def test_numbers_that_only_a_file_could_refute(store: Path) -> None:
    """Before any memory is taken: all numbers agree, and none of them is true."""
    original = document(manifests.load(store))
    for rows in (10**9, 10**12):
        edited = copy.deepcopy(original)
        first = edited["shards"][0]
        first["rows"] = rows
        first["bytes"] = first["pages"][0][0] + rows * 16 + 10_000
        first["pages"] = [[first["pages"][0][0], rows]]
        layout.manifest_path(store, 4).write_bytes(sealed(edited))
        with pytest.raises(CorruptStoreError, match="bytes, the manifest says"):
            open_snapshot(store)
        (store / first["path"]).rename(store / "away")
        with pytest.raises(CorruptStoreError, match="is missing from"):
            open_snapshot(store)
        (store / "away").rename(store / first["path"])
