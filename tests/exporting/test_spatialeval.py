"""SpatialEval caches come back as they were, and document 000's loading code reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from actstore.errors import ExportError
from actstore.ingestion.run import ingest
from tests.exporting.trips import assert_same_files, export, round_trip
from tests.layouts import spatialeval


@pytest.mark.parametrize(
    ("rank", "ids", "view", "model_dtype"),
    [
        (3, "hub", False, torch.float16),
        (2, "document", False, torch.bfloat16),
        (1, "hub", True, torch.float32),
    ],
)
def test_every_form_comes_back(
    tmp_path: Path, rank: Any, ids: Any, view: bool, model_dtype: torch.dtype
) -> None:
    source = tmp_path / "source"
    kinds = 1 if ids == "document" else 2
    spatialeval.write_cache(
        source, rank=rank, ids=ids, view=view, model_dtype=model_dtype, kinds=kinds
    )
    out = round_trip(source, tmp_path, "spatialeval")
    assert_same_files(source, out)


def test_two_models_and_their_answers_come_back(tmp_path: Path) -> None:
    source = tmp_path / "outputs"
    for number, model in enumerate((spatialeval.MODEL, "BAAI/Bunny-v1_1-Llama-3-8B-V")):
        rows = spatialeval.write_cache(source, model=model, modes=("tqa",), seed=number)
        spatialeval.write_answers(source, rows)
    out = round_trip(source, tmp_path, "spatialeval")
    assert_same_files(source, out)
    written = {path.relative_to(source) for path in source.rglob("*.jsonl")}
    for relative in written:
        lines = [json.loads(line) for line in (out / relative).read_text().splitlines()]
        assert lines == [json.loads(line) for line in (source / relative).read_text().splitlines()]


def test_part_of_the_tree_comes_back_as_the_whole(tmp_path: Path) -> None:
    spatialeval.write_cache(tmp_path / "cache", modes=("tqa",), tasks=("mazenav",))
    source = next((tmp_path / "cache").rglob("mazenav"))
    given = {"model": spatialeval.MODEL, "dataset": spatialeval.DATASET}
    out = round_trip(source, tmp_path, "spatialeval", options=given, changed=("source",))
    assert_same_files(tmp_path / "cache", out)


def test_a_tree_below_other_folders_comes_back(tmp_path: Path) -> None:
    rows = spatialeval.write_cache(tmp_path / "source/outputs/cache", modes=("vqa",))
    spatialeval.write_answers(tmp_path / "source/outputs/cache", rows)
    out = round_trip(tmp_path / "source", tmp_path, "spatialeval")
    assert_same_files(tmp_path / "source", out)


def test_the_documents_code_reads_it(tmp_path: Path) -> None:
    rows = spatialeval.write_cache(tmp_path / "source", modes=("tqa",))
    ingest(tmp_path / "source", tmp_path / "store", recipe="spatialeval")
    export(tmp_path / "store", "spatialeval", tmp_path / "out")
    by_id = {row["example_id"]: row for row in rows}
    folder = tmp_path / "out/MilaWang__SpatialEval/meta-llama__Meta-Llama-3-8B-Instruct/tqa"
    paths = sorted(folder.glob("*/*.pt"))
    assert len(paths) == len(rows)
    for path in paths:
        data = torch.load(path, weights_only=True)
        row = by_id[data["example_id"]]
        assert data["question"] == row["question"]
        assert data["oracle_answer"] == row["oracle"]
        assert data["model_prediction"] == row["prediction"]
        hidden_last = data["hidden_states_last"]
        assert hidden_last.shape == (1, 1, data["hidden_size"])
        assert hidden_last.numpy().tobytes() == row["activation"].tobytes()


def test_rows_of_another_origin_get_the_documents_paths(tmp_path: Path) -> None:
    from tests.querying.stores import add, vectors

    add(
        tmp_path / "store",
        vectors(2, 4, "float16", 0),
        layer=None,
        site="final_norm",
        example_id=["map.tqa.1.0", "../../x"],
        mode=["tqa", "tqa"],
        dataset=["org/set", "org/set"],
    )
    export(tmp_path / "store", "spatialeval", tmp_path / "out")
    found = sorted(
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.pt")
    )
    assert found == [
        "org__set/org__model/tqa/grid/______x_0.pt",
        "org__set/org__model/tqa/maze/map_tqa_1_0_0.pt",
    ]
    data = torch.load(tmp_path / "out" / found[1], weights_only=True)
    assert data["hidden_states_last"].dtype == torch.float16
    assert data["example_id"] == "map.tqa.1.0"


def test_several_layers_are_no_spatialeval_file(tmp_path: Path) -> None:
    from tests.querying.stores import layered

    layered(tmp_path / "store", layers=2)
    with pytest.raises(ExportError, match="choose one with --sites and --layers"):
        export(tmp_path / "store", "spatialeval", tmp_path / "out")


def test_a_file_without_its_number_gets_none(tmp_path: Path) -> None:
    source = tmp_path / "source"
    spatialeval.write_cache(source)
    for path in source.rglob("*.pt"):
        document = torch.load(path, weights_only=True)
        del document["index"]
        torch.save(document, path)
    round_trip(source, tmp_path, "spatialeval")
