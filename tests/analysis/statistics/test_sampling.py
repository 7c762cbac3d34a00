"""Samples, layers and places of selections."""

from __future__ import annotations

from pathlib import Path

import pytest

import actstore
from actstore.analysis.statistics import sampling
from actstore.errors import MixedVectorsError, TooFewRowsError
from tests.querying import stores


def test_a_sample_is_in_order_and_the_same_again(tmp_path: Path) -> None:
    stores.layered(tmp_path, layers=1, rows=50)
    with actstore.open(tmp_path) as store:
        one = sampling.draw(store.select(), 10)
        assert one.selection.rows.tolist() == sorted(set(one.selection.rows.tolist()))
        assert len(one.selection) == 10
        assert one.note == "10 of 50 rows, drawn with seed 0"
        assert len(set(sampling.draw(store.select(), 49).selection.rows.tolist())) == 49
        again = sampling.draw(store.select(), 10).selection.rows
        assert again.tolist() == one.selection.rows.tolist()
        other = sampling.draw(store.select(), 10, seed=1).selection.rows
        assert other.tolist() != one.selection.rows.tolist()
        assert sampling.draw(store.select(), 50).note == "50 rows"
        assert sampling.draw(store.select(example_id="e1"), 50).note == "1 row"


def test_layers_of_rows(tmp_path: Path) -> None:
    stores.layered(tmp_path, layers=2, rows=3)
    stores.add(tmp_path, stores.vectors(3, 8, "float16", 0), layer=None)
    with actstore.open(tmp_path) as store:
        selection = store.rows_at([8, 0, 4])
        assert sampling.layer_values(selection) == [0, 1, None]
        assert sampling.layers_of(selection).tolist() == [2, 0, 1]


def test_one_place_is_required(tmp_path: Path) -> None:
    stores.add(tmp_path, stores.vectors(3, 8, "float16", 0))
    stores.add(tmp_path, stores.vectors(3, 8, "float16", 0), model="other")
    with actstore.open(tmp_path) as store:
        place = sampling.require_one_place(store.select(model="other"))
        assert place == {
            "model": "other",
            "site": "resid_post",
            "pooling": "last",
            "region": None,
        }
        with pytest.raises(MixedVectorsError, match=r"2 models \(org/model, other\).*--model"):
            sampling.require_one_place(store.select())
        with pytest.raises(TooFewRowsError):
            sampling.require_one_place(store.select("false"))


def test_embeddings_go_with_the_stream_that_they_begin(tmp_path: Path) -> None:
    stores.layered(tmp_path, layers=2, rows=5)
    stores.add(tmp_path, stores.vectors(5, 8, "float16", 9), layer=-1, site="embeddings")
    with actstore.open(tmp_path) as store:
        assert sampling.require_one_place(store.select())["site"] == "resid_post"
        assert sampling.layer_values(store.select()) == [-1, 0, 1]
        assert sampling.require_one_place(store.select(layer=-1))["site"] == "embeddings"
    stores.add(tmp_path, stores.vectors(5, 8, "float16", 9), site="mlp_out")
    with actstore.open(tmp_path) as store, pytest.raises(MixedVectorsError, match="3 sites"):
        sampling.require_one_place(store.select())


def test_regions_are_places_too(tmp_path: Path) -> None:
    for seed, region in enumerate(("prompt", "response")):
        stores.add(tmp_path, stores.vectors(3, 8, "float16", seed), region=[region] * 3)
    with actstore.open(tmp_path) as store:
        with pytest.raises(MixedVectorsError, match=r"2 regions \(prompt, response\).*--region"):
            sampling.require_one_place(store.select())
        assert sampling.require_one_place(store.select(region="prompt"))["region"] == "prompt"
