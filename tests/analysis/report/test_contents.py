"""What a report tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import actstore
from actstore.analysis import report
from actstore.analysis.report import contents
from actstore.errors import NotInStoreError
from tests.analysis.plots.pictures import make
from tests.querying import stores


def test_places_layers_and_classes(tmp_path: Path) -> None:
    make(tmp_path, layers=(0, 1, 2, 3, 4, 5))
    stores.add(tmp_path, stores.vectors(6, 20, "float32", 0), site="mlp_out", layer=2)
    with actstore.open(tmp_path) as store:
        found = report.collect(store.select())
    assert found.rows == 246
    assert [
        (row["site"], row["layers"], row["width"], row["rows"]) for row in found.composition
    ] == [
        ("mlp_out", "2", "20", 6),
        ("resid_post", "0-5", "12", 240),
    ]
    assert found.labels == {"no": 122, "yes": 122, None: 2}
    assert found.table == {
        None: {"no": 120, "yes": 120},
        "grid": {"yes": 1, "no": 1, None: 1},
        "maze": {"yes": 1, "no": 1, None: 1},
    }
    big, small = found.places
    assert [panel.layer for panel in big.panels] == [0, 2, 3, 5]
    assert big.separation is not None
    assert big.separation.layers[5].auroc.value > 0.9
    assert small.separation is not None
    # Two rows of each class say next to nothing, and the interval says so.
    assert small.separation.layers[0].rows == 4
    assert small.separation.layers[0].auroc.low < 0.5


def test_rows_and_dimensions_that_stand_out(tmp_path: Path) -> None:
    matrix = stores.vectors(40, 16, "float32", 1)
    matrix[:, 5] = 30
    matrix[7] *= 20
    stores.add(tmp_path, matrix)
    with actstore.open(tmp_path) as store:
        (place,) = report.collect(store.select()).places
    assert place.rows_apart[0].row["example_id"] == "e7"
    assert place.rows_apart[0].ratio > 10
    assert place.dimensions[0].dimension == 5
    assert place.dimensions[0].layers == [0]


def test_rows_in_another_order_keep_their_labels(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path, layers=(0,))) as store:
        rows = store.select()[::-1]
        (place,) = report.collect(rows).places
    names = [place.classes.names[code] for code in place.panels[0].codes]
    assert names == rows.table(["label"])["label"].to_pylist()


def test_many_labels_take_the_two_most_frequent(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path, labels=("a", "b", "c", "a", "b"))) as store:
        (place,) = report.collect(store.select()).places
    assert place.separation is not None
    assert (place.separation.positive, place.separation.negative) == ("b", "a")


def test_empty_and_odd_stores(tmp_path: Path) -> None:
    stores.add(tmp_path, np.full((4, 4), np.nan, np.float32), layer=None, label=[None] * 4)
    with actstore.open(tmp_path) as store:
        assert report.collect(store.select("false")).places == []
        (place,) = report.collect(store.select()).places
        assert place.panels == []
        assert place.nonfinite == 4
        with pytest.raises(NotInStoreError, match="did you mean label"):
            report.collect(store.select(), "lable")


def test_a_store_is_called_by_its_name_not_its_place(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path / "runs.store")) as store:
        found = report.collect(store.select())
        assert found.name == "runs.store"
        path = report.write(found, tmp_path / "new" / "report.html")
        text = path.read_text()
        assert str(tmp_path) not in text
        assert report.write(report.collect(store.select()), path).read_text() == text


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ([0, 1, 2, 3], "0-3"),
        ([0, 4, 8, 12], "0-12 in steps of 4"),
        ([6, 12, 18], "6, 12, 18"),
        ([1, 2, 4, 8, None], "1, 2, 4, 8, not recorded"),
        ([None], "not recorded"),
        ([-1, 0, 1, 2], "-1-2"),
    ],
)
def test_layers_in_short(layers: list[int | None], text: str) -> None:
    assert contents.layer_list(layers) == text


@pytest.mark.parametrize("column", ["layer", "example_index", "position", "norm", "row_id"])
def test_by_numbers_zero_among_them(column: str, tmp_path: Path) -> None:
    numbers = [*range(11), None]
    for layer in (0, 1):
        matrix = stores.vectors(12, 6, "float16", layer)
        stores.add(tmp_path, matrix, layer=layer, example_index=numbers, position=numbers)
    with actstore.open(tmp_path) as store:
        found = report.collect(store.select(), column)
    assert sum(found.labels.values()) == 24
    if column == "position":
        assert list(found.labels) == numbers


def test_truth_values_and_ids_of_several_splits(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).standard_normal((2, 40, 6)).astype(np.float32)
    passed = [bool(number % 3) for number in range(40)]
    with actstore.open(tmp_path / "s", create=True) as store:
        for split, matrix in zip(("train", "test"), drawn, strict=True):
            store.write(
                {("resid_post", 0): matrix},
                {
                    "example_id": [f"e{number}" for number in range(40)],
                    "split": [split] * 40,
                    "passed": passed,
                },
                model="org/model",
                pool="last",
            )
        found = report.collect(store.select(), "extra.passed")
        examples = store.info().examples
    assert [row["examples"] for row in found.composition] == [examples] == [80]
    assert found.places[0].why_not == ""
    separated = found.places[0].separation
    assert separated is not None
    assert (separated.positive, separated.layers[0].rows) == ("true", 80)


def test_regions_are_shown_apart(tmp_path: Path) -> None:
    for seed, region in enumerate(("prompt", "response")):
        stores.add(tmp_path, stores.vectors(12, 6, "float16", seed), region=[region] * 12)
    with actstore.open(tmp_path) as store:
        found = report.collect(store.select())
    assert [place.title for place in found.places] == [
        "org/model · resid_post · prompt.last",
        "org/model · resid_post · response.last",
    ]
    assert [row["region"] for row in found.composition] == ["prompt", "response"]


def test_tokens_are_not_titled_none(tmp_path: Path) -> None:
    stores.add(tmp_path, stores.vectors(12, 6, "float16", 0), pooling=["none"] * 12)
    with actstore.open(tmp_path) as store:
        found = report.collect(store.select())
    assert found.places[0].title == "org/model · resid_post · tokens"
    assert "region" not in found.composition[0]


def test_values_at_the_end_of_float32(tmp_path: Path) -> None:
    matrix = np.clip(stores.vectors(40, 24, "float32", 0), -3, 3) * np.float32(1e38)
    stores.add(tmp_path, matrix)
    with actstore.open(tmp_path) as store:
        found = report.collect(store.select())
        assert report.write(found, tmp_path / "report.html").stat().st_size > 5000
    (panel,) = found.places[0].panels
    assert len(panel.points) > 30
    assert np.isfinite(panel.points).all()
