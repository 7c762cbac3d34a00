"""Contrastive caches come back as they were, and document 002's cache reader reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import actstore
from actstore.errors import ExportError
from actstore.ingestion.run import ingest
from tests.exporting.trips import assert_same_files, export, round_trip
from tests.layouts import contrastive

MODEL = {"model": "meta-llama/Llama-3.3-70B-Instruct"}
WRITERS = {
    "stacked": lambda cache: contrastive.write_stacked(cache),
    "stacked, two axes": lambda cache: contrastive.write_stacked(
        cache, token_axis=False, dtype=torch.float16
    ),
    "individual": lambda cache: contrastive.write_individual(cache),
    "individual, newer": lambda cache: contrastive.write_individual(
        cache, batch_axis=False, examples=3
    ),
    "individual, pooled": lambda cache: contrastive.write_individual(cache, tokens=1, examples=3),
    "validation": lambda cache: contrastive.write_validation_stacked(cache),
    "validation, individual": lambda cache: contrastive.write_validation_individual(cache),
    "validation, newer": lambda cache: contrastive.write_validation_individual(
        cache, batch_axis=False, dtype=torch.float32, examples=2
    ),
}


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_comes_back(tmp_path: Path, form: str) -> None:
    source = tmp_path / "source"
    WRITERS[form](source)
    out = round_trip(source, tmp_path, "contrastive", options=MODEL)
    assert_same_files(source, out)
    for name in ("metadata.json", "layer_info.json"):
        assert json.loads((out / name).read_text()) == json.loads((source / name).read_text())


def test_several_caches_come_back(tmp_path: Path) -> None:
    source = tmp_path / "source"
    contrastive.write_stacked(source / "activations_cache/train")
    contrastive.write_validation_stacked(source / "activations_cache/val")
    out = round_trip(source, tmp_path, "contrastive", options=MODEL)
    assert_same_files(source, out)


def test_types_from_the_data_set_come_back(tmp_path: Path) -> None:
    source = tmp_path / "source"
    contrastive.write_validation_through_training(source)
    out = round_trip(source, tmp_path, "contrastive", options=MODEL)
    assert_same_files(source, out)


def test_the_documents_reader_makes_the_same_vectors(tmp_path: Path) -> None:
    contrastive.write_stacked(tmp_path / "source", layers=(2, 10), examples=7, width=24)
    ingest(tmp_path / "source", tmp_path / "store", recipe="contrastive", model=MODEL["model"])
    export(tmp_path / "store", "contrastive", tmp_path / "out")
    ours, theirs = (_generate_vectors(tmp_path / name) for name in ("out", "source"))
    assert list(ours) == [2, 10]
    for layer, vector in ours.items():
        assert vector.dtype == torch.bfloat16
        assert vector.shape == (1, 24)
        assert vector.view(torch.uint8).equal(theirs[layer].view(torch.uint8))


def test_the_individual_reader_goes_by_number(tmp_path: Path) -> None:
    contrastive.write_individual(tmp_path / "source", layers=(10,), examples=12)
    ingest(tmp_path / "source", tmp_path / "store", recipe="contrastive", model=MODEL["model"])
    export(tmp_path / "store", "contrastive", tmp_path / "out")
    ours, theirs = (_generate_vectors(tmp_path / name) for name in ("out", "source"))
    assert ours[10].view(torch.uint8).equal(theirs[10].view(torch.uint8))


def _generate_vectors(cache: Path) -> dict[int, torch.Tensor]:
    """Do what the document's generate_vectors_from_cache does."""
    info = json.loads((cache / "layer_info.json").read_text())
    metadata = json.loads((cache / "metadata.json").read_text())
    assert len(metadata) == info["num_examples"]
    vectors = {}
    for layer in info["layers"]:
        means = []
        for side in ("test", "deploy"):
            if info.get("storage_format") == "individual":
                each = [
                    torch.load(cache / f"layer_{layer}/{side}/{i}.pt", weights_only=True)
                    for i in range(info["num_examples"])
                ]
                means.append(torch.stack([one.mean(dim=1) for one in each]).mean(dim=0))
            else:
                path = cache / f"layer_{layer}/{side}_activations.pt"
                means.append(torch.load(path, weights_only=True).mean(dim=0))
        vectors[layer] = means[0] - means[1]
    return vectors


def test_a_label_that_was_set_later_becomes_the_type(tmp_path: Path) -> None:
    from actstore.ingestion.labeling import label_by_expression

    contrastive.write_validation_stacked(tmp_path / "source", layers=(3,), examples=2)
    ingest(tmp_path / "source", tmp_path / "store", recipe="contrastive", model=MODEL["model"])
    label_by_expression(tmp_path / "store", "'deployment'")
    export(tmp_path / "store", "contrastive", tmp_path / "out")
    metadata = json.loads((tmp_path / "out/metadata.json").read_text())
    assert [entry["type"] for entry in metadata] == ["deployment", "deployment"]


def test_missing_examples_are_named(tmp_path: Path) -> None:
    contrastive.write_stacked(tmp_path / "source")
    ingest(tmp_path / "source", tmp_path / "store", recipe="contrastive", model=MODEL["model"])
    with pytest.raises(ExportError, match="layer 10 of 'deploy' lacks examples 1, 3 of 6"):
        export(
            tmp_path / "store",
            "contrastive",
            tmp_path / "out",
            "variant = 'test' OR example_index NOT IN (1, 3)",
        )
    with pytest.raises(ExportError, match="of 'deploy' lacks examples 0, 1, 2, 3, 4 and 1 more"):
        export(tmp_path / "store", "contrastive", tmp_path / "out", "variant = 'test'")


def test_layers_can_be_chosen(tmp_path: Path) -> None:
    contrastive.write_stacked(tmp_path / "source")
    ingest(tmp_path / "source", tmp_path / "store", recipe="contrastive", model=MODEL["model"])
    export(tmp_path / "store", "contrastive", tmp_path / "out", layers=20)
    assert json.loads((tmp_path / "out/layer_info.json").read_text())["layers"] == [20]
    assert not (tmp_path / "out/layer_10").exists()


def test_metadata_that_hold_tables_and_lists_go_into_the_json(tmp_path: Path) -> None:
    meta = [{"example_id": f"e{n}", "extra": {"tags": ["a", n]}} for n in range(2)]
    with actstore.open(tmp_path / "s", create=True) as store:
        store.write({("resid_post", 3): np.ones((2, 4), np.float32)}, meta, model="org/m")
    export(tmp_path / "s", "contrastive", tmp_path / "out")
    assert '"tags"' in (tmp_path / "out/metadata.json").read_text()
