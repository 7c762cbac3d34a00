"""Any row of changes, held against an oracle: a dict of rows for each commit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actstore import schema
from actstore.errors import ConflictError
from actstore.storage import manifest as manifests
from actstore.storage import pruning
from actstore.storage.compaction import compact
from actstore.storage.dropping import drop_rows
from actstore.storage.going_back import go_back
from actstore.storage.labels import set_labels
from actstore.storage.renaming import NewValues, Renaming
from actstore.storage.snapshot import open_snapshot
from actstore.storage.writer import StoreWriter
from tests.storage.stores import RUN, Content, assert_sound, batch, content, expected, write

NAMES = schema.key_names()


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
    pruning.erase(root)
    oracle.commits = {max(oracle.commits): oracle.now}


def names(chosen: set[int]) -> set[str]:
    return {f"e{number}" for number in chosen}


numbers = st.integers(0, 11)
layers = st.integers(0, 2)
several = st.sets(numbers, max_size=4)
steps = st.one_of(
    st.tuples(st.just(storing), numbers, st.integers(1, 4), layers),
    st.tuples(st.just(replacing), numbers, st.integers(1, 4), layers, st.integers(0, 2)),
    st.tuples(st.just(labelling), several, st.sampled_from(["x", "y", None])),
    st.tuples(st.just(dropping), st.just("example_id"), several.map(names)),
    st.tuples(st.just(dropping), st.just("layer"), st.sets(layers, max_size=1)),
    st.tuples(st.just(renaming), numbers, st.just("example_id"), numbers.map("e{}".format)),
    st.tuples(st.just(renaming), numbers, st.just("layer"), layers),
    st.tuples(st.just(renaming), layers, st.just("site"), st.sampled_from(["a", "resid_post"])),
    st.tuples(st.just(going_back), st.integers(0, 5)),
    st.tuples(st.just(compacting)),
    st.tuples(st.just(erasing)),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(st.lists(steps, min_size=3, max_size=10))
def test_the_store_holds_what_the_oracle_does(changes: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, oracle = Path(folder) / "s", Oracle()
        storing(root, oracle, 0, 4, 1)
        for change, *arguments in changes:
            change(root, oracle, *arguments)
            assert manifests.numbers(root) == sorted(oracle.commits)
            assert content(root) == oracle.now
        for number, rows in oracle.commits.items():
            assert content(root, number) == rows
        assert_sound(root)
