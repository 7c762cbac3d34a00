"""What SAELens checks and reads of a cache, done here as its ActivationsStore does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch

from actstore.errors import ExportError
from actstore.ingestion.run import ingest
from tests.exporting.trips import contents, export
from tests.ingestion.storing import stored_rows
from tests.layouts import clt, hook_pickle
from tests.querying.stores import layered


def load_cached(path: Path, hook: str, context_size: int, d_in: int) -> datasets.Dataset:
    """Load and check a cache as ActivationsStore does."""
    found = datasets.load_from_disk(str(path))
    columns = [hook]
    if "token_ids" in found.column_names:
        columns.append("token_ids")
    found.set_format(type="torch", columns=columns, dtype=torch.float32)
    assert hook in found.column_names
    assert found.features[hook].shape == (context_size, d_in)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Path:
    hook_pickle.write_full_sequence(tmp_path / "source", layers=(0, 1))
    hook_pickle.write_full_sequence(tmp_path / "source", name="b.pkl", layers=(0, 1), seed=8)
    ingest(tmp_path / "source", tmp_path / "store", recipe="hook-pickle")
    return tmp_path / "store"


def test_saelens_reads_hooks_and_tokens(store: Path, tmp_path: Path) -> None:
    export(store, "saelens", tmp_path / "out")
    rows = stored_rows(store)
    for layer in (0, 1):
        cached = load_cached(tmp_path / "out", f"blocks.{layer}.hook_resid_post", 5, 16)
        assert len(cached) == 2
        # A buffer: [contexts, context_size, 1, d_in], as SAELens takes it.
        buffer = cached[0:2][f"blocks.{layer}.hook_resid_post"]
        assert buffer.shape == (2, 5, 16)
        own = [row["activation"] for row in rows if row["layer"] == layer]
        assert buffer.reshape(-1, 16).equal(torch.tensor(np.array(own)).float())
        assert cached[0]["token_ids"].tolist() == list(range(128000, 128005))
    assert "hook_embed" in cached.features
    assert cached.features["hook_embed"].dtype == "float16"


def test_it_can_be_ingested_again(store: Path, tmp_path: Path) -> None:
    export(store, "saelens", tmp_path / "out")
    model = hook_pickle.MODEL
    again = ingest(tmp_path / "out", tmp_path / "again", model=model)
    assert again.recipe == "huggingface"
    ours, theirs = stored_rows(store), stored_rows(tmp_path / "again")
    assert [row["activation"].tobytes() for row in ours] == [
        row["activation"].tobytes() for row in theirs
    ]
    for name in ("site", "layer", "position", "token_id"):
        assert [row[name] for row in ours] == [row[name] for row in theirs]


def test_shards_and_blocks(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from actstore.exporting import saelens

    whole = export(store, "saelens", tmp_path / "whole")
    monkeypatch.setattr(saelens, "_BLOCK", 1)
    export(store, "saelens", tmp_path / "blocks")
    with pa.ipc.open_stream(tmp_path / "blocks" / "data-00000-of-00001.arrow") as stream:
        assert [block.num_rows for block in stream] == [1, 1]  # no more than one is held
    monkeypatch.setattr(saelens, "_SHARD", 1)
    done = export(store, "saelens", tmp_path / "parts")
    assert done.files == whole.files + 1
    names = ("whole", "blocks", "parts")
    one, *others = (datasets.load_from_disk(str(tmp_path / name)).to_dict() for name in names)
    assert others == [one, one]


def test_examples_of_different_length_need_a_context(tmp_path: Path) -> None:
    clt.write_multi_target(tmp_path / "source", layers=2, batches=4)
    ingest(tmp_path / "source", tmp_path / "store", recipe="clt", model="m")
    with pytest.raises(ExportError, match="3 to 4 tokens; --context N"):
        export(tmp_path / "store", "saelens", tmp_path / "out", site="mlp_in")
    done = export(tmp_path / "store", "saelens", tmp_path / "out", site="mlp_in", context=2)
    cached = load_cached(tmp_path / "out", "blocks.1.ln2.hook_normalized", 2, 16)
    assert len(cached) == 6
    assert any("2 tokens that fill no context" in note for note in done.notes)
    assert any("no column token_ids" in note for note in done.notes)
    with pytest.raises(ExportError, match="no example has 9 tokens"):
        export(tmp_path / "store", "saelens", tmp_path / "out2", site="mlp_in", context=9)
    with pytest.raises(ExportError, match="has not the same tokens"):
        export(
            tmp_path / "store",
            "saelens",
            tmp_path / "out2",
            "layer = 0 OR example_id <> '1'",
            site="mlp_in",
            context=2,
        )


def test_pooled_vectors_are_no_contexts(tmp_path: Path) -> None:
    layered(tmp_path / "store")
    with pytest.raises(ExportError, match="one vector; SAELens takes whole sequences"):
        export(tmp_path / "store", "saelens", tmp_path / "out")


def test_equal_rows_give_equal_bytes(store: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export(store, "saelens", tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_hook_of_both_types_is_float32(tmp_path: Path) -> None:
    from actstore.storage.manifest import Run
    from actstore.storage.rows import RowBatch
    from actstore.storage.writer import StoreWriter
    from tests.querying.stores import vectors

    given = [vectors(4, 8, dtype, number) for number, dtype in enumerate(("float16", "float32"))]
    for number, matrix in enumerate(given):
        with StoreWriter(
            tmp_path / "store", run=Run(run_id=f"r{number}", kind="test", started_at="")
        ) as writer:
            constants = {"model": "m", "site": "resid_post", "layer": 0, "pooling": "none"}
            columns: dict[str, Any] = {"example_id": [f"e{number}"] * 4, "position": list(range(4))}
            writer.add(RowBatch(vectors=matrix, constants=constants, columns=columns))
            writer.commit(operation="test", message="rows")
    export(tmp_path / "store", "saelens", tmp_path / "out")
    hook = "blocks.0.hook_resid_post"
    found = datasets.load_from_disk(str(tmp_path / "out")).with_format("numpy")
    assert found.features[hook].dtype == "float32"
    assert all((row[hook] == matrix).all() for row, matrix in zip(found, given, strict=True))
