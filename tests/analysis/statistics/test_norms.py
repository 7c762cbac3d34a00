"""Classes and the norms of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import actstore
from actstore.analysis.statistics import norms
from tests.querying import stores


def test_rare_values_are_put_together(tmp_path: Path) -> None:
    labels = ["a"] * 5 + ["b"] * 3 + ["c", "d", "e", None]
    stores.layered(tmp_path, layers=0)
    stores.add(tmp_path, stores.vectors(12, 4, "float16", 0), label=labels)
    with actstore.open(tmp_path) as store:
        found = norms.class_codes(store.select(), "label", most=2)
        assert found.names == ("a", "b", "other (3 values)", "no label")
        assert found.codes.tolist() == [0] * 5 + [1] * 3 + [2] * 3 + [3]
        assert found.own == 2
        everything = norms.class_codes(store.select(), "label")
        assert everything.names == ("a", "b", "c", "d", "e", "no label")
        assert everything.own == 5
        assert norms.class_codes(store.select(), None).names == ("all rows",)
        assert norms.class_codes(store.select(), "question").names == ("all rows",)


def test_norms_by_layer_and_class(tmp_path: Path) -> None:
    matrices = stores.layered(tmp_path, layers=2, rows=12)
    with actstore.open(tmp_path) as store:
        layers, found = norms.norms_by_layer(store.select(), "label")
    assert layers == [0, 1]
    assert [one.name for one in found] == ["no", "yes", "no label"]
    exact = np.linalg.norm(matrices[1][0::3].astype(np.float64), axis=1)
    yes = found[1].layers[1]
    assert yes is not None
    assert yes.median == pytest.approx(np.median(exact), rel=1e-6)
