"""Contracts: built in or the user's own, every violation at once, nothing stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from actstore.errors import ContractError, UsageError
from actstore.ingestion.contract import (
    Contract,
    Count,
    Shape,
    check,
    enforce,
    known,
    load,
    parse,
)
from actstore.ingestion.run import ingest
from tests.layouts import faithfulness


def count(rows: int, label: str | None = "faithful", **changes: Any) -> Count:
    values = {
        "model": "m",
        "dataset": None,
        "site": "resid_post",
        "layer": 6,
        "label": label,
        "width": 8,
        "dtype": "float16",
        "rows": rows,
    }
    return Count(**(values | changes))


GOOD = [count(30), count(14, "unfaithful")]


def test_what_keeps_the_contract() -> None:
    rules = load("faithfulness-v1")
    shapes = [Shape("layer_6.pt#faithful", (30, 8), "float16")]
    assert check(rules, GOOD, shapes) == ()
    assert check(rules, [count(9), count(1), *GOOD[1:]]) == ()
    enforce(rules, GOOD)


@pytest.mark.parametrize(
    ("counts", "shapes", "expected"),
    [
        ([], [], "there are no rows"),
        ([count(9), GOOD[1]], [], "layer 6: 9 rows of faithful; at least 10 are needed"),
        ([count(30)], [], "layer 6: 0 rows of unfaithful; at least 10 are needed"),
        ([*GOOD, count(3, None)], [], "layer 6: 3 rows without a label"),
        ([*GOOD, count(3, "maybe")], [], "layer 6: label 'maybe' (3 rows); expected faithful or"),
        ([*GOOD, count(2, width=9)], [], "layer 6: widths differ: 8 (44 rows), 9 (2 rows)"),
        ([*GOOD, count(2, dtype="float64")], [], "layer 6: 2 rows are stored as float64"),
        ([each._replace(layer=7) for each in GOOD], [], "layer 7: not one of the layers 6, 12, 18"),
        ([each._replace(layer=None) for each in GOOD], [], "layer unknown: not one of the layers"),
        (
            GOOD,
            [Shape("f#k", (30, 1, 8), "float16")],
            "f#k: shape [30, 1, 8] has 3 axes",
        ),
        (GOOD, [Shape("f#k", (30, 8), "bfloat16")], "f#k: type bfloat16; expected float16 or"),
    ],
)
def test_violations(counts: list[Count], shapes: list[Shape], expected: str) -> None:
    found = check(load("faithfulness-v1"), counts, shapes)
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_every_violation_is_told_at_once() -> None:
    counts = [count(3), count(2, None), count(4, layer=7), count(20, "unfaithful", layer=7)]
    with pytest.raises(ContractError) as caught:
        enforce(load("faithfulness-v1"), counts, [Shape("f#k", (3,), "int8")])
    assert caught.value.contract == "faithfulness-v1"
    assert caught.value.violations == (
        "f#k: shape [3] has 1 axes; expected 2",
        "f#k: type int8; expected float16 or float32",
        "layer 6: 2 rows without a label",
        "layer 6: 3 rows of faithful; at least 10 are needed",
        "layer 6: 0 rows of unfaithful; at least 10 are needed",
        "layer 7: not one of the layers 6, 12, 18, 24",
        "layer 7: 4 rows of faithful; at least 10 are needed",
    )
    assert str(caught.value).count("\n  - ") == 7


def test_groups_are_told_apart_by_model_and_data_set() -> None:
    rules = Contract(name="c", min_rows_per_class=5)
    found = check(rules, [count(3), count(9, dataset="d"), count(4, model="n", dataset="d")])
    assert found == (
        "m, resid_post, layer 6: 3 rows of faithful; at least 5 are needed",
        "n, d, resid_post, layer 6: 4 rows of faithful; at least 5 are needed",
    )


def test_further_rules() -> None:
    rules = Contract(name="c", max_rows_per_class=5, width=9, sites=("mlp_out",))
    assert check(rules, [count(6)]) == (
        "layer 6: site resid_post; expected mlp_out",
        "layer 6: 6 rows of faithful; at most 5 are allowed",
        "layer 6: width 8; expected 9",
    )
    assert check(Contract(name="c", classes=("a",)), [count(1, "b")]) == (
        "layer 6: label 'b' (1 rows); expected a",
        "layer 6: no rows of a",
    )


def test_the_built_in_contracts_are_sound() -> None:
    assert "faithfulness-v1" in known()
    for name in known():
        assert load(name).name == name


def test_a_contract_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"name": "mine", "layers": [1], "width": None}))
    assert load(path) == Contract(name="mine", layers=(1,))


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ([], ["a contract is a JSON object"]),
        ({}, ["name: got nothing"]),
        (
            {"name": "x", "layer": [1], "classes": "a", "rank": True, "layers": ["6"]},
            [
                "layer: an unknown key (did you mean 'layers'?)",
                "classes: got 'a'; expected a list of texts",
                "rank: got True; expected a whole number",
                "layers: got ['6']; expected a list of whole numbers",
            ],
        ),
    ],
)
def test_a_malformed_contract_tells_every_problem(document: Any, expected: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse(document, "mine.json")
    assert "mine.json" in str(caught.value)
    for words in expected:
        assert words in str(caught.value)


def test_an_unknown_contract_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no contract 'x': built in are faithfulness-v1"):
        load("x")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UsageError, match="not valid JSON"):
        load(tmp_path / "bad.json")


def test_nothing_is_stored_where_the_contract_is_broken(tmp_path: Path) -> None:
    faithfulness.write_v1(tmp_path / "project", faithful=30, unfaithful=14)
    ingest(tmp_path / "project", tmp_path / "store", contract="faithfulness-v1")
    path = next((tmp_path / "project").rglob("layer_12_activations.pt"))
    path.rename(path.with_name("layer_13_activations.pt"))
    document = torch.load(path.with_name("layer_6_activations.pt"), weights_only=True)
    short = {name: tensor[:5].bfloat16() for name, tensor in document.items()}
    folder = tmp_path / "alone"
    folder.mkdir()
    torch.save(short, folder / "layer_6_activations.pt")
    with pytest.raises(ContractError) as caught:
        ingest(folder, tmp_path / "other", contract="faithfulness-v1", model="m")
    assert len(caught.value.violations) == 4
    assert not list((tmp_path / "other").glob("manifests/*"))
    with pytest.raises(ContractError, match="layer 13"):
        ingest(tmp_path / "project", tmp_path / "other", contract="faithfulness-v1")
    assert not list((tmp_path / "other").glob("manifests/*"))
    assert not list((tmp_path / "other").rglob("*.parquet"))
