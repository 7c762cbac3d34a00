"""`--mixed`: which commands refuse rows of several places, and what they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.commands.conftest import LAYERS, Command
from tests.querying import places


def test_select_saves_one_place_or_what_was_listed(
    actstore: Command, store: Path, tmp_path: Path
) -> None:
    target = tmp_path / "x.npz"
    refused = actstore("select", store, "-o", target)
    assert refused.code == 1
    assert "differ in layer (3, 7)" in refused.err
    assert "--layers 3 on the command line" in refused.err
    assert "(--mixed)" in refused.err
    assert not target.exists()
    listed = ("--layer", LAYERS[0], "--layer", LAYERS[1])
    for words in (("--layer", 3), listed, ("--mixed",)):
        assert actstore("select", store, *words, "-o", target).code == 0
    with np.load(target) as file:
        assert len(file["activation"]) == 40
    assert actstore("select", store, "-o", tmp_path / "x.parquet").code == 0
    assert actstore("select", store, "--format", "csv").code == 0


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt"])
def test_every_format_of_a_matrix_refuses(
    actstore: Command, store: Path, tmp_path: Path, name: str
) -> None:
    assert actstore("select", store, "-o", tmp_path / name).code == 1
    assert not (tmp_path / name).exists()


def test_nearest(actstore: Command, store: Path) -> None:
    words = ("nearest", store, "--row", 3, "-k", 40, "--format", "csv")
    refused = actstore(*words)
    assert refused.code == 1
    assert "differ in layer (3, 7)" in refused.err
    assert len(actstore(*words, "--layer", 3).out.splitlines()) == 20
    assert len(actstore(*words, "--layer", 3, "--layer", 7).out.splitlines()) == 40
    assert len(actstore(*words, "--mixed").out.splitlines()) == 40


def test_stats_and_compare_divide_by_pooling_and_region(actstore: Command, tmp_path: Path) -> None:
    pools = (("last", "prompt"), ("mean", "prompt"))
    places.write(tmp_path, places.places(pools=pools, layer=(3, 7)))
    document = json.loads(actstore("stats", tmp_path, "--json").out)
    assert document["by"] == ["model", "site", "pooling", "region", "layer"]
    assert [one["rows"] for one in document["groups"]] == [6] * 4
    refused = actstore("stats", tmp_path, "--by", "layer")
    assert refused.code == 1
    assert "pooling (last, mean)" in refused.err
    assert "--by layer,pooling" in refused.err
    for words in (("--mixed",), ("--pooling", "last", "--pooling", "mean")):
        document = json.loads(actstore("stats", tmp_path, "--by", "layer", *words, "--json").out)
        assert [one["rows"] for one in document["groups"]] == [12, 12]
    sides = ("--a", "label = 'yes'", "--b", "label = 'no'")
    found = json.loads(actstore("compare", tmp_path, *sides, "--json").out)["layers"]
    assert [(one["a"]["pooling"], one["a"]["layer"], one["rows_a"]) for one in found] == [
        ("last", 3, 3),
        ("last", 7, 3),
        ("mean", 3, 3),
        ("mean", 7, 3),
    ]
    header = actstore("compare", tmp_path, *sides).out.splitlines()[2]
    assert header.split()[:2] == ["pooling", "layer"]


def test_info_shows_them(actstore: Command, tmp_path: Path) -> None:
    places.write(tmp_path, places.places(pools=(("last", "prompt"), ("mean", None))))
    out = actstore("info", tmp_path).out.splitlines()
    assert out[-3].split()[:5] == ["model", "site", "pooling", "region", "layer"]
    assert [line.split()[2:4] for line in out[-2:]] == [["last", "prompt"], ["mean", "NULL"]]
    document = json.loads(actstore("info", tmp_path, "--json").out)
    assert (document["poolings"], document["regions"]) == (["last", "mean"], ["prompt", None])
