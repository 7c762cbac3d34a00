"""Saved probes score the rows they were made for, and no others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore.analysis.examples.place_rows import RowChoice
from actstore.analysis.probes import probe_files, probing, scoring
from actstore.analysis.probes.splits import ProbeSettings
from actstore.errors import MismatchError, NotInStoreError, UsageError
from tests.analysis import labelled


@pytest.fixture
def probes(tmp_path: Path) -> Path:
    labelled.layered(tmp_path / "train", {3: 2.0, None: 2.0}, rows=60, width=32)
    with actstore.open(tmp_path / "train") as store:
        report = probing.probe(store, settings=ProbeSettings(permutations=0))
    probe_files.save(report, tmp_path / "probes")
    return tmp_path / "probes"


def test_scores_tell_the_classes_of_new_rows(tmp_path: Path, probes: Path) -> None:
    positive = labelled.layered(
        tmp_path / "new", {3: 2.0, None: 2.0}, rows=40, width=32, seed=4, first=60
    )
    with actstore.open(tmp_path / "new") as store:
        found = scoring.score(store, probes)
        assert [one.place.layer for one in found] == [3, None]
        for one in found:
            assert one.auroc is not None
            assert one.auroc.value > 0.9
            assert one.in_sample == (0, False)
            assert one.classes == ["yes" if score > 0 else "no" for score in one.scores]
            assert ((one.scores > 0) == positive).mean() > 0.85
        table = scoring.table(store, found)
        assert table.num_rows == 80
        assert table["score"].to_pylist()[:40] == found[0].scores.tolist()
        assert table["row_id"].to_pylist() == list(range(80))


def test_intervals_count_what_the_probe_kept_together(tmp_path: Path) -> None:
    cities = np.repeat(np.arange(20), 8)
    labels = ["yes" if city % 2 else "no" for city in cities]
    for first, name in enumerate(("train", "new", "bare")):
        draw = np.random.default_rng(first)
        matrix = draw.standard_normal((160, 8)) + draw.standard_normal((20, 8))[cities]
        named = [json.dumps({"city": f"{name} {city}"}) for city in cities]
        columns: dict[str, Any] = {} if name == "bare" else {"extra": named}
        labelled.add(
            tmp_path / name, matrix.astype(np.float32), labels, first=1000 * first, **columns
        )
    widths = []
    for group_by in ("extra.city", None):
        with actstore.open(tmp_path / "train") as store:
            report = probing.probe(
                store, group_by=group_by, settings=ProbeSettings(permutations=0, seed=1)
            )
        probe_files.save(report, tmp_path / str(group_by))
        for name in ("new", "bare"):
            with actstore.open(tmp_path / name) as store:
                (one,) = scoring.score(store, tmp_path / str(group_by))
            assert one.auroc is not None
            assert one.accuracy is not None
            widths.append([each.high - each.low for each in (one.auroc, one.accuracy)])
            assert any("extra.city" in note for note in one.notes) == (
                group_by is not None and name == "bare"
            )
    cities_counted, bare, *others = np.array(widths)
    assert (cities_counted > 1.5 * others[0]).all()
    # Where the rows do not have what was named, it is as if nothing had been.
    np.testing.assert_allclose(bare, others[1])


def test_rows_without_labels_are_scored_too(tmp_path: Path, probes: Path) -> None:
    matrix = np.ones((3, 32), np.float32)
    labelled.add(tmp_path / "new", matrix, [None] * 3, layer=3, first=60)
    with actstore.open(tmp_path / "new") as store:
        (one,) = scoring.score(store, probes, choice=RowChoice(layers=[3]))
        assert one.auroc is one.accuracy is None
        assert len(one.scores) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "other/model"}, r"org/model.*other/model"),
        ({"site": "mlp_out"}, r"resid_post.*mlp_out"),
        ({"layer": 4}, r"layer 3.*layer 4"),
        ({"pooling": "mean"}, r"\(last\).*pooling mean"),
        ({"region": ["response"] * 4}, r"\(last\), region not recorded.*region response"),
    ],
)
def test_rows_of_another_place_are_refused(
    tmp_path: Path, probes: Path, change: dict[str, object], said: str
) -> None:
    matrix = np.ones((4, 32), np.float32)
    columns = {"layer": 3, **change}
    labelled.add(tmp_path / "new", matrix, ["yes", "no"] * 2, **columns)  # type: ignore[arg-type]
    with actstore.open(tmp_path / "new") as store, pytest.raises(MismatchError, match=said):
        scoring.score(store, probes)


def test_another_width_and_unknown_layers_are_refused(tmp_path: Path, probes: Path) -> None:
    labelled.add(tmp_path / "new", np.ones((4, 16), np.float32), ["yes", "no"] * 2, layer=3)
    with actstore.open(tmp_path / "new") as store:
        with pytest.raises(MismatchError, match=r"32 values.*have 16"):
            scoring.score(store, probes, choice=RowChoice(layers=[3]))
        with pytest.raises(NotInStoreError, match="no probe for"):
            scoring.score(store, probes, choice=RowChoice(layers=[9]))


def test_scores_become_labels(tmp_path: Path, probes: Path) -> None:
    labelled.layered(tmp_path / "new", {3: 2.0, None: 2.0}, rows=6, width=32, seed=4, first=60)
    with actstore.open(tmp_path / "new") as store:
        found = scoring.score(store, probes, choice=RowChoice(layers=[3]))
        commit = scoring.write_labels(store, found, "class")
        assert store.refresh().commit == commit
        assert store.select(layer=3).table(["label"])["label"].to_pylist() == found[0].classes
        scoring.write_labels(store, found, "score")
        texts = store.refresh().select(layer=3).table(["label"])["label"].to_pylist()
        np.testing.assert_allclose([float(text) for text in texts], found[0].scores, rtol=1e-5)
        with pytest.raises(UsageError, match="several probes"):
            scoring.write_labels(store, found * 2, "class")


def test_labels_with_other_names_are_said_to_be_taken_for_the_classes(
    tmp_path: Path, probes: Path
) -> None:
    matrix = labelled.vectors(np.arange(12) < 4, 32, 2.0, 5)
    labels = ["yes"] * 4 + ["none"] * 4 + ["no idea"] * 4
    labelled.add(tmp_path / "new", matrix, labels, layer=3, first=60)
    with actstore.open(tmp_path / "new") as store:
        (one,) = scoring.score(store, probes, choice=RowChoice(layers=[3]))
    assert one.notes == ("no idea or none is taken for the probe's no",)


def test_a_class_whose_name_begins_like_the_others_is_not_taken_for_it(tmp_path: Path) -> None:
    positive = np.arange(60) % 2 == 0
    matrix = labelled.vectors(positive, 32, 2.0, 5)
    kinds = ["harm" if each else "harmless" for each in positive]
    labelled.add(tmp_path / "train", matrix, kinds, layer=3)
    with actstore.open(tmp_path / "train") as store:
        report = probing.probe(store, positive="harm", settings=ProbeSettings(permutations=0))
    probe_files.save(report, tmp_path / "harm")
    matrix = labelled.vectors(np.zeros(20, bool), 32, 2.0, 6)
    labelled.add(tmp_path / "new", matrix, ["harmless"] * 20, layer=3, first=60)
    with actstore.open(tmp_path / "new") as store:
        (one,) = scoring.score(store, tmp_path / "harm")
    assert one.classes is not None
    assert one.accuracy is not None
    assert one.accuracy.value == one.classes.count("harmless") / 20 > 0.8
    assert one.notes == ()
