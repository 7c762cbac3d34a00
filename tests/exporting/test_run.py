"""The export as a whole: conditions, hostile stores, stores on the Hub, older stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import actstore
from actstore.errors import ExportError, NotInStoreError, SqlError, UsageError
from actstore.exporting import run as exporting
from actstore.ingestion.run import ingest
from actstore.storage.manifest import Run
from actstore.storage.rows import RowBatch
from actstore.storage.writer import StoreWriter
from tests.exporting.trips import assert_same_files, contents, export
from tests.layouts import amber, clt
from tests.querying.stores import layered, mixed


def test_conditions_are_those_of_select(tmp_path: Path) -> None:
    mixed(tmp_path / "store")
    done = export(tmp_path / "store", "npz", tmp_path / "out", model="a/small", layers=0)
    assert done.rows == 5
    with pytest.raises(NotInStoreError, match="layer"):
        export(tmp_path / "store", "npz", tmp_path / "no", layers=99)
    with pytest.raises(SqlError):
        export(tmp_path / "store", "npz", tmp_path / "no", "nonsense ===")
    with pytest.raises(ExportError, match="nothing to export"):
        export(tmp_path / "store", "npz", tmp_path / "no", "norm < 0")
    with pytest.raises(UsageError, match="there is no layout 'zip'; export to one of clt"):
        export(tmp_path / "store", "zip", tmp_path / "no")
    with pytest.raises(UsageError, match="compression='zip': use one of none, snappy"):
        export(tmp_path / "store", "parquet", tmp_path / "no", compression="zip")
    with pytest.raises(UsageError, match="context=0: at least 1"):
        export(tmp_path / "store", "saelens", tmp_path / "no", context=0)
    assert not (tmp_path / "no").exists()


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    layered(tmp_path / "store", layers=3, rows=4)
    for to in ("amber", "npz"):
        seen: list[tuple[int, int, int]] = []
        export(
            tmp_path / "store",
            to,
            tmp_path / to,
            progress=lambda *step, seen=seen: seen.append(step),
        )
        assert seen[-1] == (192, 12, 192)
        assert seen == sorted(seen)


def test_small_windows_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clt.write_multi_target(tmp_path / "source")
    ingest(tmp_path / "source", tmp_path / "store", recipe="clt", model="m")
    export(tmp_path / "store", "clt", tmp_path / "one")
    monkeypatch.setattr(exporting, "_WINDOW", 1)
    export(tmp_path / "store", "clt", tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_small_chunks_of_metadata_write_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from actstore.exporting import export_context

    clt.write_multi_target(tmp_path / "source", batch_size=2)
    ingest(tmp_path / "source", tmp_path / "store", recipe="clt", model="m")
    monkeypatch.setattr(export_context, "_CHUNK", 2)
    export(tmp_path / "store", "clt", tmp_path / "out")
    assert_same_files(tmp_path / "source", tmp_path / "out")


@pytest.mark.parametrize("source", ["../escape.pt#0", "/etc/escape.pt#0", "a/../../escape.pt#0"])
def test_a_hostile_store_writes_nothing_outside(tmp_path: Path, source: str) -> None:
    run = Run(run_id="r", kind="ingest", started_at="", settings={"recipe": "amber"})
    with StoreWriter(tmp_path / "store", run=run) as writer:
        writer.add(
            RowBatch(
                vectors=np.ones((1, 4), np.float16),
                constants={
                    "model": "../../m",
                    "site": "../features",
                    "layer": 0,
                    "pooling": "unknown",
                    "example_id": "../x",
                    "source": source,
                },
            )
        )
        writer.commit(operation="test", message="")
    with pytest.raises(ExportError, match="does not lie below a folder"):
        export(tmp_path / "store", "amber", tmp_path / "deep/out")
    for to in ("npz", "spatialeval"):
        export(tmp_path / "store", to, tmp_path / "deep" / to)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "store"]
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["npz", "spatialeval"]


def test_forms_outlive_other_ingests_and_compaction(tmp_path: Path) -> None:
    from actstore.storage.compaction import compact

    amber.write_samples(tmp_path / "one", samples=2, layers=2, dtype=torch.bfloat16)
    amber.write_samples(tmp_path / "two", samples=2, layers=2, first=2, batch_axis=True)
    for name in ("one", "two"):
        ingest(tmp_path / name, tmp_path / "store", recipe="amber", model="m")
    compact(tmp_path / "store")
    export(tmp_path / "store", "amber", tmp_path / "out")
    for name in ("one", "two"):
        assert_same_files(tmp_path / name, tmp_path / "out")


def test_files_that_differ_within_a_run_come_back(tmp_path: Path) -> None:
    amber.write_samples(tmp_path / "source", samples=3, layers=2, dtype=torch.bfloat16)
    amber.write_samples(tmp_path / "source", samples=1, layers=2, first=3, keys="str")
    amber.write_samples(
        tmp_path / "source", samples=1, layers=2, first=4, batch_axis=True, dtype=torch.float32
    )
    ingest(tmp_path / "source", tmp_path / "store", recipe="amber", model="m")
    export(tmp_path / "store", "amber", tmp_path / "out")
    assert assert_same_files(tmp_path / "source", tmp_path / "out") == 5


def test_the_state_before_a_change_can_be_exported(tmp_path: Path) -> None:
    layered(tmp_path / "store", layers=2)
    with actstore.open(tmp_path / "store", at=1) as opened:
        assert opened.export("npz", tmp_path / "out").files == 2


@pytest.mark.parametrize("name", ["model", "dataset", "split"])
@pytest.mark.parametrize("to", ["amber", "contrastive", "faithfulness", "hook-pickle"])
def test_layers_of_several_origins_are_not_put_together(to: str, name: str, tmp_path: Path) -> None:
    """Rows of one id, of two models or data sets, each with layers that the other lacks."""
    for layer, value in ((12, "one"), (16, "two")):
        batch = RowBatch(
            vectors=np.ones((2, 4), np.float32),
            constants={"model": "m", "site": "resid_post", "pooling": "last", "layer": layer}
            | {name: value},
            columns={"example_id": ["a", "b"], "label": ["faithful", "unfaithful"]},
        )
        with StoreWriter(tmp_path / "s", run=Run(run_id="r", kind="test", started_at="")) as writer:
            writer.add(batch)
            writer.commit(operation="test", message="")
    export(tmp_path / "s", to, tmp_path / "out", layers=12)
    told = rf"{name} \(one, two\)|hold different faithful examples \(of other data sets"
    with pytest.raises(ExportError, match=told):
        export(tmp_path / "s", to, tmp_path / "both")


@pytest.mark.parametrize("to", ["amber", "contrastive", "faithfulness", "spatialeval"])
def test_regions_are_not_put_together(to: str, tmp_path: Path) -> None:
    """Means of prompts and of responses are other quantities, and no file would tell them apart."""
    for region, ids in (("prompt", ["a", "b"]), ("response", ["c", "d"])):
        batch = RowBatch(
            vectors=np.ones((2, 4), np.float32),
            constants={"model": "m", "site": "resid_post", "layer": 12, "region": region}
            | {"pooling": "last"},
            columns={"example_id": ids, "label": ["faithful", "unfaithful"]},
        )
        with StoreWriter(tmp_path / "s", run=Run(run_id="r", kind="test", started_at="")) as writer:
            writer.add(batch)
            writer.commit(operation="test", message="")
    with pytest.raises(ExportError, match=r"region.* \(prompt, response\)"):
        export(tmp_path / "s", to, tmp_path / "both")
    export(tmp_path / "s", to, tmp_path / "out", "region = 'response'")
    assert export(tmp_path / "s", "parquet", tmp_path / "rows").notes == ()
    (note,) = export(tmp_path / "s", "npz", tmp_path / "matrices").notes
    assert "some matrices hold rows of several values of region (prompt, response)" in note
