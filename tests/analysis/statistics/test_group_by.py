"""Rows by the values of columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import actstore
from actstore.analysis.statistics import group_by
from actstore.errors import NotInStoreError
from tests.querying import stores


def test_groups_are_ordered_with_null_last(tmp_path: Path) -> None:
    stores.layered(tmp_path, layers=2, rows=6)
    stores.add(tmp_path, stores.vectors(6, 8, "float16", 9), layer=None)
    with actstore.open(tmp_path) as store:
        selection = store.select()
        found = group_by.group(selection, ("layer", "label"))
        assert [tuple(group.key.values()) for group in found] == [
            (layer, label) for layer in (0, 1, None) for label in ("no", "yes", None)
        ]
        assert sorted(np.concatenate([group.places for group in found])) == list(range(18))
        for group in found:
            table = selection.take(group.places).table(["layer", "label"])
            assert set(map(tuple, (row.values() for row in table.to_pylist()))) == {
                tuple(group.key.values())
            }
        assert len(group_by.group(selection, ())) == 1
        assert group_by.group(store.select("false"), ("layer",)) == []
        with pytest.raises(NotInStoreError, match="layr"):
            group_by.group(selection, ("layr",))


def test_a_title_says_which_group_it_is() -> None:
    assert group_by.title({"model": "m", "layer": 3}) == "m, layer 3"
    assert group_by.title({"layer": None, "label": None}) == "layer not recorded, none"
