"""What each commit should hold, as dicts: every change of a store with a plain loop beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from actstore import schema
from actstore.errors import ConflictError
from actstore.storage import pruning
from actstore.storage.compaction import compact
from actstore.storage.dropping import drop_rows
from actstore.storage.going_back import go_back
from actstore.storage.labels import set_labels
from actstore.storage.renaming import NewValues, Renaming
from actstore.storage.snapshot import open_snapshot
from actstore.storage.writer import StoreWriter
from tests.storage.crashing import run_and_die
from tests.storage.stores import RUN, Content, batch, content, expected, write

NAMES = schema.key_names()
Step = tuple[Any, ...]
"""A function of this module and what it is given beside store and oracle."""


class Oracle:
    """What each commit holds, as dicts; every change is a plain loop."""

    def __init__(self) -> None:
        self.commits: dict[int, Content] = {}

    @property
    def now(self) -> Content:
        return self.commits[max(self.commits)] if self.commits else {}

    def commit(self, rows: Content) -> None:
        self.commits[max(self.commits, default=0) + 1] = rows


def cell(key: tuple[Any, ...], name: str) -> Any:
    return key[NAMES.index(name)]


def renamed(key: tuple[Any, ...], name: str, value: Any) -> tuple[Any, ...]:
    at = NAMES.index(name)
    return (*key[:at], value, *key[at + 1 :])


def storing(root: Path, oracle: Oracle, first: int, count: int, layer: int) -> None:
    before, new = oracle.now, expected(batch(first, count, layer=layer))
    if any(key in before and before[key][1] != new[key][1] for key in new):
        return  # a conflict, which other tests are about
    if write(root, batch(first, count, layer=layer)) is not None:
        oracle.commit(before | {key: new[key] for key in new if key not in before})


def replacing(root: Path, oracle: Oracle, first: int, count: int, layer: int, seed: int) -> None:
    before, rows = oracle.now, batch(first, count, layer=layer, seed=seed)
    new = expected(rows)
    with StoreWriter(root, run=RUN, replace=True) as session:
        session.add(rows)
        made = session.commit(operation="ingest", message="")
    changed = {k: new[k] for k in new if k not in before or before[k][1] != new[k][1]}
    assert (made is not None) == bool(changed)
    if changed:
        oracle.commit(before | changed)


def labelling(root: Path, oracle: Oracle, chosen: set[int], label: str | None) -> None:
    keys = list(content(root))
    rows = [at for at, key in enumerate(keys) if cell(key, "example_id") in names(chosen)]
    if rows:
        set_labels(open_snapshot(root), np.array(rows), [label] * len(rows), message="")
        after = dict(oracle.now)
        for at in rows:
            after[keys[at]] = (*after[keys[at]][:2], label)
        oracle.commit(after)


def dropping(root: Path, oracle: Oracle, name: str, values: set[Any]) -> None:
    keys = list(content(root))
    rows = [at for at, key in enumerate(keys) if cell(key, name) in values]
    made = drop_rows(open_snapshot(root), np.array(rows, np.int64))
    assert (made is None) == (not rows)
    if rows:
        going = {keys[at] for at in rows}
        oracle.commit({key: row for key, row in oracle.now.items() if key not in going})


def renaming(root: Path, oracle: Oracle, number: int, name: str, value: Any) -> None:
    keys = list(content(root))
    by, wanted = ("layer", number) if name == "site" else ("example_id", f"e{number}")
    chosen = {key for key in keys if cell(key, by) == wanted and cell(key, name) != value}
    after = [renamed(key, name, value) if key in chosen else key for key in keys]
    rows = np.array([at for at, key in enumerate(keys) if key in chosen], np.int64)
    values = NewValues(rows=rows, columns={name: [value] * len(rows)})
    try:
        made = Renaming(open_snapshot(root), values).commit("")
    except ConflictError:
        assert len(set(after)) < len(keys)
        return
    assert len(set(after)) == len(keys)
    if made is not None:
        before = oracle.now
        oracle.commit({new: before[old] for old, new in zip(keys, after, strict=True)})


def going_back(root: Path, oracle: Oracle, choice: int) -> None:
    at = sorted(oracle.commits)[choice % len(oracle.commits)]
    if go_back(root, at) is not None:
        oracle.commit(dict(oracle.commits[at]))


def compacting(root: Path, oracle: Oracle) -> None:
    if compact(root).commit is not None:
        oracle.commit(dict(oracle.now))


def erasing(root: Path, oracle: Oracle) -> None:
    held = pruning.erase(root).held
    oracle.commits = {
        number: rows
        for number, rows in oracle.commits.items()
        if number in held or number == max(oracle.commits)
    }


def perform(step: Step, root: Path, oracle: Oracle) -> None:
    """Do one step to a store and the oracle."""
    change, *arguments = step
    change(root, oracle, *arguments)


def perform_and_die(step: Step, root: Path, oracle: Oracle, at: int) -> None:
    """Do one step, and be killed at a call of the system; for a child process."""
    run_and_die(root, lambda root: perform(step, root, oracle), at)


def names(chosen: set[int]) -> set[str]:
    return {f"e{number}" for number in chosen}
