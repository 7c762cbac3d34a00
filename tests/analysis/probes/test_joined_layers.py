"""Probes over several layers at once: those of the layers' vectors side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import actstore
from actstore import analysis
from actstore.analysis.examples.place_rows import ActivationPlace, RowChoice
from actstore.analysis.plots.r2 import r2
from actstore.analysis.probes import class_files, number_files, probe_files, probe_runs, scoring
from actstore.analysis.probes.number_results import NumberReport
from actstore.analysis.probes.results import ClassesReport, ProbeReport
from actstore.analysis.probes.splits import ProbeSettings
from actstore.errors import MismatchError, NotInStoreError, TooFewRowsError, UsageError
from tests.analysis import labelled
from tests.analysis.probes.test_probing import divisions

LEVEL = "extra.level"
Report = ProbeReport | ClassesReport | NumberReport


def add(
    root: Path, matrices: dict[int, np.ndarray], labels: list[Any], **columns: Any
) -> dict[int, np.ndarray]:
    """Commit a layer for each matrix; numbers as labels go into ``extra.level``."""
    if not isinstance(labels[0], str):
        columns["extra"] = [json.dumps({"level": float(each)}) for each in labels]
        labels = [None] * len(labels)
    for layer, matrix in matrices.items():
        labelled.add(root, matrix, labels, layer=layer, **columns)
    return matrices


def noise(rows: int, layers: tuple[int, ...], width: int, seed: int = 0) -> dict[int, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {layer: draw.standard_normal((rows, width)).astype(np.float32) for layer in layers}


def two_sums(rows: int, width: int = 12, seed: int = 0) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Return layers 5 and 10, and sums of what the first dimension of each holds."""
    found = noise(rows, (5, 10), width, seed)
    return found, (found[5][:, 0] + found[10][:, 0]).astype(np.float64)


def run(root: Path, label: str = "label", **options: Any) -> Any:
    names = ("method", "folds", "permutations", "seed", "strength")
    settings = {name: options.pop(name) for name in names if name in options}
    settings.setdefault("permutations", 0)
    other = options.pop("test_store", None)
    with actstore.open(root) as store, actstore.open(other or root) as tested:
        return analysis.probe(
            store,
            label,
            settings=ProbeSettings(**settings),
            test_store=tested if other else None,
            **options,
        )


@pytest.mark.parametrize("width", [6, 40])
def test_it_is_the_probe_that_scikit_learn_trains_on_the_concatenated_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    layers = noise(80, (5, 10, 15), width)
    signal = layers[5][:, 0] + layers[15][:, 1]
    positive = signal + np.random.default_rng(1).standard_normal(80) > 0
    # Committed in another order than they are joined in.
    add(
        tmp_path / "s",
        {layer: layers[layer] for layer in (15, 5, 10)},
        ["yes" if each else "no" for each in positive],
    )
    seen = divisions(monkeypatch)
    report = run(tmp_path / "s", positive="yes", join_layers=True)
    (result,) = report.results
    matrix = np.concatenate([layers[layer] for layer in (5, 10, 15)], axis=1)
    areas = []
    for fold in seen[0]:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=9000))
        scores = model.fit(matrix[fold.train], positive[fold.train]).decision_function(
            matrix[fold.test]
        )
        areas.append(roc_auc_score(positive[fold.test], scores))
    assert result.auroc.value == pytest.approx(np.mean(areas), abs=0.005)
    assert result.width == 3 * width
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=9000, tol=1e-8))
    model.fit(matrix, positive)
    np.testing.assert_allclose(
        result.probe.scores(matrix), model.decision_function(matrix), atol=2e-3
    )
    place = ActivationPlace("org/model", "resid_post", None, "last", None, (5, 10, 15))
    assert result.place == place == result.probe.place
    assert place.text == "layers 5, 10, 15 of resid_post (last)"
    assert report.to_polars()["layers"].to_list() == [[5, 10, 15]]
    assert "layers" not in run(tmp_path / "s").to_polars().columns


