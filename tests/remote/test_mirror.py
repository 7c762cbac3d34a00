"""Repositories of raw files become stores as folders do: each file fetched, read, given up."""

from __future__ import annotations

import pickle
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Array2D, Dataset, Features, Sequence, Value

import actstore
from actstore import cli
from actstore.errors import RemoteStoreError, RepositoryNotFoundError, UsageError
from actstore.ingestion import fetching
from actstore.ingestion.run import ingest as ingest_folder
from actstore.remote import mirror, source_places
from actstore.storage import manifest as manifests
from tests.hub_server import Hub, faults
from tests.ingestion.storing import assert_rows, assert_same_rows, stored_rows
from tests.layouts import (
    amber,
    clt,
    contrastive,
    faithfulness,
    hook_pickle,
    lmprobe,
    spatialeval,
)

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries", "use_hub")

RAW = "hf://datasets/alice/raw"


@pytest.fixture
def use_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user sets: where the Hub is and who asks it."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_write")


def upload(hub: Hub, folder: Path, to: str = "alice/raw") -> dict[str, int]:
    """Put every file of a folder into a repository; return the sizes of the large ones."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    hub.create(to, files)
    return {path: entry.size for path, entry in hub.files(to).items() if entry.lfs}


def both(hub: Hub, folder: Path, tmp_path: Path, **options: Any) -> tuple[Any, Any]:
    """Ingest a folder, and the repository that holds the same; both give the same rows."""
    upload(hub, folder)
    here = actstore.ingest(folder, tmp_path / "here", **options)
    hub.reset()
    far = actstore.ingest(RAW, tmp_path / "far", **options)
    assert_same_rows(tmp_path / "far", tmp_path / "here")
    return here, far


LAYOUTS: dict[str, tuple[Callable[[Path], object], dict[str, Any]]] = {
    "amber": (lambda root: amber.write_samples(root, layers=4), {"model": amber.MODEL}),
    "clt": (lambda root: clt.write_multi_target(root, batches=2), {"model": "org/m"}),
    "contrastive": (
        lambda root: contrastive.write_stacked(root / "cache"),
        {"model": "org/m", "site": "resid_pre"},
    ),
    "faithfulness": (lambda root: faithfulness.write_v1(root), {}),
    "hook-pickle": (lambda root: hook_pickle.write_full_sequence(root), {"pool": "last"}),
    "spatialeval": (lambda root: spatialeval.write_cache(root / "cache"), {}),
    "lmprobe": (lambda root: lmprobe.write(root, sequences=True), {}),
}


@pytest.mark.parametrize("recipe", LAYOUTS)
def test_each_layout_comes_in_as_from_a_folder(hub: Hub, tmp_path: Path, recipe: str) -> None:
    write, options = LAYOUTS[recipe]
    write(tmp_path / "source")
    here, far = both(hub, tmp_path / "source", tmp_path, **options)
    assert (far.recipe, far.detected) == (here.recipe, True)
    assert far.recipe == recipe
    assert far.files_read == here.files_read
    assert [r.path for r in far.refused] == [r.path for r in here.refused]
    for name in ("notes", "labels", "layers", "sites", "datasets"):
        assert getattr(far, name) == getattr(here, name), name
    # While they are small, every file is fetched once.
    fetched = Counter(entry.path.split("?")[0] for entry in hub.log.entries(origin="objects"))
    assert set(fetched.values()) == {1}
    settings = manifests.load(tmp_path / "far").runs[0].settings
    head = hub.head("alice/raw").oid
    assert settings["sources"] == [f"hf://datasets/alice/raw@{head}"]


@pytest.mark.parametrize("within", ["", "/cache"])
def test_a_refused_file_names_its_table_as_the_repository_does(
    hub: Hub, tmp_path: Path, within: str
) -> None:
    amber.write_samples(tmp_path / "source/cache", samples=2, layers=2)
    table = tmp_path / "source/cache/model_responses.jsonl"
    table.write_text('{"id": 1, "response": "a"}\n{"id": 1, "response": "b"}\n')
    upload(hub, tmp_path / "source")
    far = actstore.ingest(RAW + within, tmp_path / "far", recipe="amber", model="org/m")
    reasons = {refusal.reason.partition(" ")[0] for refusal in far.refused}
    assert reasons == {"cache/model_responses.jsonl:"}
    assert far.report is not None
    report = (tmp_path / "far" / far.report).read_text()
    assert tempfile.gettempdir() not in report


def test_several_repositories_are_several_data_sets_by_their_names(
    hub: Hub, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        amber.write_samples(tmp_path / name, samples=2, layers=2, seed=len(name))
        upload(hub, tmp_path / name, f"alice/{name}")
    addresses = [f"hf://datasets/alice/{name}" for name in ("one", "two")]
    for written in (8, 0):  # the second time they are the same rows
        far = actstore.ingest(addresses, tmp_path / "far", recipe="amber", model="org/m")
        assert (far.datasets, far.rows_written) == ({"one": 4, "two": 4}, written)


def test_two_revisions_of_one_repository_are_two_data_sets_by_their_commits(
    hub: Hub, tmp_path: Path
) -> None:
    commits = []
    for seed in (1, 2):
        amber.write_samples(tmp_path / str(seed), samples=2, layers=2, seed=seed)
        files = {path.name: path.read_bytes() for path in (tmp_path / str(seed)).iterdir()}
        if seed == 1:
            hub.create("alice/raw", files)
        else:
            hub.commit("alice/raw", files)
        commits.append(hub.head("alice/raw").oid)
    addresses = [f"{RAW}@{commit}" for commit in commits]
    for written in (8, 0):  # the second time they are the same rows
        far = actstore.ingest(addresses, tmp_path / "far", recipe="amber", model="org/m")
        assert far.rows_written == written
        assert far.datasets == {commit[:8]: 4 for commit in commits}


def test_files_go_when_they_are_done_with(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "KEPT", 0)
    monkeypatch.setattr("actstore.ingestion.read_ahead.AHEAD_BYTES", 1)
    amber.write_samples(tmp_path / "source", samples=12, layers=30, width=400)
    sizes = upload(hub, tmp_path / "source")
    largest = max(sizes.values())
    seen: list[int] = []
    release = mirror.Mirror.release

    def watched(self: mirror.Mirror, path: Path) -> None:
        used = sum(file.stat().st_blocks * 512 for file in self.root.rglob("*") if file.is_file())
        seen.append(used)
        release(self, path)

    monkeypatch.setattr(mirror.Mirror, "release", watched)
    summary = actstore.ingest(RAW, tmp_path / "store", model="org/m")
    assert summary.rows_written == 12 * 30
    assert len(seen) == 12
    assert max(seen) < 3 * (largest + 8192)


def test_what_nobody_holds_is_no_byte_more_than_may_stay(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "KEPT", 199)
    hub.create("alice/raw", {name: name.encode() * 100 for name in "abc"})
    with mirror.mirrored(source_places.place_of(RAW)) as files:
        for name in "abc":
            files.fetch(files.root / name, hold=False)
        # The last one does not count: it is about to be opened.
        assert [files.is_here(files.root / name) for name in "abc"] == [False, True, True]


def test_parquet_in_shards_is_numbered_through(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "KEPT", 0)
    random = np.random.default_rng(0)
    root = tmp_path / "source" / "data"
    root.mkdir(parents=True)
    for shard in range(3):
        values = random.standard_normal((5 + shard, 8)).astype(np.float32)
        table = pa.table(
            {
                "blocks.3.hook_resid_post": pa.FixedSizeListArray.from_arrays(values.ravel(), 8),
                "answer": [f"{shard}-{row}" for row in range(len(values))],
            }
        )
        pq.write_table(table, root / f"train-{shard:05d}-of-00003.parquet")
    _, far = both(hub, tmp_path / "source", tmp_path, model="org/m", map={"label": "answer"})
    assert (far.recipe, far.sites, far.layers) == ("parquet", ("resid_post",), (3,))
    rows = stored_rows(tmp_path / "far")
    assert sorted(int(row["example_id"]) for row in rows) == list(range(18))
    assert rows[0]["split"] == "train"


@pytest.mark.parametrize("form", ["parquet", "saved"])
def test_a_saelens_cache_from_the_hub(hub: Hub, tmp_path: Path, form: str) -> None:
    hook = "blocks.5.hook_resid_pre"
    values = np.random.default_rng(1).standard_normal((3, 4, 6)).astype(np.float32)
    features = Features({hook: Array2D((4, 6), "float32"), "token_ids": Sequence(Value("int32"))})
    data = Dataset.from_dict(
        {hook: values, "token_ids": [[1, 2, 3, n] for n in range(3)]}, features=features
    )
    root = tmp_path / "raw"  # a data set that is a folder is called like it
    if form == "saved":
        data.save_to_disk(root)
    else:
        (root / "data").mkdir(parents=True)
        data.to_parquet(root / "data" / "train-00000-of-00001.parquet")
    _, far = both(hub, root, tmp_path, model="gpt2")
    assert (far.sites, far.layers, far.rows_written) == (("resid_pre",), (5,), 12)
    found = np.stack([row["activation"] for row in stored_rows(tmp_path / "far")])
    assert found.tobytes() == values.reshape(12, 6).tobytes()


def test_a_folder_and_a_revision_of_a_repository(hub: Hub, tmp_path: Path) -> None:
    amber.write_samples(tmp_path / "source" / "one", samples=2, layers=2)
    amber.write_samples(tmp_path / "source" / "two", samples=3, layers=2, seed=5)
    upload(hub, tmp_path / "source")
    hub.repository("alice/raw").create_ref("refs/tags/v1", hub.head("alice/raw").oid)
    hub.commit("alice/raw", {"two/sample_0000.pt": None})
    summary = actstore.ingest(f"{RAW}@v1/two", tmp_path / "store", model="org/m")
    assert (summary.files_read, summary.rows_written) == (3, 6)
    assert actstore.ingest(f"{RAW}/two", tmp_path / "store", model="org/m").rows_present == 4
    single = actstore.ingest(f"{RAW}/one/sample_0001.pt", tmp_path / "single", model="org/m")
    assert single.rows_written == 2
    with pytest.raises(UsageError, match=r"there is no 'three' .* it has one, two"):
        actstore.ingest(f"{RAW}/three", tmp_path / "store", model="org/m")


def test_bad_files_are_refused_by_name_and_pickles_never_run(hub: Hub, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    root = tmp_path / "source"
    amber.write_samples(root, samples=3, layers=2)
    (root / "sample_0007.pt").write_bytes(pickle.dumps(Trap()))
    (root / "sample_0008.pt").write_bytes((root / "sample_0001.pt").read_bytes()[:-200])
    upload(hub, root)
    summary = actstore.ingest(RAW, tmp_path / "store", model="org/m")
    assert [refusal.path for refusal in summary.refused] == ["sample_0007.pt", "sample_0008.pt"]
    assert summary.rows_written == 6
    assert not (tmp_path / "sprung").exists()


def test_a_file_that_arrives_damaged_is_refused_and_the_next_run_brings_it(
    hub: Hub, tmp_path: Path
) -> None:
    amber.write_samples(tmp_path / "source", samples=30, layers=2)
    upload(hub, tmp_path / "source")
    sha256 = hub.files("alice/raw")["sample_0011.pt"].sha256
    hub.faults.add(faults.flip(100), path=sha256, times=None)
    summary = actstore.ingest(RAW, tmp_path / "store", model="org/m")
    assert [refusal.path for refusal in summary.refused] == ["sample_0011.pt"]
    assert "arrives damaged" in summary.refused[0].reason
    hub.faults.clear()
    again = actstore.ingest(RAW, tmp_path / "store", model="org/m")
    assert (again.rows_written, again.rows_present) == (2, 58)


def test_a_hub_that_goes_away_ends_the_run_and_what_was_read_stays(
    hub: Hub, tmp_path: Path
) -> None:
    amber.write_samples(tmp_path / "source", samples=30, layers=2)
    upload(hub, tmp_path / "source")
    gone: list[bool] = []

    def stop(progress: Any) -> None:
        if progress.files == 10 and not gone:
            gone.append(True)
            hub.faults.add(faults.status(404), path="/resolve/", times=None)

    with pytest.raises(Exception, match="refused with 404") as caught:
        actstore.ingest(RAW, tmp_path / "store", model="org/m", progress=stop)
    assert str(tmp_path) not in str(caught.value)
    hub.faults.clear()
    kept = len(stored_rows(tmp_path / "store"))
    assert 20 <= kept < 60
    again = actstore.ingest(RAW, tmp_path / "store", model="org/m")
    assert (again.rows_present, again.rows_written) == (kept, 60 - kept)


def test_messages_name_the_repository_not_the_folder_behind_it(hub: Hub, tmp_path: Path) -> None:
    hub.create("alice/raw", {"notes.txt": b"nothing here", "x.bin": b"\0" * 100})
    with pytest.raises(Exception, match="alice/raw: no recipe fits") as caught:
        actstore.ingest(RAW, tmp_path / "store")
    assert "actstore-sources-" not in str(caught.value)
    with pytest.raises(RepositoryNotFoundError):
        actstore.ingest("hf://datasets/alice/none", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_store_is_pulled_not_ingested(hub: Hub, tmp_path: Path) -> None:
    hub.create("alice/raw", {"manifests/0000000001.json": b"{}"})
    with pytest.raises(RemoteStoreError, match="actstore pull alice/raw"):
        actstore.ingest(RAW, tmp_path / "store")


@pytest.mark.parametrize("path", ["../out.pt", "a/../../out.pt", "a\\..\\out.pt"])
def test_names_that_lead_elsewhere_are_not_written(hub: Hub, tmp_path: Path, path: str) -> None:
    hub.create("alice/raw", {"a.pt": b"\0" * 10, path: b"\0" * 10})
    with pytest.raises(RemoteStoreError, match="outside the folder"):
        actstore.ingest(RAW, tmp_path / "store", model="org/m")
    assert not list(tmp_path.rglob("out.pt"))


def test_nothing_is_left_of_the_folder_behind_it(hub: Hub, tmp_path: Path) -> None:
    amber.write_samples(tmp_path / "source", samples=2, layers=2)
    upload(hub, tmp_path / "source")
    (tmp_path / "tmp").mkdir()
    before = tempfile.tempdir
    tempfile.tempdir = str(tmp_path / "tmp")
    try:
        actstore.ingest(RAW, tmp_path / "store", model="org/m")
    finally:
        tempfile.tempdir = before
    assert not list((tmp_path / "tmp").glob("actstore-sources-*"))
    assert fetching.of(tmp_path / "tmp" / "x") is None


def test_the_command_takes_an_address(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = amber.write_samples(tmp_path / "source", samples=2, layers=3)
    upload(hub, tmp_path / "source")
    words = ["ingest", RAW, "--store", str(tmp_path / "store"), "--model", amber.MODEL]
    assert cli.run([*words, "--dry-run"]) == 0
    assert not (tmp_path / "store").exists()
    assert cli.run(words) == 0
    assert "stored  6 rows from 2 files" in capsys.readouterr().out
    assert_rows(stored_rows(tmp_path / "store"), expected)
    assert ingest_folder(tmp_path / "source", tmp_path / "store", model=amber.MODEL).rows_present
    assert cli.run(["ingest", "hf://models/x/y", "--store", str(tmp_path / "store")]) == 2
