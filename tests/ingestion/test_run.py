"""The ingest run: all or nothing per file, summaries and reports, interrupts, strictness."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actstore.errors import CommitError, RefusedError, UsageError
from actstore.ingestion import run
from actstore.ingestion.recipe import Recipe
from actstore.ingestion.recipes import parse
from actstore.ingestion.report import Progress
from actstore.ingestion.run import ingest
from actstore.storage.manifest import latest
from actstore.storage.writer import StoreWriter
from tests.ingestion.storing import assert_rows, stored_rows
from tests.layouts import amber

MODEL = "org/model"


def samples(folder: Path, **options: Any) -> list[dict[str, Any]]:
    return amber.write_samples(folder, **({"samples": 5, "layers": 2} | options))


def commits(store: Path) -> int:
    return len(list(store.glob("manifests/*.json")))


def test_the_summary_says_what_was_done(tmp_path: Path) -> None:
    samples(tmp_path / "in", width=16)
    (tmp_path / "in" / "notes.txt").write_text("x")
    summary = ingest(tmp_path / "in", tmp_path / "store", model=MODEL)
    assert summary.files_read == 5
    assert (summary.rows_written, summary.rows_present) == (10, 0)
    assert summary.bytes == 10 * 16 * 2
    assert summary.models == (MODEL,)
    assert summary.sites == ("features",)
    assert summary.layers == (0, 1)
    assert summary.widths == (16,)
    assert summary.datasets == {"AMBER": 10}
    assert summary.groups[0] == {
        "model": MODEL,
        "site": "features",
        "layer": 0,
        "width": 16,
        "dtype": "float16",
        "rows": 5,
    }
    assert summary.unmatched == ("notes.txt",)
    assert summary.commit == 1
    assert summary.first_row is not None
    assert summary.first_row["source"] == "sample_0000.pt#activations.0"
    document = json.loads(json.dumps(summary.as_dict()))
    assert document["refused"] == []
    stored = latest(tmp_path / "store").runs
    assert [each.run_id for each in stored] == [summary.run_id]
    assert stored[0].settings["recipe"] == "amber"
    assert stored[0].settings["model"] == MODEL
    assert "torch" in stored[0].versions


def test_a_second_run_adds_nothing_and_new_files_are_added(tmp_path: Path) -> None:
    samples(tmp_path / "in")
    ingest(tmp_path / "in", tmp_path / "store", model=MODEL)
    before = sorted(path for path in (tmp_path / "store").rglob("*") if path.is_file())
    again = ingest(tmp_path / "in", tmp_path / "store", model=MODEL)
    assert (again.rows_written, again.rows_present, again.commit) == (0, 10, None)
    assert sorted(path for path in (tmp_path / "store").rglob("*") if path.is_file()) == before
    expected = samples(tmp_path / "in", samples=8)
    more = ingest(tmp_path / "in", tmp_path / "store", model=MODEL)
    assert (more.rows_written, more.rows_present, more.commit) == (6, 10, 2)
    assert_rows(stored_rows(tmp_path / "store"), expected)


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    samples(tmp_path / "in")
    (tmp_path / "in/sample_0003.pt").write_bytes(b"")
    dry = ingest(tmp_path / "in", tmp_path / "store", model=MODEL, dry_run=True)
    assert not (tmp_path / "store").exists()
    real = ingest(tmp_path / "in", tmp_path / "store", model=MODEL)
    for name in ("files_read", "rows_written", "refused", "bytes", "groups", "first_row"):
        assert getattr(dry, name) == getattr(real, name)
    assert (dry.dry_run, dry.commit, dry.report) == (True, None, None)


def test_refused_files_stand_in_summary_and_report(tmp_path: Path) -> None:
    expected = samples(tmp_path / "in", samples=6)
    (tmp_path / "in/sample_0001.pt").write_bytes(b"PK\x03\x04 cut off")
    (tmp_path / "in/sample_0004.pt").write_bytes(b"")
    for number in range(150):
        (tmp_path / "in" / f"log_{number}.txt").write_text("x")
    summary = ingest(tmp_path / "in", tmp_path / "store", model=MODEL)
    assert [refusal.path for refusal in summary.refused] == ["sample_0001.pt", "sample_0004.pt"]
    assert summary.unmatched_count == 150
    assert len(summary.unmatched) == 100
    kept = [row for row in expected if row["source"][:11] not in {"sample_0001", "sample_0004"}]
    assert_rows(stored_rows(tmp_path / "store"), kept)
    assert summary.report is not None
    report = json.loads((tmp_path / "store" / summary.report).read_text())
    assert [each["path"] for each in report["refused"]] == ["sample_0001.pt", "sample_0004.pt"]
    assert len(report["unmatched"]) == 150
    assert report["commit"] == 1


def test_the_rows_of_a_file_are_stored_all_or_none(tmp_path: Path) -> None:
    samples(tmp_path / "in", layers=3)
    path = tmp_path / "in/sample_0002.pt"
    document = torch.load(path, weights_only=True)
    document["activations"][2][5] = torch.inf
    torch.save(document, path)
    summary = ingest(tmp_path / "in", tmp_path / "store", model=MODEL)
    assert [refusal.path for refusal in summary.refused] == ["sample_0002.pt"]
    assert "sample_0002.pt#activations.2 (example 3, layer 2)" in summary.refused[0].reason
    assert summary.rows_written == 4 * 3
    assert {row["example_id"] for row in stored_rows(tmp_path / "store")} == set("1245")
    allowed = ingest(tmp_path / "in", tmp_path / "store", model=MODEL, allow_nonfinite=True)
    assert (allowed.rows_written, allowed.rows_present) == (3, 12)
    assert "1 values are NaN or infinite" in allowed.notes


def test_a_changed_vector_under_the_same_key_is_a_conflict(tmp_path: Path) -> None:
    samples(tmp_path / "in")
    ingest(tmp_path / "in", tmp_path / "store", model=MODEL)
    samples(tmp_path / "in", samples=1, seed=9)
    summary = ingest(tmp_path / "in", tmp_path / "store", model=MODEL)
    assert [refusal.path for refusal in summary.refused] == ["sample_0000.pt"]
    assert "example_id=1" in summary.refused[0].reason
    assert summary.rows_present == 8


def test_strict_stores_nothing_if_a_file_is_refused(tmp_path: Path) -> None:
    samples(tmp_path / "in")
    (tmp_path / "in/sample_0004.pt").write_bytes(b"")
    torch.save({"activations": {0: torch.zeros(2, 32)}}, tmp_path / "in/sample_0002.pt")
    with pytest.raises(RefusedError, match="2 files were refused") as caught:
        ingest(tmp_path / "in", tmp_path / "store", model=MODEL, strict=True)
    assert [path for path, _ in caught.value.refused] == ["sample_0002.pt", "sample_0004.pt"]
    assert commits(tmp_path / "store") == 0
    assert not list((tmp_path / "store").rglob("*.parquet"))
    (tmp_path / "in/sample_0004.pt").unlink()
    (tmp_path / "in/sample_0002.pt").unlink()
    assert ingest(tmp_path / "in", tmp_path / "store", model=MODEL, strict=True).commit == 1


def test_an_odd_first_file_does_not_set_the_width(tmp_path: Path) -> None:
    samples(tmp_path / "in", samples=12, width=16)
    torch.save({"activations": {0: torch.ones(99).half()}}, tmp_path / "in/sample_0000.pt")
    summary = ingest(tmp_path / "in", tmp_path / "store", model=MODEL)
    assert [refusal.path for refusal in summary.refused] == ["sample_0000.pt"]
    assert "width 99; most files hold 16" in summary.refused[0].reason
    assert summary.rows_written == 22


def test_layers_may_differ_in_width(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(12):
        table = {0: torch.ones(8), 1: torch.ones(8), 2: torch.ones(24)}
        torch.save({"activations": table}, tmp_path / "in" / f"sample_{number:04d}.pt")
    summary = ingest(tmp_path / "in", tmp_path / "store", model=MODEL)
    assert not summary.refused
    assert summary.widths == (8, 24)


def test_an_interrupt_keeps_what_is_whole(tmp_path: Path) -> None:
    expected = samples(tmp_path / "in", samples=9)

    def interrupt(done: Progress) -> None:
        if done.files == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(tmp_path / "in", tmp_path / "store", model=MODEL, progress=interrupt)
    assert len(stored_rows(tmp_path / "store")) == 8
    assert latest(tmp_path / "store").message.endswith("(interrupted)")
    summary = ingest(tmp_path / "in", tmp_path / "store", model=MODEL)
    assert (summary.rows_written, summary.rows_present) == (10, 8)
    assert_rows(stored_rows(tmp_path / "store"), expected)


def test_an_interrupt_under_strict_keeps_nothing(tmp_path: Path) -> None:
    samples(tmp_path / "in")

    def interrupt(done: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(tmp_path / "in", tmp_path / "store", model=MODEL, progress=interrupt, strict=True)
    assert commits(tmp_path / "store") == 0


def test_a_failing_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples(tmp_path / "in")

    class FullDisk(StoreWriter):
        def add(self, batch: Any) -> Any:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(run, "StoreWriter", FullDisk)
    with pytest.raises(CommitError, match="No space left"):
        ingest(tmp_path / "in", tmp_path / "store", model=MODEL)


def test_a_file_that_vanishes_is_refused(tmp_path: Path) -> None:
    samples(tmp_path / "in", samples=60)

    def remove(done: Progress) -> None:
        (tmp_path / "in/sample_0059.pt").unlink(missing_ok=True)

    summary = ingest(tmp_path / "in", tmp_path / "store", model=MODEL, progress=remove)
    assert [refusal.path for refusal in summary.refused] == ["sample_0059.pt"]
    assert summary.files_read == 59


def test_progress_counts_files_bytes_and_rows(tmp_path: Path) -> None:
    samples(tmp_path / "in")
    seen: list[Progress] = []
    ingest(tmp_path / "in", tmp_path / "store", model=MODEL, progress=seen.append)
    assert [done.files for done in seen] == [1, 2, 3, 4, 5]
    assert [done.rows for done in seen] == [2, 4, 6, 8, 10]
    size = sum(path.stat().st_size for path in (tmp_path / "in").iterdir())
    assert seen[-1].bytes == seen[-1].bytes_total == size


def test_strays_are_opened_to_tell_unsafe_ones_from_others(tmp_path: Path) -> None:
    samples(tmp_path / "in")
    torch.save({"vector": torch.ones(3)}, tmp_path / "in/mean_vector.pt")
    (tmp_path / "in/probe.pt").write_bytes(pickle.dumps(Path("x")))
    (tmp_path / "in/table.csv").write_text("")
    summary = ingest(tmp_path / "in", tmp_path / "store", model=MODEL)
    assert [refusal.path for refusal in summary.refused] == ["probe.pt"]
    assert summary.unmatched == ("mean_vector.pt", "table.csv")
    assert summary.rows_written == 10


def test_several_sources_go_into_one_store(tmp_path: Path) -> None:
    samples(tmp_path / "one")
    samples(tmp_path / "two", seed=1)
    summary = ingest([tmp_path / "one", tmp_path / "two"], tmp_path / "store", model=MODEL)
    assert summary.datasets == {"one": 10, "two": 10}
    with pytest.raises(UsageError, match="no such file"):
        ingest([tmp_path / "one", tmp_path / "three"], tmp_path / "store", model=MODEL)


@pytest.mark.parametrize(
    ("count", "named"), [(1, "in0"), (3, "in0, in1, in2"), (5, "in0, in1, in2 and 2 more")]
)
def test_a_commit_says_what_was_ingested(tmp_path: Path, count: int, named: str) -> None:
    sources = [tmp_path / f"in{number}" for number in range(count)]
    for source in sources:
        samples(source, samples=1)
    ingest(sources, tmp_path / "store", model=MODEL)
    assert latest(tmp_path / "store").message == f"ingest {named} (amber)"


def recipe(text: str) -> Recipe:
    return parse(
        'name = "r"\ncontainer = "numpy"\n[[files]]\npath = "{key}.npz"\n'
        '[[tensors]]\nkey = "v"\naxes = [["hidden"], ["example", "hidden"]]\n'
        '[columns]\nexample_id = "{path.key}-{row}"\nsite = "s"\npooling = "last"\n' + text
    )


def test_a_value_of_the_wrong_type_refuses_its_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", v=np.ones((2, 3), np.float32), at=np.array(["x", "y"]))
    np.savez(tmp_path / "b.npz", v=np.ones((2, 3), np.float32), at=np.array(["1", "2"]))
    layout = recipe('layer = "{file.at[*]}"\n')
    summary = ingest(tmp_path, tmp_path / "store", recipe=layout, model=MODEL)
    assert [refusal.path for refusal in summary.refused] == ["a.npz"]
    assert "column layer: got 'x'; expected a whole number" in summary.refused[0].reason


def test_the_stored_type_can_be_chosen(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", v=np.array([[1.0, 2.0]]))
    np.savez(tmp_path / "b.npz", v=np.array([[0.1, 2.0]]))
    summary = ingest(tmp_path, tmp_path / "store", recipe=recipe(""), model=MODEL)
    assert [refusal.path for refusal in summary.refused] == ["b.npz"]
    summary = ingest(
        tmp_path,
        tmp_path / "half",
        recipe=recipe(""),
        model=MODEL,
        storage_dtype="float16",
        allow_rounding=True,
    )
    assert "1 values were rounded to float16" in summary.notes
    assert {str(row["activation"].dtype) for row in stored_rows(tmp_path / "half")} == {"float16"}


def test_notes_of_a_recipe_are_said_where_they_apply(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", v=np.ones(3, np.float32))
    (tmp_path / "x.log").write_text("")
    layout = recipe(
        '[[notes]]\ntext = "always"\n[[notes]]\ntext = "logs"\nfiles = "*.log"\n'
        '[[notes]]\ntext = "never"\nfiles = "*.csv"\n'
    )
    summary = ingest(tmp_path, tmp_path / "store", recipe=layout, model=MODEL)
    assert summary.notes == ("always", "logs")


def test_a_recorded_layer_is_not_overridden(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", v=np.ones((2, 3), np.float32), at=np.array([4, 4]))
    np.savez(tmp_path / "b.npz", v=np.ones((2, 3), np.float32), at=np.array([5, 5]))
    layout = recipe('layer = "{file.at[*]}"\n')
    summary = ingest(tmp_path, tmp_path / "store", recipe=layout, model=MODEL, layer=4)
    assert summary.rows_written == 2
    assert [refusal.path for refusal in summary.refused] == ["b.npz"]
    assert "records layer 5; --layer 4 only fills in" in summary.refused[0].reason


def test_a_long_run_commits_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples(tmp_path / "in")
    monkeypatch.setattr("actstore.storage.writer.CHECKPOINT_ROWS", 4)
    summary = ingest(tmp_path / "in", tmp_path / "store", model=MODEL)
    assert summary.commit is not None
    assert summary.commit > 1
    assert latest(tmp_path / "store").rows == summary.rows_written == 10


def test_strict_runs_commit_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples(tmp_path / "in")
    monkeypatch.setattr("actstore.storage.writer.CHECKPOINT_ROWS", 4)
    assert ingest(tmp_path / "in", tmp_path / "store", model=MODEL, strict=True).commit == 1


def test_rows_that_another_run_brings_meanwhile_count_as_present(tmp_path: Path) -> None:
    samples(tmp_path / "in")
    began: list[object] = []

    def overtake(done: object) -> None:
        if not began:
            began.append(done)
            ingest(tmp_path / "in", tmp_path / "store", model=MODEL)

    summary = ingest(tmp_path / "in", tmp_path / "store", model=MODEL, progress=overtake)
    assert (summary.rows_written, summary.rows_present, summary.commit) == (0, 10, None)
    assert latest(tmp_path / "store").rows == 10


def test_a_site_that_may_hold_its_layer_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in" / "q.npz", resid_8=np.ones(8, np.float32))
    named = ingest(tmp_path / "in", tmp_path / "s", model=MODEL, recipe="numpy", dry_run=True)
    assert any("no layer is recorded of resid_8" in note for note in named.notes)
    found = ingest(tmp_path / "in", tmp_path / "s", model=MODEL)
    assert (found.sites, found.layers, found.notes) == (("resid_post",), (8,), ())
