"""The common formats: read back by the libraries that people use, and ingested again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from actstore.errors import ExportError
from actstore.exporting import planned_files
from actstore.ingestion.run import ingest
from tests.exporting.trips import contents, export
from tests.ingestion.storing import stored_rows
from tests.layouts import clt, hook_pickle
from tests.querying.stores import add, layered, mixed, vectors


def test_safetensors_holds_a_matrix_per_place(tmp_path: Path) -> None:
    matrices = layered(tmp_path / "store", layers=2)
    done = export(tmp_path / "store", "safetensors", tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == [
        ".actstore-export.json",
        "org__model/resid_post/layer_0.metadata.parquet",
        "org__model/resid_post/layer_0.safetensors",
        "org__model/resid_post/layer_1.metadata.parquet",
        "org__model/resid_post/layer_1.safetensors",
    ]
    assert (done.files, done.rows, done.commit) == (4, 24, 2)
    path = tmp_path / "out/org__model/resid_post/layer_1.safetensors"
    found = load_file(path)["resid_post"]
    assert found.dtype == torch.float16
    assert found.numpy().tobytes() == matrices[1].tobytes()
    with safe_open(path, "pt") as file:
        assert file.metadata() == {
            "format": "pt",
            "model": "org/model",
            "site": "resid_post",
            "layer": "1",
        }
    table = pq.read_table(path.with_suffix(".metadata.parquet"))
    assert table["example_id"].to_pylist() == [f"e{number}" for number in range(12)]
    assert "split" not in table.column_names


def test_metadata_as_lines(tmp_path: Path) -> None:
    layered(tmp_path / "store", layers=1, rows=3)
    export(tmp_path / "store", "npz", tmp_path / "out", metadata="jsonl")
    text = (tmp_path / "out/org__model/resid_post/layer_0.metadata.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["label"] for row in rows] == ["yes", "no", None]


def test_npz_needs_no_pickle(tmp_path: Path) -> None:
    matrices = layered(tmp_path / "store", layers=2, dtype="float32")
    export(tmp_path / "store", "npz", tmp_path / "out", "label = 'yes'")
    with np.load(tmp_path / "out/org__model/resid_post/layer_1.npz", allow_pickle=False) as file:
        assert list(file) == ["resid_post"]
        assert file["resid_post"].tobytes() == matrices[1][::3].tobytes()
        assert file["resid_post"].dtype == np.float32


@pytest.mark.parametrize("to", ["safetensors", "npz"])
def test_models_of_different_width_have_their_own_files(tmp_path: Path, to: str) -> None:
    matrices = mixed(tmp_path / "store")
    export(tmp_path / "store", to, tmp_path / "out")
    ingest(tmp_path / "out/b__large", tmp_path / "again", model="b/large")
    rows = stored_rows(tmp_path / "again")
    assert [row["layer"] for row in rows] == [7, 7, 7]
    assert np.array_equal([row["activation"] for row in rows], matrices[6])


def test_both_types_in_one_place_become_the_wider(tmp_path: Path) -> None:
    half, single = vectors(2, 4, "float16", 0), vectors(2, 4, "float32", 1)
    add(tmp_path / "store", half)
    add(tmp_path / "store", single, example_id=["f0", "f1"])
    export(tmp_path / "store", "safetensors", tmp_path / "out")
    found = load_file(tmp_path / "out/org__model/resid_post/layer_0.safetensors")["resid_post"]
    assert np.array_equal(found.numpy(), np.concatenate([half.astype(np.float32), single]))


def test_bfloat16_by_request(tmp_path: Path) -> None:
    clt.write_multi_target(tmp_path / "source", layers=2)
    ingest(tmp_path / "source", tmp_path / "store", recipe="clt", model="m")
    export(tmp_path / "store", "safetensors", tmp_path / "out", dtype="bfloat16")
    found = load_file(tmp_path / "out/m/mlp_in/layer_1.safetensors")["mlp_in"]
    batches = [
        torch.load(tmp_path / f"source/L1/batch_{number}_x.pt")["x"][0] for number in range(3)
    ]
    assert found.dtype == torch.bfloat16
    assert found.view(torch.uint8).equal(torch.cat(batches).view(torch.uint8))
    for to in ("npz", "parquet", "saelens"):
        with pytest.raises(ExportError, match="bfloat16"):
            export(tmp_path / "store", to, tmp_path / to, dtype="bfloat16")


def test_a_type_that_would_round_is_refused(tmp_path: Path) -> None:
    add(tmp_path / "store", vectors(2, 4, "float32", 0))
    with pytest.raises(ExportError, match="float16 cannot hold 8 of 8 values exactly"):
        export(tmp_path / "store", "safetensors", tmp_path / "out", dtype="float16")
    assert not list(tmp_path.glob("*out*"))


def test_embeddings_and_unknown_layers_have_names(tmp_path: Path) -> None:
    add(tmp_path / "store", vectors(2, 4, "float16", 0), layer=-1, site="embeddings")
    add(tmp_path / "store", vectors(2, 4, "float16", 0), layer=None, site="final_norm")
    export(tmp_path / "store", "npz", tmp_path / "out")
    names = [
        path.relative_to(tmp_path / "out").as_posix()
        for path in sorted((tmp_path / "out").rglob("*.npz"))
    ]
    assert names == [
        "org__model/embeddings/embeddings.npz",
        "org__model/final_norm/layer_unknown.npz",
    ]


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip", "lz4", "brotli"])
def test_parquet_is_read_by_other_readers(tmp_path: Path, compression: str) -> None:
    import duckdb

    matrices = layered(tmp_path / "store", layers=1, dtype="float32")
    export(tmp_path / "store", "parquet", tmp_path / "out", compression=compression)
    path = tmp_path / "out/org__model/resid_post/layer_0.parquet"
    frame = pl.read_parquet(path)
    assert np.array_equal(np.stack(frame["activation"].to_list()), matrices[0])
    assert frame["example_id"].to_list() == [f"e{number}" for number in range(12)]
    codec = pq.ParquetFile(path).metadata.row_group(0).column(0).compression
    assert codec == ("UNCOMPRESSED" if compression == "none" else compression.upper())
    with duckdb.connect() as database:
        rows = database.execute("SELECT label, activation FROM read_parquet(?)", [str(path)])
        labels, lists = zip(*rows.fetchall(), strict=True)
    assert labels[:3] == ("yes", "no", None)
    assert np.array_equal(np.array(lists, np.float32), matrices[0])


def test_parquet_comes_back(tmp_path: Path) -> None:
    hook_pickle.write_full_sequence(tmp_path / "source", generated=2)
    ingest(tmp_path / "source", tmp_path / "store", recipe="hook-pickle")
    export(tmp_path / "store", "parquet", tmp_path / "out")
    ingest(tmp_path / "out", tmp_path / "again", recipe="parquet")
    ours, theirs = (stored_rows(tmp_path / name) for name in ("store", "again"))
    assert len(ours) == len(theirs)
    for row, other in zip(ours, theirs, strict=True):
        assert row["activation"].tobytes() == other["activation"].tobytes()
        assert row["activation"].dtype == other["activation"].dtype
        for name in ("example_id", "position", "token_id", "layer", "site", "source", "extra"):
            assert row[name] == other[name], name


def test_many_rows_pass_through_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from actstore.exporting import layer_matrices, parquet

    monkeypatch.setattr(layer_matrices, "_BLOCK", 4 * 8 * 5)  # five rows
    monkeypatch.setattr(parquet, "_ROW_GROUP", 4 * 8 * 2)
    matrices = layered(tmp_path / "store", layers=1, rows=23, dtype="float32")
    for to in ("safetensors", "npz", "parquet"):
        export(tmp_path / "store", to, tmp_path / to)
    stem = "org__model/resid_post/layer_0"
    found = load_file(tmp_path / f"safetensors/{stem}.safetensors")["resid_post"].numpy()
    assert found.tobytes() == matrices[0].tobytes()
    with np.load(tmp_path / f"npz/{stem}.npz") as file:
        assert file["resid_post"].tobytes() == matrices[0].tobytes()
    table = pl.read_parquet(tmp_path / f"parquet/{stem}.parquet")
    assert np.array_equal(np.stack(table["activation"].to_list()), matrices[0])
    assert table["example_id"].to_list() == [f"e{number}" for number in range(23)]


@pytest.mark.parametrize("to", ["safetensors", "npz", "parquet"])
def test_equal_rows_give_equal_bytes(tmp_path: Path, to: str) -> None:
    layered(tmp_path / "store", layers=2)
    for name in ("one", "two"):
        export(tmp_path / "store", to, tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_own_columns_are_written_out_typed_and_come_in_once(tmp_path: Path) -> None:
    own = ['{"city": "Rome", "level": 1}', '{"city": "Oslo", "level": 2}', None]
    add(tmp_path / "store", vectors(3, 8, "float32", 0), extra=own)
    export(tmp_path / "store", "parquet", tmp_path / "out")
    (path,) = (tmp_path / "out").rglob("*.parquet")
    table = pq.read_table(path)
    assert table["extra.city"].to_pylist() == ["Rome", "Oslo", None]
    assert table.schema.field("extra.level").type == "int64"
    assert pl.read_parquet(path)["extra.level"].to_list() == [1, 2, None]
    ingest(tmp_path / "out", tmp_path / "again")
    assert [row["extra"] for row in stored_rows(tmp_path / "again")] == own
    export(tmp_path / "store", "npz", tmp_path / "arrays", metadata="jsonl")
    (path,) = (tmp_path / "arrays").rglob("*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["extra.level"] for line in lines] == [1, 2, None]


def test_json_is_laid_out_as_the_originals_lay_it_out() -> None:
    assert planned_files.json_text({"é": [1]}) == '{\n  "é": [\n    1\n  ]\n}'
    assert planned_files.json_text({"é": [1]}, None) == '{"é": [1]}'
