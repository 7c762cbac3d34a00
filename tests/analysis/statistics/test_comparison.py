"""Selections side by side: what is matched, and the numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import actstore
from actstore.analysis.statistics.comparison import compare
from actstore.errors import TooFewRowsError, UsageError
from tests.querying import places, stores


def modes(root: Path, layers: int = 2) -> dict[tuple[int, str], np.ndarray]:
    """Two modes of the same ten examples per layer, in different orders."""
    made = {}
    for layer in range(layers):
        for seed, mode in enumerate(("tqa", "vqa")):
            matrix = stores.vectors(10, 6, "float16", 10 * layer + seed)
            ids = [f"e{number}" for number in range(10)]
            order = range(10) if mode == "tqa" else range(9, -1, -1)
            stores.add(
                root,
                matrix[list(order)],
                layer=layer,
                mode=[mode] * 10,
                example_id=[ids[number] for number in order],
                label=["a"] * 10,
                task=[None] * 10,
            )
            made[layer, mode] = matrix.astype(np.float64)
    return made


def test_two_modes_are_matched_by_example(tmp_path: Path) -> None:
    made = modes(tmp_path)
    with actstore.open(tmp_path) as store:
        found = compare(store.select(mode="tqa"), store.select(mode="vqa"))
    assert found.across == ("mode",)
    assert "example_id" in found.matched_by
    assert [one.a["layer"] for one in found.layers] == [0, 1]
    for layer, one in enumerate(found.layers):
        a, b = made[layer, "tqa"], made[layer, "vqa"]
        assert (one.rows_a, one.rows_b, one.matched, one.ambiguous) == (10, 10, 10, 0)
        distances = np.linalg.norm(a - b, axis=1)
        cosines = np.vecdot(a, b) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert one.distance is not None
        assert one.cosine is not None
        assert one.distance.mean == pytest.approx(distances.mean())
        assert one.distance.maximum == pytest.approx(distances.max())
        assert one.cosine.minimum == pytest.approx(cosines.min())
        means = a.mean(axis=0), b.mean(axis=0)
        assert one.mean_distance == pytest.approx(np.linalg.norm(means[0] - means[1]))
        assert one.cka_rows == 10


def test_labels_have_no_examples_in_common(tmp_path: Path) -> None:
    stores.layered(tmp_path, layers=1, rows=12)
    with actstore.open(tmp_path) as store:
        found = compare(store.select(label="yes"), store.select(label="no"))
    (one,) = found.layers
    assert (one.rows_a, one.rows_b, one.matched) == (4, 4, 0)
    assert one.mean_cosine is not None
    assert (one.cosine, one.cka) == (None, None)


def test_two_examples(tmp_path: Path) -> None:
    matrices = stores.layered(tmp_path, layers=3)
    with actstore.open(tmp_path) as store:
        found = compare(store.select(example_id="e1"), store.select(example_id="e5"))
    assert len(found.layers) == 3
    for one, matrix in zip(found.layers, matrices, strict=True):
        a, b = matrix[[1, 5]].astype(np.float64)
        assert one.matched == 1
        assert one.distance is not None
        assert one.distance.mean == pytest.approx(np.linalg.norm(a - b))
        assert one.cka is None


def test_one_layer_against_another(tmp_path: Path) -> None:
    stores.layered(tmp_path, layers=3)
    with actstore.open(tmp_path) as store:
        found = compare(store.select(layer=0), store.select(layer=2))
        (one,) = found.layers
        assert (one.a["layer"], one.b["layer"], one.matched) == (0, 2, 12)
        with pytest.raises(UsageError, match=r"no layer in common \(0, 1 against 2\)"):
            compare(store.select(layer=[0, 1]), store.select(layer=2))
        with pytest.raises(TooFewRowsError, match="B has no rows"):
            compare(store.select(), store.select("false"))


def test_sides_that_share_each_value_and_no_place(tmp_path: Path) -> None:
    for layer, site in ((0, "resid_post"), (1, "mlp_out")):
        stores.add(tmp_path / "a", stores.vectors(5, 4, "float16", layer), layer=layer, site=site)
    for layer, site in ((0, "mlp_out"), (1, "resid_post")):
        stores.add(tmp_path / "b", stores.vectors(5, 4, "float16", layer), layer=layer, site=site)
    with actstore.open(tmp_path / "a") as left, actstore.open(tmp_path / "b") as right:
        message = "no model, site, pooling, region and layer in common: narrow both"
        with pytest.raises(UsageError, match=message):
            compare(left.select(), right.select())
        (one,) = compare(left.select(layer=0), right.select(layer=0)).layers
    assert (one.a["site"], one.b["site"], one.matched) == ("resid_post", "mlp_out", 5)


def test_each_side_s_place_is_its_own(tmp_path: Path) -> None:
    for name, rows in (("a", 7), ("b", 3)):
        for layer in range(3):
            stores.add(tmp_path / name, stores.vectors(rows, 4, "float16", layer), layer=layer)
    with actstore.open(tmp_path / "a") as many, actstore.open(tmp_path / "b") as few:
        for left, right in ((many, few), (few, many)):
            found = compare(left.select(), right.select()).layers
            assert [(one.a["layer"], one.b["layer"]) for one in found] == [(n, n) for n in range(3)]
            assert {one.matched for one in found} == {3}


def test_layers_come_in_order_and_those_not_recorded_last(tmp_path: Path) -> None:
    for layer in (None, 10, -1, 2):
        for mode in ("x", "y"):
            matrix = stores.vectors(3, 4, "float16", 0)
            stores.add(tmp_path, matrix, layer=layer, mode=[mode] * 3)
    with actstore.open(tmp_path) as store:
        found = compare(store.select(mode="x"), store.select(mode="y")).layers
    assert [one.a["layer"] for one in found] == [-1, 2, 10, None]


def test_two_stores_of_different_models_and_widths(tmp_path: Path) -> None:
    a = stores.vectors(30, 6, "float16", 1)
    stores.add(tmp_path / "a", a, model="one")
    stores.add(tmp_path / "b", (a @ np.eye(6, 9)).astype(np.float32), model="two")
    with actstore.open(tmp_path / "a") as left, actstore.open(tmp_path / "b") as right:
        (one,) = compare(left.select(), right.select()).layers
    assert (one.width_a, one.width_b, one.matched) == (6, 9, 30)
    assert one.cka == pytest.approx(1)
    assert (one.cosine, one.mean_distance) == (None, None)


def test_rows_that_share_a_key_are_left_out_and_counted(tmp_path: Path) -> None:
    stores.add(tmp_path, stores.vectors(4, 6, "float16", 1), mode=["x"] * 4)
    stores.add(tmp_path, stores.vectors(4, 6, "float16", 2), mode=["y"] * 4)
    stores.add(tmp_path, stores.vectors(3, 6, "float16", 3), mode=["z"] * 3)
    with actstore.open(tmp_path) as store:
        (one,) = compare(store.select(mode=["x", "y"]), store.select(mode="z")).layers
    assert (one.matched, one.ambiguous) == (0, 8)


def test_the_sample_of_cka_is_stated(tmp_path: Path) -> None:
    made = modes(tmp_path, layers=1)
    assert made
    with actstore.open(tmp_path) as store:
        found = compare(store.select(mode="tqa"), store.select(mode="vqa"), sample=5)
    assert found.layers[0].cka_rows == 5
    assert found.layers[0].matched == 10


def test_values_that_are_not_finite_stay_out_of_cka(tmp_path: Path) -> None:
    a = stores.vectors(6, 4, "float32", 1)
    b = a.copy()
    b[2, 1] = np.nan
    stores.add(tmp_path, a, mode=["x"] * 6)
    stores.add(tmp_path, b, mode=["y"] * 6)
    with actstore.open(tmp_path) as store:
        (one,) = compare(store.select(mode="x"), store.select(mode="y")).layers
    assert one.cka_rows == 5
    assert one.cka == pytest.approx(1)
    assert one.cosine is not None
    assert one.cosine.mean == pytest.approx(1)


def test_a_side_that_is_never_finite_has_no_mean(tmp_path: Path) -> None:
    broken = np.full((6, 4), np.nan, np.float32)
    stores.add(tmp_path, broken, mode=["a"] * 6)
    stores.add(tmp_path, stores.vectors(6, 4, "float32", 0), mode=["b"] * 6)
    with actstore.open(tmp_path) as store:
        (found,) = compare(store.select(mode="a"), store.select(mode="b")).layers
    # Not the distance from the origin, which is what a mean of nothing would give.
    assert found.mean_distance is None
    assert found.mean_cosine is None
    assert found.matched == 6


def test_poolings_are_compared_one_by_one(tmp_path: Path) -> None:
    pools = (("last", "prompt"), ("max", "all"), ("mean", "prompt"), ("mean", "response"))
    places.write(tmp_path, places.places(pools=pools, layer=(3,)))
    with actstore.open(tmp_path) as store:
        found = compare(store.select(label="yes"), store.select(label="no"))
        assert [(one.a["pooling"], one.a["region"], one.rows_a) for one in found.layers] == [
            (*pool, 3) for pool in pools
        ]
        for one in found.layers:
            assert one.mean_distance is not None
            sides = [
                store.select(label=label, **one.a).numpy().mean(axis=0) for label in ("yes", "no")
            ]
            assert one.mean_distance == pytest.approx(np.linalg.norm(sides[0] - sides[1]))
        # One pooling against another is what was asked for, two against a third is a mixture.
        (one,) = compare(
            store.select(pooling="last"), store.select(pooling="mean", region="prompt")
        ).layers
        assert (one.a["pooling"], one.b["pooling"], one.matched) == ("last", "mean", 6)
        with pytest.raises(UsageError, match=r"no pooling in common \(last, mean against max\)"):
            compare(store.select(region="prompt"), store.select(region="all"))
