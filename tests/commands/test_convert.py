"""`actstore convert`: measured, shown, refused or done, and on record."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from actstore.ingestion.memory import write
from actstore.storage import manifest as manifests
from actstore.storage.snapshot import open_snapshot
from tests.commands.conftest import Command


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Layer 0 tells the classes apart at any step, layer 1 below the step of int8."""
    rng = np.random.default_rng(0)
    truth = np.arange(80) % 2
    vectors = rng.standard_normal((80, 8)).astype(np.float32) * 0.1
    vectors[:, 0] += truth
    hidden = vectors.copy()
    hidden[:, 3] = 1000
    metadata = {"example_id": [f"e{n}" for n in range(80)], "label": [f"c{n}" for n in truth]}
    layers = {("resid_post", 0): vectors, ("resid_post", 1): hidden}
    write(tmp_path / "s", layers, metadata, model="m")
    return tmp_path / "s"


def test_a_conversion_is_reported_and_recorded(
    actstore: Command, labelled: Path, tmp_path: Path
) -> None:
    dry = actstore("convert", labelled, "--to", "compact16", "--dry-run")
    assert "nothing was converted: --dry-run" in dry.out
    assert manifests.numbers(labelled) == [1]
    done = json.loads(actstore("convert", labelled, "--to", "compact16", "--json").out)
    assert done["commit"] == 2
    assert [place["layer"] for place in done["places"]] == [0, 1]
    report = json.loads((labelled / done["report"]).read_text())
    assert report["places"] == done["places"]
    run = open_snapshot(labelled).manifest.runs[-1]
    assert run.settings["worst_probe"]["score"] == "AUROC"
    assert run.settings["max_harm"] == 0.005
    again = actstore("convert", labelled, "--to", "compact16")
    assert "nothing to do: no vector gets smaller as compact16" in again.out
    assert manifests.numbers(labelled) == [1, 2]


def test_a_conversion_that_costs_too_much_is_refused(actstore: Command, labelled: Path) -> None:
    refused = actstore("convert", labelled, "--to", "int8")
    assert refused.code == 1
    assert "layer 1 of resid_post" in refused.err
    assert "nothing was converted" in refused.err
    assert "AUROC" in refused.out  # the table comes before
    assert manifests.numbers(labelled) == [1]
    out = labelled.parent / "out"
    done = actstore("convert", labelled, "--to", "int8", "--max-harm", "1", "--out", out)
    assert done.code == 0
    assert {entry.dtype for entry in open_snapshot(out).shards} == {"int8"}
    assert manifests.numbers(labelled) == [1]


def test_without_labels_a_limit_cannot_be_held(actstore: Command, tmp_path: Path) -> None:
    store = tmp_path / "s"
    vectors = np.random.default_rng(0).standard_normal((9, 8)).astype(np.float32)
    write(store, {("mlp_out", 0): vectors}, {"example_id": list("abcdefghi")}, model="m")
    refused = actstore("convert", store, "--to", "int8", "--max-harm", "0.01")
    assert refused.code == 1
    assert "cannot be held" in refused.err
    done = actstore("convert", store, "--to", "int8")
    assert done.code == 0
    assert "no probe of" in done.err
