"""Joining by token: numbers for rows that are equal where the rows are, and only there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import actstore
from actstore import schema
from actstore.errors import UsageError
from actstore.training.joining import Joined, JoinedSite, Places, _identities, split, token_columns
from tests.querying import stores


def test_a_token_is_a_key_without_site_and_layer() -> None:
    assert set(schema.key_names()) - set(token_columns()) == {"site", "layer"}


@pytest.mark.parametrize("columns", [1, 3, 9])
def test_rows_are_equal_where_their_numbers_are(columns: int) -> None:
    # Nine columns of 5,000 values are far more combinations than 64 bits count.
    draw = np.random.default_rng(columns)
    drawn = draw.integers(0, 5000, (columns, 5000))
    cells = np.concatenate([drawn, drawn[:, ::-1]], axis=1)
    table = pa.table({str(n): pa.array(c, mask=c == 0) for n, c in enumerate(cells)})
    numbers = _identities(table)
    rows = [tuple(row) for row in cells.T.tolist()]
    assert len(set(numbers.tolist())) == len(set(rows))
    assert len(set(zip(numbers.tolist(), rows, strict=True))) == len(set(rows))
    assert np.array_equal(numbers[:5000], numbers[5000:][::-1])


def test_rows_are_split_by_site_and_layer(tmp_path: Path) -> None:
    for layer in (1, 0):
        stores.add(tmp_path / "s", stores.vectors(4, 4, "float16", layer), layer=layer)
    more = [f"new{number}" for number in range(2)]
    stores.add(tmp_path / "s", stores.vectors(2, 4, "float16", 5), layer=0, example_id=more)
    stores.add(tmp_path / "s", stores.vectors(2, 4, "float16", 6), layer=None, site="zzz")
    with actstore.open(tmp_path / "s") as store:
        found = split(store.select(site="resid_post").take([5, 0, 9, 3]))
        assert {part: rows.tolist() for part, rows in found.items()} == {
            JoinedSite("resid_post", 0): [0, 3, 5],
            JoinedSite("resid_post", 1): [9],
        }
        with pytest.raises(UsageError, match=r"2 rows of zzz do not say .*layer IS NOT NULL"):
            split(store.select())


def test_places_are_a_run_or_a_list() -> None:
    tokens = np.array([3, 0])
    assert Places(start=10).of(tokens).tolist() == [13, 10]
    assert Places(rows=np.array([7, 8, 9, 1])).of(tokens).tolist() == [1, 7]


def test_what_is_left_out_is_explained() -> None:
    parts = [JoinedSite("mlp_out", layer) for layer in range(6)]
    joined = Joined(tokens=5, places=dict.fromkeys(parts, Places()))
    assert joined.explain() == "5 tokens are in all 6 parts"
    unused = {part: 1 + part.layer for part in parts}
    joined = Joined(tokens=5, places=dict.fromkeys(parts, Places()), unused=unused)
    assert "lacks their token: 6 rows of mlp_out of layer 5, 5 rows" in joined.explain()
    assert joined.explain().endswith(", …")
