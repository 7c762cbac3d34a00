"""CLT training pairs come back as they were, and document 003's training loader reads them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from actstore.errors import ExportError
from actstore.ingestion.run import ingest
from actstore.storage.manifest import Run
from actstore.storage.rows import RowBatch
from actstore.storage.writer import StoreWriter
from tests.exporting.trips import assert_same_files, export, round_trip
from tests.layouts import clt
from tests.querying.stores import vectors

MODEL = {"model": "llava-hf/llava-1.5-7b-hf"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layers": 3, "targets": 16, "dtype": torch.float16},
        {"batch_size": 2, "samples": 5},
        {"squeezable": True, "batch_size": 2, "targets": 2},
        {"targets": 1, "layers": 3},
    ],
)
def test_many_targets_come_back(tmp_path: Path, options: dict[str, Any]) -> None:
    source = tmp_path / "source"
    clt.write_multi_target(source, **options)
    out = round_trip(source, tmp_path, "clt", options=MODEL)
    assert_same_files(source, out)


@pytest.mark.parametrize("form", ["dict", "data", "bare"])
def test_single_targets_come_back(tmp_path: Path, form: clt.Form) -> None:
    clt.write_single_target(tmp_path / "source", form=form)
    out = round_trip(tmp_path / "source", tmp_path, "clt", options=MODEL)
    assert_same_files(tmp_path / "source", out)


@pytest.mark.parametrize("ids", [True, False])
def test_queries_come_back(tmp_path: Path, ids: Any) -> None:
    source = tmp_path / "source"
    clt.write_multi_target(source, layers=2, batches=3)
    clt.write_queries(source / "queries.json", 3, ids=ids)
    round_trip(source, tmp_path, "clt", options=MODEL)


def test_several_captures_come_back(tmp_path: Path) -> None:
    for number, name in enumerate(("train", "val")):
        clt.write_multi_target(tmp_path / "source" / name, layers=2 + number, seed=number)
    out = round_trip(tmp_path / "source", tmp_path, "clt", options=MODEL)
    assert_same_files(tmp_path / "source", out)


def test_y_is_the_first_target_in_the_file(tmp_path: Path) -> None:
    clt.write_multi_target(tmp_path / "source")
    ingest(tmp_path / "source", tmp_path / "store", recipe="clt", model=MODEL["model"])
    export(tmp_path / "store", "clt", tmp_path / "out")
    path = "L1/batch_0_y.pt"
    ours, theirs = (torch.load(tmp_path / name / path) for name in ("out", "source"))
    assert ours["y"].data_ptr() == ours["targets"][0].data_ptr()
    assert (tmp_path / "out" / path).stat().st_size == (tmp_path / "source" / path).stat().st_size
    assert ours["n_targets"] == theirs["n_targets"] == 3


def test_the_documents_training_loader_reads_it(tmp_path: Path) -> None:
    clt.write_multi_target(tmp_path / "source", layers=4, targets=2, batches=11)
    ingest(tmp_path / "source", tmp_path / "store", recipe="clt", model=MODEL["model"])
    export(tmp_path / "store", "clt", tmp_path / "out")
    for layer in range(4):
        ours = _load_layer(tmp_path / "out", layer, 2)
        theirs = _load_layer(tmp_path / "source", layer, 2)
        assert len(ours) == 11
        for (x, targets), (wanted, others) in zip(ours, theirs, strict=True):
            assert x.equal(wanted)
            assert all(one.equal(other) for one, other in zip(targets, others, strict=True))


def _load_layer(
    folder: Path, layer: int, count: int
) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
    """Do what the document's training loader does: indices as text, missing targets as zeros."""
    found = folder / f"L{layer}"
    indices = sorted(path.name.split("_")[1] for path in found.glob("batch_*_x.pt"))
    pairs = []
    for index in indices:
        x = torch.load(found / f"batch_{index}_x.pt", weights_only=True)["x"]
        data = torch.load(found / f"batch_{index}_y.pt", weights_only=True)
        targets = data.get("targets", [data["y"]])
        targets += [torch.zeros_like(x)] * (count - len(targets))
        pairs.append((x, targets))
    return pairs


def test_chosen_layers_keep_their_later_targets(tmp_path: Path) -> None:
    clt.write_multi_target(tmp_path / "source", layers=5, targets=3)
    ingest(tmp_path / "source", tmp_path / "store", recipe="clt", model=MODEL["model"])
    export(tmp_path / "store", "clt", tmp_path / "out", layers=[1, 2])
    assert sorted(path.name for path in (tmp_path / "out").glob("L*")) == ["L1", "L2"]
    for layer in (1, 2):
        name = f"L{layer}/batch_2_y.pt"
        ours, theirs = (torch.load(tmp_path / each / name) for each in ("out", "source"))
        for one, other in zip(ours["targets"], theirs["targets"], strict=True):
            assert one.equal(other)


def test_one_sample_comes_back_under_its_number(tmp_path: Path) -> None:
    clt.write_multi_target(tmp_path / "source")
    ingest(tmp_path / "source", tmp_path / "store", recipe="clt", model=MODEL["model"])
    export(tmp_path / "store", "clt", tmp_path / "out", "example_id = '1'")
    assert_same_files(tmp_path / "source", tmp_path / "out", "L*/batch_1_*.pt")
    assert not list((tmp_path / "out").rglob("batch_0_*"))