@pytest.mark.parametrize(
    "how",
    [
        {"task": "binary", "permutations": 19},
        {"task": "binary", "permutations": 19, "method": "mean-difference", "group_by": "mode"},
        {"task": "classes", "permutations": 19},
        {"task": "number", "permutations": 9},
        {"task": "binary", "test": "split = 'val'", "permutations": 19},
        {"task": "number", "train": "split = 'train'", "test": "split = 'val'"},
        {"task": "classes", "test_store": True},
        {"task": "number", "test_store": True},
    ],
    ids=lambda how: "-".join(map(str, how.values())),
)
def test_everything_is_that_of_one_layer_with_the_concatenated_vectors(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    rows = 60
    for name, seed in (("", 0), ("-new", 1)):
        layers = noise(rows, (2, 3), 10, seed)
        level = layers[2][:, 0] + layers[3][:, 0]
        labels: list[Any] = level.tolist()
        label = LEVEL
        if how["task"] != "number":
            names = ("a", "b") if how["task"] == "binary" else ("a", "b", "c")
            cut = np.digitize(level, np.quantile(level, np.linspace(0, 1, len(names) + 1)[1:-1]))
            labels, label = [names[each] for each in cut], "label"
        columns: dict[str, Any] = {
            "split": ["train"] * 40 + ["val"] * 20,
            "mode": [f"m{number // 2}" for number in range(rows)],
            "first": 100 * seed,
            "questions": [f"of {each:.0f} and {seed}?" for each in np.arange(rows)],
        }
        add(tmp_path / f"joined{name}", layers, labels, **columns)
        one = {0: np.concatenate(list(layers.values()), axis=1)}
        add(tmp_path / f"one{name}", one, labels, **columns)
    options = dict(how)
    found = []
    for name in ("joined", "one"):
        if how.get("test_store"):
            options["test_store"] = tmp_path / f"{name}-new"
        found.append(run(tmp_path / name, label, join_layers=name == "joined", **options))
    joined, one_layer = found
    assert joined.notes == one_layer.notes
    for left, right in zip(joined.figures(), one_layer.figures(), strict=True):
        assert left.pop("layers") == [2, 3]
        assert (left.pop("layer"), right.pop("layer")) == (None, 0)
        assert left == right
    for one_place, other in zip(joined.results, one_layer.results, strict=True):
        assert np.array_equal(one_place.made_of, other.made_of)
        assert one_place.permuted == other.permuted
        assert one_place.words == other.words
    assert joined.lineage["join_layers"] is True
    assert "join_layers" not in one_layer.lineage


def test_what_needs_two_layers_is_found_in_both_together(tmp_path: Path) -> None:
    layers, sums = two_sums(300)
    add(tmp_path / "s", layers, ["yes" if each else "no" for each in sums > 0])
    add(tmp_path / "n", layers, sums.tolist())
    apart = run(tmp_path / "s", permutations=19).results
    assert all(0.7 < each.auroc.value < 0.88 for each in apart)
    (together,) = run(tmp_path / "s", permutations=19, join_layers=True).results
    assert together.auroc.low > 0.97
    assert together.verdict == "linear direction"
    apart = run(tmp_path / "n", LEVEL).results
    assert all(0.35 < each.r2.value < 0.6 for each in apart)
    (together,) = run(tmp_path / "n", LEVEL, permutations=19, join_layers=True).results
    assert together.r2.low > 0.98
    assert together.verdict == "linear direction"


def test_without_signal_nothing_is_claimed_and_p_values_are_even(tmp_path: Path) -> None:
    labels = np.random.default_rng(3).permutation(["yes", "no"] * 20).tolist()
    for number in range(16):
        add(tmp_path / "s", noise(40, (0, 1), 30, number), labels, site=f"site_{number}")
    report = run(tmp_path / "s", permutations=39, join_layers=True)
    areas = np.array([each.auroc.value for each in report.results])
    assert len(areas) == 16
    assert abs(areas.mean() - 0.5) < 4 * areas.std() / np.sqrt(len(areas)) + 0.01
    held = np.mean([each.auroc.low <= 0.5 <= each.auroc.high for each in report.results])
    assert held >= 0.85
    p_values = np.array([each.permuted.p_value for each in report.results])
    assert 0.33 < p_values.mean() < 0.67
    assert not any("direction" in each.verdict for each in report.results)
    assert report.best.nested.low < 0.5


def test_examples_without_one_of_the_layers_are_left_out_and_counted(tmp_path: Path) -> None:
    layers, sums = two_sums(50)
    labels = ["yes" if each else "no" for each in sums > 0]
    labelled.add(tmp_path / "s", layers[5], labels, layer=5)
    labelled.add(tmp_path / "s", layers[10][:47], labels[:47], layer=10)
    labelled.add(tmp_path / "s", layers[10][:20], labels[:20], layer=5, site="mlp_out")
    report = run(tmp_path / "s", join_layers=True)
    (result,) = report.results
    assert (result.rows, result.trained_rows) == (47, 47)
    assert report.notes[:2] == [
        "layers 5, 10 of resid_post (last): 3 of 50 examples left out, without a vector and a "
        "value of label at each of these layers (3 lack layer 10)",
        "left out: layer 5 of mlp_out (last): there is no second layer to join it with",
    ]
    listed = run(tmp_path / "s", join_layers=True, choice=RowChoice(layers=[10, 5]))
    assert listed.notes[1].endswith("no row with a value of label is of layer 10")
    assert listed.results[0].auroc == result.auroc
    labelled.add(tmp_path / "new", layers[5], labels, layer=5, first=50)
    labelled.add(tmp_path / "new", layers[10][:49], labels[:49], layer=10, first=50)
    elsewhere = run(tmp_path / "s", join_layers=True, test_store=tmp_path / "new")
    assert elsewhere.results[0].rows == 49
    assert any(
        note.startswith("in the other store: layers 5, 10") and "1 of 50 examples left out" in note
        for note in elsewhere.notes
    )
    with pytest.raises(UsageError, match="name two numbered layers or more"):
        run(tmp_path / "s", join_layers=True, choice=RowChoice(layers=[5, 5, None]))
    with pytest.raises(TooFewRowsError, match=r"layer 5 of mlp_out .*no second layer"):
        run(tmp_path / "s", join_layers=True, choice=RowChoice(site="mlp_out"))


def test_rows_of_no_number_and_examples_that_differ_by_layer_are_no_part(tmp_path: Path) -> None:
    layers, sums = two_sums(40)
    labels = ["yes" if each else "no" for each in sums > 0]
    other = ["no" if each == "yes" else "yes" for each in labels[:4]] + labels[4:]
    nothing = [None] * 40
    labelled.add(tmp_path / "s", layers[5], labels, layer=5, variant=["a"] * 40, questions=nothing)
    labelled.add(tmp_path / "s", layers[10], other, layer=10, variant=["a"] * 40)
    labelled.add(tmp_path / "s", layers[10], labels, layer=None, variant=["a"] * 40)
    report = run(tmp_path / "s", join_layers=True)
    assert report.results[0].rows == 36
    assert report.results[0].words is not None
    assert "rows without a layer's number are left out" in report.notes[0]
    assert "4 examples left out whose label is not the same at all" in report.notes[1]
    with pytest.raises(UsageError, match="at one layer and into another at another"):
        run(tmp_path / "s", join_layers=True, group_by="coalesce(layer, 0) * 1000 + row_id")
    labelled.add(tmp_path / "d", layers[5], labels, layer=5, first=0)
    labelled.add(tmp_path / "d", layers[10], labels, layer=10, first=40)
    with pytest.raises(
        TooFewRowsError, match=r"no example has .*40 lack layer 5, 40 lack layer 10"
    ):
        run(tmp_path / "d", join_layers=True)


def test_embeddings_are_joined_to_the_stream_that_begins_with_them(tmp_path: Path) -> None:
    layers, sums = two_sums(60)
    labels = ["yes" if each else "no" for each in sums > 0]
    labelled.add(tmp_path / "s", layers[5], labels, layer=-1, site="embeddings")
    labelled.add(tmp_path / "s", layers[10], labels, layer=0)
    labelled.add(tmp_path / "s", layers[10][::-1].copy(), labels, layer=1)
    report = run(tmp_path / "s", join_layers=True)
    (result,) = report.results
    assert result.place.text == "layers embed, 0, 1 of resid_post (last)"
    assert result.width == 36
    probe_files.save(report, tmp_path / "out")
    with actstore.open(tmp_path / "s") as store:
        (scored,) = scoring.score(store, tmp_path / "out", in_sample=True)
        table = scoring.table(store, [scored])
    assert table.select(["site", "layer", "layers"]).slice(0, 1).to_pylist() == [
        {"site": "resid_post", "layer": None, "layers": "-1, 0, 1"}
    ]
    matrix = np.concatenate([layers[5], layers[10], layers[10][::-1]], axis=1)
    np.testing.assert_allclose(scored.scores, result.probe.scores(matrix))


def test_a_saved_probe_scores_the_same_layers_of_new_rows(tmp_path: Path) -> None:
    layers, sums = two_sums(80)
    add(tmp_path / "s", layers, ["yes" if each else "no" for each in sums > 0])
    report = run(tmp_path / "s", positive="yes", join_layers=True)
    written = probe_files.save(report, tmp_path / "out")
    assert {path.name for path in written} == {
        *("report.json", "layers_5_10.safetensors", "probe_stats_layers_5_10.csv")
    }
    (entry,) = json.loads((tmp_path / "out/report.json").read_text())
    assert (entry["layer"], entry["layers"], entry["site"]) == (None, [5, 10], "resid_post")
    (saved,) = probe_files.load(tmp_path / "out")
    assert saved.probe.place == report.results[0].place
    with actstore.open(tmp_path / "s") as store:
        with pytest.raises(TooFewRowsError, match=r"layers 5, 10 .*all 80 rows share"):
            scoring.score(store, tmp_path / "out")
        with pytest.raises(NotInStoreError, match="no probe for layer"):
            scoring.score(store, tmp_path / "out", choice=RowChoice(layers=[5]))
    new, sums = two_sums(30, seed=9)
    truth = ["yes" if each else "no" for each in sums > 0]
    labelled.add(tmp_path / "new", new[10], truth, layer=10, first=80)
    with (
        actstore.open(tmp_path / "new") as store,
        pytest.raises(
            MismatchError, match=r"made for layers 5, 10 .* has no layer 5 .*\(it has layer 10\)"
        ),
    ):
        scoring.score(store, tmp_path / "out")
    labelled.add(tmp_path / "new", new[5][:28], truth[:28], layer=5, first=80)
    with actstore.open(tmp_path / "new") as store:
        (scored,) = scoring.score(store, tmp_path / "out", choice=RowChoice(layers=[5, 10]))
        assert scored.lacking == 2
        matrix = np.concatenate([new[5], new[10]], axis=1)[:28]
        np.testing.assert_allclose(scored.scores, saved.probe.scores(matrix))
        assert scored.auroc is not None
        assert scored.auroc.value > 0.9
        table = scoring.table(store, [scored])
        assert table["layers"].to_pylist() == ["5, 10"] * 28
        assert table["layer"].null_count == 28
        scoring.write_labels(store, [scored], "class")
        named = store.refresh().select(layer=10).table(["example_id", "label"]).to_pylist()
        assert [row["label"] for row in named[:28]] == scored.classes
        assert [row["label"] for row in named[28:]] == truth[28:]
        assert store.select(layer=5).table(["label"])["label"].to_pylist() == scored.classes


def test_probes_of_classes_and_numbers_are_saved_and_scored_too(tmp_path: Path) -> None:
    layers, sums = two_sums(60)
    new, level = two_sums(30, seed=4)
    names = np.array(["a", "b", "c"])
    add(tmp_path / "c", layers, names[np.digitize(sums, [-0.6, 0.6])].tolist())
    add(tmp_path / "n", layers, sums.tolist())
    add(tmp_path / "new", new, level.tolist(), first=100)
    class_files.save(run(tmp_path / "c", join_layers=True), tmp_path / "classes")
    numbered = run(tmp_path / "n", LEVEL, join_layers=True)
    number_files.save(numbered, tmp_path / "numbers")
    with actstore.open(tmp_path / "new") as store:
        (highest,) = scoring.score(store, tmp_path / "classes/probes/c")
        assert np.corrcoef(highest.scores, level)[0, 1] > 0.8
        (predicted,) = scoring.score(store, tmp_path / "numbers")
    assert predicted.r2 is not None
    assert predicted.r2.value > 0.97
    with pytest.raises(UsageError, match="a point for each layer"):
        r2(numbered.results, "R²")


def test_pictures_by_layer_leave_joined_probes_out(tmp_path: Path) -> None:
    layers, sums = two_sums(40)
    add(tmp_path / "s", layers, ["yes" if each else "no" for each in sums > 0])
    probe_files.save(run(tmp_path / "s", join_layers=True), tmp_path / "out")
    with pytest.raises(UsageError, match=r"join several layers, and the picture is one by layer"):
        probe_runs.read(tmp_path / "out")
    with actstore.open(tmp_path / "s") as store:
        assert probe_runs.beside([tmp_path], store.select(), "label", whole=True) == []


@pytest.mark.parametrize(
    ("layers", "listed", "word"),
    [
        ((5, 10, 15), "5, 10, 15", "layers_5_10_15"),
        ((-1, 0, 1, 2, 3, 7, 8), "embed, 0-3, 7, 8", "layers_embed_0-3_7_8"),
        (tuple(range(0, 200, 2)), None, "layers_0_to_198"),
    ],
)
def test_layers_in_words(layers: tuple[int, ...], listed: str | None, word: str) -> None:
    place = ActivationPlace("m", "resid_post", None, "last", None, layers)
    assert listed is None or place.listed == listed
    assert place.file_word == word
    assert ActivationPlace.of(json.loads(json.dumps(place.named))) == place
    for wrong in (5, ["5"]):
        with pytest.raises(ValueError, match="layers must be a list of numbers"):
            ActivationPlace.of({**place.named, "layers": wrong})
