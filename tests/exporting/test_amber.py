"""AMBER samples come back as they were, and the guide's loading code reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actstore.errors import ExportError
from actstore.ingestion.run import ingest
from tests.exporting.trips import assert_same_files, contents, export, round_trip
from tests.layouts import amber

MODEL = {"model": amber.MODEL}


@pytest.mark.parametrize(
    ("nested", "keys", "batch_axis", "dtype"),
    [
        (True, "int", False, torch.float16),
        (True, "str", True, torch.bfloat16),
        (False, "int", True, torch.float32),
        (False, "str", False, torch.bfloat16),
    ],
)
def test_every_form_comes_back(
    tmp_path: Path, nested: bool, keys: Any, batch_axis: bool, dtype: torch.dtype
) -> None:
    source = tmp_path / "source"
    amber.write_samples(
        source, samples=3, layers=4, nested=nested, keys=keys, batch_axis=batch_axis, dtype=dtype
    )
    out = round_trip(source, tmp_path, "amber", options=MODEL)
    assert assert_same_files(source, out) == 3
    ours = contents(out)
    assert {name: ours[name] for name in contents(source)} == contents(source)


def test_tables_come_back(tmp_path: Path) -> None:
    source = tmp_path / "source"
    amber.write_samples(source / "activations_amber", samples=6, layers=3)
    amber.write_responses(source, 6)
    amber.write_classification(source, good=[1, 4], bad=[2])
    amber.write_queries(source, 6)
    out = round_trip(source, tmp_path, "amber", options=MODEL)
    assert_same_files(source, out)
    for name in ("data/query/query_generative.json", "analysis/amber_classification.json"):
        assert json.loads((out / name).read_text()) == json.loads((source / name).read_text())
    answers = "results/amber/answer/model_responses.jsonl"
    assert (out / answers).read_bytes() == (source / answers).read_bytes()


def test_two_folders_keep_their_own_tables(tmp_path: Path) -> None:
    for number, name in enumerate(("one", "two")):
        amber.write_samples(tmp_path / "source" / name, samples=2, layers=2, seed=number)
    amber.write_responses(tmp_path / "source" / "one", 2)
    out = round_trip(tmp_path / "source", tmp_path, "amber", options=MODEL)
    assert (out / "one/results/amber/answer/model_responses.jsonl").exists()
    assert not (out / "two/results").exists()


def test_the_guides_loader_reads_31_layers(tmp_path: Path) -> None:
    source = tmp_path / "source"
    rows = amber.write_samples(source, samples=12, layers=31, width=64)
    ingest(source, tmp_path / "store", recipe="amber", model=MODEL["model"])
    export(tmp_path / "store", "amber", tmp_path / "out")
    # The document: sample_XXXX.pt -> {'activations': {layer: tensor}}, 31 layers.
    files = sorted((tmp_path / "out").glob("sample_*.pt"))
    assert [file.name for file in files][:2] == ["sample_0000.pt", "sample_0001.pt"]
    loaded = [torch.load(file, weights_only=True)["activations"] for file in files]
    assert all(list(sample) == list(range(31)) for sample in loaded)
    for layer in range(31):
        stacked = torch.stack([sample[layer] for sample in loaded]).numpy()
        assert stacked.tobytes() == amber.vectors(rows, layer).tobytes()


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    amber.write_samples(tmp_path / "source", samples=3, layers=3)
    ingest(tmp_path / "source", tmp_path / "store", recipe="amber", model=MODEL["model"])
    for name in ("one", "two"):
        export(tmp_path / "store", "amber", tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_layers_can_be_chosen(tmp_path: Path) -> None:
    amber.write_samples(tmp_path / "source", samples=3, layers=5)
    ingest(tmp_path / "source", tmp_path / "store", recipe="amber", model=MODEL["model"])
    export(tmp_path / "store", "amber", tmp_path / "out", layers=[1, 3])
    sample = torch.load(tmp_path / "out/sample_0002.pt", weights_only=True)["activations"]
    assert list(sample) == [1, 3]


def test_a_sample_without_a_layer_is_named(tmp_path: Path) -> None:
    amber.write_samples(tmp_path / "source", samples=3, layers=3)
    ingest(tmp_path / "source", tmp_path / "store", recipe="amber", model=MODEL["model"])
    where = "NOT (example_id = '2' AND layer = 1)"
    with pytest.raises(ExportError, match=r"sample_0001\.pt lacks layers 1"):
        export(tmp_path / "store", "amber", tmp_path / "out", where)
    assert not (tmp_path / "out").exists()


def test_rows_of_another_origin_get_the_documents_names(tmp_path: Path) -> None:
    from tests.querying.stores import layered

    matrices = layered(tmp_path / "store", layers=2, rows=3)
    export(tmp_path / "store", "amber", tmp_path / "out", dtype="float32")
    sample = torch.load(tmp_path / "out/sample_0001.pt", weights_only=True)["activations"]
    assert sample[1].dtype == torch.float32
    assert np.array_equal(sample[1].numpy(), matrices[1][1].astype(np.float32))


def test_samples_with_fewer_layers_come_back(tmp_path: Path) -> None:
    """Folders of other layers, and within one a sample whose capture broke off."""
    source = tmp_path / "source"
    amber.write_samples(source / "one", samples=3, layers=4)
    amber.write_samples(source / "two", samples=2, layers=2, seed=5)
    sample = torch.load(source / "one/sample_0001.pt", weights_only=True)
    del sample["activations"][2]
    torch.save(sample, source / "one/sample_0001.pt")
    out = round_trip(source, tmp_path, "amber", options=MODEL)
    assert assert_same_files(source, out) == 5
    done = export(tmp_path / "first", "amber", tmp_path / "again", layers=[0, 2])
    assert any("one/sample_0001.pt, without 2" in note for note in done.notes)


def test_keys_of_a_file_that_are_named_like_tables_come_back(tmp_path: Path) -> None:
    source = tmp_path / "source"
    amber.write_samples(source, samples=2, layers=2)
    for path in source.glob("*.pt"):
        own = {"image": "own.jpg", "classification": "none"}
        torch.save({**torch.load(path, weights_only=True), **own}, path)
    out = round_trip(source, tmp_path, "amber", options=MODEL)
    assert_same_files(source, out)
    assert not (out / "data").exists()
