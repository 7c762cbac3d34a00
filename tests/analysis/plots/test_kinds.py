"""Every kind of picture over every kind of store: drawn, titled, and the same each time."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

import actstore
from actstore.analysis import plots
from actstore.analysis.plots import looks
from actstore.errors import MismatchError, MixedVectorsError, TooFewRowsError, UsageError
from tests.analysis.plots.pictures import make, texts
from tests.querying import stores

KINDS: list[Callable[..., looks.Picture]] = [
    plots.histogram,
    plots.heatmap,
    plots.norms,
    plots.pca,
    plots.similarity,
    plots.auroc,
]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.__name__))


@each_kind
def test_the_same_rows_give_the_same_bytes(kind: Callable[..., Figure], tmp_path: Path) -> None:
    with actstore.open(make(tmp_path)) as store:
        for suffix in (".svg", ".png"):
            one, other = (plots.render(kind(store.select()), suffix) for _ in range(2))
            assert one == other
            assert len(one) > 2000


@each_kind
@pytest.mark.parametrize("layers", [(None,), (5,), (-1, 0, None)], ids=str)
def test_one_layer_and_layers_not_recorded(
    kind: Callable[..., Figure], layers: tuple[int | None, ...], tmp_path: Path
) -> None:
    with actstore.open(make(tmp_path, layers=layers)) as store:
        found = " ".join(texts(kind(store.select())))
    assert "model" in found
    if layers == (None,) and kind is not plots.auroc:
        assert "layer not recorded" in found
    if layers == (5,):
        assert "5" in found


@each_kind
def test_names_that_mean_something_to_others(kind: Callable[..., Figure], tmp_path: Path) -> None:
    labels = ("cost $5 or $6 <b>&", "推理正确")
    with actstore.open(make(tmp_path, labels=labels, layers=(3,))) as store:
        found = " ".join(texts(kind(store.select())))
    if kind is not plots.histogram:  # both of its lines are in the legend too, in any case
        assert "cost $5 or $6 <b>&" in found
    assert "推理正确" in found


@each_kind
def test_rows_without_label(kind: Callable[..., Figure], tmp_path: Path) -> None:
    with actstore.open(make(tmp_path, labels=("yes", "no", None))) as store:
        found = texts(kind(store.select()))
    if kind in (plots.histogram, plots.norms, plots.pca):
        assert {"yes", "no", "no label"} <= set(found)


@each_kind
def test_several_sites_are_refused(kind: Callable[..., Figure], tmp_path: Path) -> None:
    make(tmp_path)
    stores.add(tmp_path, stores.vectors(4, 12, "float16", 0), site="mlp_out")
    with actstore.open(tmp_path) as store:
        with pytest.raises(MixedVectorsError, match=r"2 sites \(mlp_out, resid_post\)"):
            kind(store.select())
        kind(store.select(site="resid_post"))


@each_kind
def test_no_rows(kind: Callable[..., Figure], tmp_path: Path) -> None:
    with actstore.open(make(tmp_path)) as store, pytest.raises(TooFewRowsError, match="no rows"):
        kind(store.select("false"))


@each_kind
def test_values_that_are_not_finite(kind: Callable[..., looks.Picture], tmp_path: Path) -> None:
    matrix = stores.vectors(20, 6, "float32", 1)
    matrix[3] = np.nan
    matrix[4, 0] = np.inf
    matrix[5] = 0
    stores.add(tmp_path / "some", matrix, label=["a", "b"] * 10)
    stores.add(tmp_path / "all", np.full((20, 6), np.nan, np.float32), label=["a", "b"] * 10)
    with actstore.open(tmp_path / "some") as store:
        figure = kind(store.select())
        assert len(plots.render(figure, ".svg")) > 2000
    left = 7 if kind in (plots.heatmap, plots.histogram) else 2  # values, or rows
    assert re.search(rf"\b{left} (of them )?not finite", figure.caption)
    with actstore.open(tmp_path / "all") as store, pytest.raises(TooFewRowsError):
        kind(store.select())


def test_many_labels_share_a_grey(tmp_path: Path) -> None:
    labels = tuple(f"label {number}" for number in range(30))
    with actstore.open(make(tmp_path, labels=labels, rows=60)) as store:
        found = texts(plots.pca(store.select()))
    assert "other (23 values)" in found
    assert sum(text.startswith("label ") for text in found) == 7


def test_many_layers_are_thinned_out(tmp_path: Path) -> None:
    root = make(tmp_path, layers=tuple(range(80)), rows=6, width=4)
    with actstore.open(root) as store:
        assert "layer 79" in texts(plots.pca(store.select()))
        ticks = {text for text in texts(plots.norms(store.select())) if text.isdigit()}
    assert {"0", "5", "75"} <= ticks
    assert "79" not in ticks


def test_a_sample_is_stated(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path, layers=(0,))) as store:
        found = texts(plots.pca(store.select(), rows=10))
        assert "10 of 40 rows, drawn with seed 0" in found
        assert any("10 of 120" in text or "10 of 40" in text for text in found)


def test_a_layer_of_one_row(tmp_path: Path) -> None:
    stores.add(tmp_path, stores.vectors(1, 4, "float16", 0), label=["a"], task=[None])
    with actstore.open(tmp_path) as store:
        for kind in (plots.histogram, plots.heatmap, plots.norms, plots.pca):
            assert texts(kind(store.select()))
        with pytest.raises(TooFewRowsError):
            plots.similarity(store.select())
        with pytest.raises(TooFewRowsError):
            plots.auroc(store.select())


def test_embeddings_are_drawn_with_the_residual_stream(tmp_path: Path) -> None:
    make(tmp_path, layers=(0, 1))
    matrix = stores.vectors(40, 12, "float16", 5)
    labels = ["yes", "no"] * 20
    stores.add(tmp_path, matrix, layer=-1, site="embeddings", label=labels, task=[None] * 40)
    with actstore.open(tmp_path) as store:
        for kind in KINDS:
            assert texts(kind(store.select()))
        assert "40 examples" in " ".join(texts(plots.similarity(store.select())))


def test_a_heatmap_says_what_is_blank(tmp_path: Path) -> None:
    matrix = np.ones((6, 4), np.float32)
    meta = [{"example_id": str(n)} for n in range(6)]
    with actstore.open(tmp_path / "s", create=True) as store:
        store.write({("resid_post", 1): matrix}, meta, model="org/m")
        assert not any("blank" in text for text in texts(plots.heatmap(store.refresh().select())))
        matrix[:, 2] = 0
        store.write({("resid_post", 2): matrix}, meta, model="org/m")
        shown = texts(plots.heatmap(store.refresh().select()))
    assert any("blank: nothing but zeros" in text for text in shown)


def test_a_layer_without_a_finite_vector_leaves_the_others(tmp_path: Path) -> None:
    root = make(tmp_path, layers=(0, 1))
    with actstore.open(root) as store:
        layer = store.select(layer=0)
        columns = layer.table(["example_id", "label"]).to_pydict()
    matrix = np.full((40, 12), np.nan, np.float32)
    stores.add(root, matrix, layer=2, task=[None] * 40, **columns)
    with actstore.open(root) as store:
        found = texts(plots.pca(store.select()))
        assert {"layer 0", "layer 2", "no finite vector"} <= set(found)
        assert any("40 not finite" in text for text in found)
        assert "blank: no finite value" in " ".join(texts(plots.heatmap(store.select())))
        assert "40 of them not finite" in " ".join(texts(plots.norms(store.select())))
        assert "480 not finite" in " ".join(texts(plots.histogram(store.select())))
        assert "blank: vectors all alike" in " ".join(texts(plots.similarity(store.select())))


def test_an_example_that_is_not_finite_does_not_make_layers_unlike(tmp_path: Path) -> None:
    matrix = 30 + np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    stores.add(tmp_path, matrix, layer=0)
    matrix[3, 0] = np.nan
    stores.add(tmp_path, matrix, layer=1)
    with actstore.open(tmp_path) as store:
        figure = plots.similarity(store.select())
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.00"] * 4
    assert "39 examples" in figure.caption
    assert "1 left out, not finite in some layer" in figure.caption


def test_layers_that_do_not_vary_have_no_similarity(tmp_path: Path) -> None:
    for layer in (0, 1):
        stores.add(tmp_path, np.full((9, 4), layer, np.float16), layer=layer)
    with actstore.open(tmp_path) as store, pytest.raises(TooFewRowsError, match="all alike"):
        plots.similarity(store.select())


def test_names_of_classes_are_not_cut_off(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path, layers=(3,), rows=30)) as store:
        figure = plots.similarity(store.select())
    plots.render(figure, ".png")
    names = [text for text in figure.axes[0].get_yticklabels() if text.get_text()]
    assert [name.get_text() for name in names] == ["no (15)", "yes (15)"]
    assert all(name.get_window_extent().x0 >= 0 for name in names)


def test_long_names_that_begin_alike_stay_apart_in_legends(tmp_path: Path) -> None:
    long = "a name that begins as all the others do "
    with actstore.open(make(tmp_path, labels=(long + "left", long + "right"))) as store:
        for kind in (plots.pca, plots.norms, plots.histogram):
            found = [text for text in texts(kind(store.select())) if text.startswith("a name")]
            assert len(set(found)) == 2
        title = plots.auroc(store.select()).get_suptitle()
        assert "left" in title
        assert "right" in title


def test_long_names_that_differ_in_the_middle_have_their_own_marks(tmp_path: Path) -> None:
    labels = tuple(f"a name that begins as others do {n} and ends as they do" for n in range(9))
    with actstore.open(make(tmp_path, labels=labels, layers=(3,), rows=90)) as store:
        bars, points = (kind(store.select()).legends[0] for kind in (plots.histogram, plots.pca))
        for legend in (bars, points):
            assert len({text.get_text() for text in legend.get_texts()}) == 8
        assert len({line.get_marker() for line in points.get_lines()}) == 8
        for kind in (plots.norms, plots.heatmap, plots.similarity):
            names = [text.get_text() for text in kind(store.select()).axes[0].get_yticklabels()]
            assert len(set(names)) == len(names) > 1
        assert "5 others" in plots.auroc(store.select(), positive=labels[4]).get_suptitle()


def test_dimensions_are_whole_numbers_and_columns_hold_what_is_said(tmp_path: Path) -> None:
    stores.add(tmp_path / "one", stores.vectors(20, 1, "float16", 0))
    with actstore.open(tmp_path / "one") as store:
        ticks = plots.heatmap(store.select()).axes[0].get_xticks()
    assert all(float(tick).is_integer() for tick in ticks)
    stores.add(tmp_path / "few", stores.vectors(20, 8, "float16", 0))
    with actstore.open(tmp_path / "few") as store:
        image = plots.heatmap(store.select()).axes[0].images[0]
    assert list(image.get_extent()[:2]) == [-0.5, 7.5]  # a number is at its dimension
    stores.add(tmp_path / "wide", stores.vectors(5, 500, "float16", 0))
    with actstore.open(tmp_path / "wide") as store:
        assert "largest of up to 2 dimensions" in plots.heatmap(store.select()).get_supxlabel()


def test_boxes_keep_the_colours_of_their_classes(tmp_path: Path) -> None:
    matrix = stores.vectors(30, 4, "float32", 0)
    matrix[:10] = np.nan
    labels = ["a"] * 10 + ["b"] * 10 + ["c"] * 10
    stores.add(tmp_path, matrix, label=labels)
    with actstore.open(tmp_path) as store:
        boxes = plots.norms(store.select()).axes[0].patches
    colours = [mpl.colors.to_hex(box.get_facecolor()) for box in boxes]
    assert colours == [colour.lower() for colour in looks.COLOURS[1:3]]


def test_a_histogram_keeps_layers_apart(tmp_path: Path) -> None:
    for layer, scale in ((0, 1.0), (1, 2.0), (2, 100.0)):
        stores.add(tmp_path, stores.vectors(60, 8, "float32", 0) * np.float32(scale), layer=layer)
    with actstore.open(tmp_path) as store:
        alike = plots.histogram(store.select(layer=[0, 1]))
        apart = plots.histogram(store.select())
    assert [axes.get_title() for axes in apart.axes] == ["layer 0", "layer 1", "layer 2"]
    assert alike.axes[0].get_xlim() == alike.axes[1].get_xlim()
    assert apart.axes[0].get_xlim()[1] < 10 < apart.axes[2].get_xlim()[1]
    assert "each layer has axes of its own" in apart.caption
    assert "axes" not in alike.caption
    assert "not finite" not in alike.caption


def test_a_histogram_of_one_value_has_room_beside_it(tmp_path: Path) -> None:
    stores.add(tmp_path, np.full((6, 4), 2, np.float32), layer=0)
    with actstore.open(tmp_path) as store:
        (axes,) = plots.histogram(store.select(), by=None).axes
    (drawn,) = axes.patches
    assert isinstance(drawn, StepPatch)
    _, edges, _ = drawn.get_data()
    assert (edges[0], edges[-1]) == (1, 3)


@each_kind
def test_a_picture_fits_a_page(kind: Callable[..., Figure], tmp_path: Path) -> None:
    with actstore.open(make(tmp_path, layers=tuple(range(4)))) as store:
        across, down = kind(store.select()).get_size_inches()
    assert across <= 10
    assert down <= 10


@pytest.mark.parametrize("of", ["norm", "direction"])
def test_a_histogram_of_one_number_per_row(tmp_path: Path, of: str) -> None:
    matrix = stores.vectors(60, 8, "float32", 0)
    direction = np.arange(8) - 2.0
    stores.add(tmp_path, matrix, layer=3)
    with actstore.open(tmp_path) as store:
        figure = plots.histogram(store.select(), by=None, of=of if of == "norm" else direction)
    numbers = np.linalg.norm(matrix, axis=1)
    if of == "direction":
        numbers = matrix @ direction / np.linalg.norm(direction)
    (axes,) = figure.axes
    (drawn,) = axes.patches
    assert isinstance(drawn, StepPatch)
    heights, edges, _ = drawn.get_data()
    assert np.allclose(heights, np.histogram(numbers, edges, density=True)[0])
    assert heights.sum() * np.diff(edges)[0] == pytest.approx(1)
    assert axes.get_yscale() == "linear"
    assert axes.get_xlabel() == ("L2 norm" if of == "norm" else "along the direction")


def test_rows_in_another_order_keep_their_classes(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path, layers=(0,), labels=("yes", "no", "no"))) as store:
        rows = store.select()
        halves = rows[[*range(20, 40), *range(20)]]
        points, same = (plots.pca(each).axes[0].collections for each in (rows, halves))
        steps, alike = (plots.histogram(each, of="norm").axes[0].patches for each in (rows, halves))
    assert [np.shape(one.get_offsets()) for one in same] == [
        np.shape(one.get_offsets()) for one in points
    ]
    for one, other in zip(steps, alike, strict=True):
        assert isinstance(one, StepPatch)
        assert isinstance(other, StepPatch)
        assert np.array_equal(one.get_data()[0], other.get_data()[0])


def test_what_a_histogram_cannot_be_of(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path)) as store:
        rows = store.select()
        with pytest.raises(UsageError, match="expected 'values', 'norm' or a direction"):
            plots.histogram(rows, of="norms")
        with pytest.raises(UsageError, match="not all of them 0"):
            plots.histogram(rows, of=np.zeros(12))
        with pytest.raises(MismatchError, match="has 5 values, the vectors have 12"):
            plots.histogram(rows, of=np.ones(5))


def test_a_similarity_s_colours_span_what_differs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((60, 8))
    for layer in range(3):
        noise = 0.1 * rng.standard_normal((60, 8))
        stores.add(tmp_path, (shared + noise).astype(np.float32), layer=layer)
    with actstore.open(tmp_path) as store:
        figure = plots.similarity(store.select())
    (image,) = figure.axes[0].images
    cells = np.asarray(image.get_array())
    beside = cells[~np.eye(3, dtype=bool)]
    low, high = image.get_clim()
    assert 0.9 <= low <= beside.min()
    assert beside.max() <= high
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written == [f"{value:.2f}" for value in cells.ravel()]
    # The first layer is on the left and on top, as in any matrix.
    assert figure.axes[0].yaxis_inverted()