def test_outputs_that_a_condition_left_out_are_no_padding(tmp_path: Path) -> None:
    clt.write_multi_target(tmp_path / "source", layers=5, targets=3)
    ingest(tmp_path / "source", tmp_path / "store", recipe="clt", model=MODEL["model"])
    with pytest.raises(ExportError, match="layer 3 has none"):
        export(tmp_path / "store", "clt", tmp_path / "out", "layer < 3")
    with pytest.raises(ExportError, match=r"token 1 is missing"):
        export(tmp_path / "store", "clt", tmp_path / "out", "position <> 1")
    with pytest.raises(ExportError, match="no inputs of MLPs"):
        export(tmp_path / "store", "clt", tmp_path / "out", site="mlp_out")


def test_pooled_tokens_are_no_pairs(tmp_path: Path) -> None:
    clt.write_multi_target(tmp_path / "source")
    ingest(tmp_path / "source", tmp_path / "store", recipe="clt", pool="mean", model=MODEL["model"])
    with pytest.raises(ExportError, match="were pooled"):
        export(tmp_path / "store", "clt", tmp_path / "out")


def test_captured_rows_make_batches_of_one_sample(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", run=Run(run_id="c", kind="capture", started_at="")) as new:
        for number, (layer, site, (name, tokens)) in enumerate(
            itertools.product(range(3), ("mlp_in", "mlp_out"), (("q1", 3), ("q2", 5)))
        ):
            matrix = vectors(tokens, 4, "float16", number)
            constants = {"model": "m", "site": site, "layer": layer, "example_id": name}
            constants["pooling"] = "none"
            columns = {"position": list(range(tokens))}
            new.add(
                RowBatch(
                    vectors=matrix, constants={**constants, "pooling": "none"}, columns=columns
                )
            )
        new.commit(operation="capture", message="")
    done = export(tmp_path / "store", "clt", tmp_path / "out", targets=2)
    data = torch.load(tmp_path / "out/L1/batch_1_y.pt", weights_only=True)
    assert data["n_targets"] == 2
    assert data["targets"][0].numpy().tobytes() == vectors(5, 4, "float16", 11).tobytes()
    assert data["targets"][1].equal(torch.zeros(1, 5, 4, dtype=torch.float16))
    assert any("outputs of layer 0 have no place" in note for note in done.notes)


def test_targets_of_several_types_lose_no_bit(tmp_path: Path) -> None:
    """What one layer holds as float32 must not be rounded because another is float16."""
    source = tmp_path / "source"
    clt.write_multi_target(source, layers=5, targets=3, dtype=torch.float16)
    for path in source.rglob("*_y.pt"):
        layer = int(path.parent.name[1:])
        document = torch.load(path, weights_only=True)
        for number, target in enumerate(document["targets"]):
            if layer + 1 + number == 3:
                document["targets"][number] = target.float() * 1.0001
        document["y"] = document["targets"][0]
        torch.save(document, path)
    out = round_trip(source, tmp_path, "clt", options=MODEL)
    assert_same_files(source, out)


def test_captured_targets_of_several_types_lose_no_bit(tmp_path: Path) -> None:
    given = {}
    for site, layer, dtype in (
        ("mlp_in", 0, "float16"),
        ("mlp_in", 1, "float16"),
        ("mlp_out", 1, "float32"),
        ("mlp_out", 2, "float16"),
    ):
        given[layer] = vectors(4, 8, dtype, layer)
        with StoreWriter(
            tmp_path / "store", run=Run(run_id=f"{site}{layer}", kind="test", started_at="")
        ) as writer:
            constants = {"model": "m", "site": site, "layer": layer, "pooling": "none"}
            columns: dict[str, Any] = {"example_id": ["e"] * 4, "position": list(range(4))}
            writer.add(RowBatch(vectors=given[layer], constants=constants, columns=columns))
            writer.commit(operation="test", message="rows")
    export(tmp_path / "store", "clt", tmp_path / "out", targets=2)
    found = torch.load(tmp_path / "out/L0/batch_0_y.pt", weights_only=True)["targets"]
    for target, layer in zip(found, (1, 2), strict=True):
        assert (target[0].float().numpy() == given[layer]).all()
    again = ingest(tmp_path / "out", tmp_path / "again", recipe="clt", model="m")
    assert not again.refused  # layer 2 stands in two files, in one type
    with pytest.raises(ExportError, match="of layer 5, 7 among"):
        export(tmp_path / "store", "clt", tmp_path / "other", layers=[0, 5, 7])


@pytest.mark.parametrize(("x", "y"), [("x", "data"), ("data", "y"), ("x", ""), ("", "y")])
def test_inputs_and_targets_under_different_keys_come_back(tmp_path: Path, x: str, y: str) -> None:
    source = tmp_path / "source"
    clt.write_single_target(source, form="bare")
    for side, key in (("x", x), ("y", y)):
        for path in source.rglob(f"*_{side}.pt"):
            tensor = torch.load(path, weights_only=True)
            torch.save({key: tensor} if key else tensor, path)
    out = round_trip(source, tmp_path, "clt", options=MODEL)
    assert_same_files(source, out)
