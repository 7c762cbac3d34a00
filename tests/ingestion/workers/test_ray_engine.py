"""Ingests by Ray are those of one process, row for row and in order, whatever is lost."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import actstore
from actstore import cli
from actstore.errors import ActstoreError, ContractError, IngestError, RefusedError, UsageError
from actstore.ingestion.report import IngestSummary, Progress
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.workers import driver as drivers
from actstore.ingestion.workers import pieces
from actstore.ingestion.workers.pieces import Piece
from actstore.remote.bucket import Bucket
from actstore.remote.bucket_address import parse_bucket
from actstore.storage import manifest as manifests
from actstore.storage.partition import StoredRows
from actstore.workers.handing import Hand, Pieces
from tests.capturing import clusters
from tests.ingestion.workers import driving
from tests.ingestion.workers.driving import assert_as_alone, told_of
from tests.layouts import amber, clt
from tests.remote import buckets
from tests.remote.bucket_fixtures import *  # noqa: F403
from tests.torture.effort import TORTURE

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed"
)
long = pytest.mark.skipif(not TORTURE, reason="takes minutes: make torture")
FILES, ROWS = 12, 5


@pytest.fixture(scope="module")
def mark(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Path]:
    """A Ray of two cores, joined by this process; what tells its workers from all others."""
    import ray

    folder = tmp_path_factory.mktemp("ray")
    before = dict(os.environ)
    os.environ.update(clusters.environment(folder))
    if TORTURE:  # workers have the variables of Ray's start
        os.environ.update(buckets.variables(request.getfixturevalue("s3_server")))
    ray.init("local", num_cpus=2, log_to_driver=False, **clusters.SMALL)
    yield folder
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of two small files."""
    monkeypatch.setattr(pieces, "_LEAST", 2 * pieces._FILE + (64 << 10))


def write(folder: Path) -> Path:
    """Write tables: one repeats a row of an earlier one, one contradicts one, one is no table."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(FILES):
        ids = [f"e{number * ROWS + row}" for row in range(ROWS)]
        vectors = draw.normal(size=(ROWS, 8)).astype(np.float32)
        if number == 0:
            first = vectors
        if number == 7:
            ids[2], vectors[2] = "e1", first[1]
        if number == 9:
            ids[0] = "e3"
        columns = {
            "example_id": ids,
            "label": ["yes"] * ROWS,
            "activation": pa.FixedSizeListArray.from_arrays(vectors.ravel(), 8),
        }
        pq.write_table(pa.table(columns), folder / f"part_{number}.parquet")
    (folder / "part_10.parquet").write_bytes(b"PAR1 and no more")
    return folder


def ingest(source: Path, store: Path | str, **options: Any) -> IngestSummary:
    return actstore.ingest(source, store, model="m", site="resid_post", layer=3, **options)


@pytest.mark.parametrize(
    "replace", [False, pytest.param(True, marks=long)], ids=["pieces", "whole"]
)
def test_rows_and_what_is_told_are_those_of_one_process(
    mark: Path, tmp_path: Path, replace: bool
) -> None:
    source = write(tmp_path / "in")
    alone = ingest(source, tmp_path / "alone", replace=replace)
    killed: list[int] = []

    def progress(done: Progress) -> None:
        if not killed and done.files:  # in the middle: others are reading
            killed.append(clusters.workers_of(mark)[0])
            os.kill(killed[0], signal.SIGKILL)

    told: list[str] = []
    summary = actstore.ingest(
        source, tmp_path / "ray", model="m", site="resid_post", layer=3,
        engine="ray", workers=2, progress=progress, note=told.append, replace=replace,
    )  # fmt: skip
    assert any("was lost" in text for text in told)
    assert_as_alone(tmp_path / "ray", tmp_path / "alone")
    found, expected = summary.as_dict(), alone.as_dict()
    assert found["rows_written"] == expected["rows_written"] == ROWS * (FILES - 2) - 1
    assert found["notes"][-1].startswith("1 worker lost and replaced")
    assert told_of(found) == told_of({**expected, "notes": found["notes"]})
    assert summary.commit == manifests.latest(tmp_path / "ray").number
    assert [each["path"] for each in found["refused"]] == ["part_9.parquet", "part_10.parquet"]
    assert (found["rows_present"], found["rows_repeated"]) == (0, 1)
    runs = manifests.latest(tmp_path / "ray").runs
    assert [run.run_id for run in runs] == [summary.run_id]
    if replace:
        assert summary.commit == 1
        assert runs[0].settings == manifests.latest(tmp_path / "alone").runs[0].settings
    else:
        assert runs[0].settings["pieces"]["rows"] == summary.rows_written


@long
def test_what_is_stored_is_not_read_again(
    mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "in"
    amber.write_samples(source, samples=10, layers=2)
    options: dict[str, Any] = {"model": "m", "engine": "ray", "workers": 2}
    actstore.ingest(source, tmp_path / "alone", model="m")

    def broken_off(done: Progress) -> None:
        if done.files >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        actstore.ingest(source, tmp_path / "ray", progress=broken_off, **options)
    clusters.wait_until(lambda: not clusters.workers_of(mark))
    there = len(actstore.open(tmp_path / "ray").select())
    assert 0 < there < 20
    seen: list[Progress] = []
    summary = actstore.ingest(source, tmp_path / "ray", progress=seen.append, **options)
    assert (summary.rows_written, summary.rows_present) == (20 - there, there)
    assert (summary.files_read, len(summary.continued)) == (10, 1)
    assert_as_alone(tmp_path / "ray", tmp_path / "alone")
    forms = [
        manifests.latest(tmp_path / name).runs[-1].settings["forms"] for name in ("ray", "alone")
    ]
    assert forms[0] == forms[1]
    monkeypatch.setattr("ray.remote", None)  # nobody is started where all is there
    again = actstore.ingest(source, tmp_path / "ray", label_set="'seen'", **options)
    assert (again.rows_written, again.rows_present) == (0, 20)
    assert again.labels == {"seen": 20}


def both(
    folder: Path,
    source: Path,
    prepare: Callable[[Path], object] = lambda store: None,
    **options: Any,
) -> Any:
    """Ingest by one process and by Ray; check that rows and what is told are the same.

    Returns what is told: the summary, or the error.
    """  # fmt: skip
    told: list[Any] = []
    settings = []
    for name, engine in (("alone", {}), ("ray", {"engine": "ray", "workers": 2})):
        store = folder / name
        prepare(store)
        before = manifests.latest(store).number
        try:
            found = actstore.ingest(source, store, model="m", **{**options, **engine})
            told.append(told_of(found.as_dict()))
        except ActstoreError as error:
            told.append((type(error), str(error)))
            assert manifests.latest(store).number == before
            assert store.exists() == bool(before)
        if before:
            assert not list((store / ".cache").glob("ingest-*"))
        settings.append([run.settings for run in manifests.latest(store).runs])
    assert told[0] == told[1]
    assert settings[0] == settings[1]
    if (folder / "alone").exists():
        assert_as_alone(folder / "ray", folder / "alone")
        commits = [manifests.latest(folder / name).number for name in ("alone", "ray")]
        assert commits[0] == commits[1]  # one for all
    return told[1]


NAMED: dict[str, Any] = {"site": "resid_post", "layer": 3}


def test_all_or_nothing(mark: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in")
    found = both(tmp_path / "refused", source, strict=True, **NAMED)
    assert found[0] is RefusedError
    assert "2 files were refused" in found[1]
    for number in (9, 10):
        (source / f"part_{number}.parquet").unlink()
    found = both(tmp_path / "whole", source, strict=True, storage_dtype="int8", **NAMED)
    assert found["rows_repeated"] == 1


def test_a_contract_is_held_over_all_rows(mark: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in")
    rules = {"name": "c", "classes": ["yes", "no"], "max_rows_per_class": 51, "rank": 3}
    (tmp_path / "c.json").write_text(json.dumps(rules))
    found = both(tmp_path / "broken", source, contract=tmp_path / "c.json", **NAMED)
    assert found[0] is ContractError
    assert "layer 3: 0 rows of no" not in found[1]
    assert "layer 3: no rows of no" in found[1]
    assert "part_8.parquet#activation: shape [5, 8] has 2 axes; expected 3" in found[1]
    (tmp_path / "c.json").write_text(json.dumps({**rules, "rank": 2, "classes": ["yes"]}))
    found = both(tmp_path / "kept", source, contract=tmp_path / "c.json", **NAMED)
    assert len(found["refused"]) == 2


def test_rows_are_replaced_in_one_commit(mark: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in")
    old = tmp_path / "old"
    old.mkdir()
    for number in (0, 1):
        table = pq.read_table(source / f"part_{number}.parquet")
        vectors = np.array(table["activation"].to_pylist(), np.float32)
        vectors[1:3] += 1
        column = pa.FixedSizeListArray.from_arrays(vectors.ravel(), 8)
        changed = table.set_column(2, "activation", column)
        pq.write_table(changed, old / f"part_{number}.parquet")

    def prepare(store: Path) -> None:
        actstore.ingest(old, store, model="m", **NAMED)

    shown: list[int] = []

    def confirm(stored: Sequence[StoredRows]) -> None:
        shown.append(sum(len(each.rows) for each in stored))

    found = both(
        tmp_path / "new", source, prepare, replace=True, confirm_replacing=confirm, **NAMED
    )
    assert found["rows_replaced"] == 5  # of the ninth table too: the store has what it contradicts
    assert shown == [5, 5]

    def decline(stored: Sequence[StoredRows]) -> None:
        raise UsageError("no")

    found = both(
        tmp_path / "declined", source, prepare, replace=True, confirm_replacing=decline, **NAMED
    )
    assert found == (UsageError, "no")


def test_files_that_stand_together_are_read_by_one_worker(mark: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    clt.write_multi_target(source, batches=5, batch_size=2, samples=9)
    clt.write_queries(source / "queries.json", 9)
    (source / "L0/batch_0_x.pt").write_bytes(b"no activations")
    changed = torch.load(source / "L1/batch_3_y.pt", weights_only=True)
    changed["targets"][0][0, 1, 3] += 1
    torch.save({**changed, "y": changed["targets"][0]}, source / "L1/batch_3_y.pt")
    actstore.ingest(source, tmp_path / "alone", model="m")
    found = actstore.ingest(source, tmp_path / "ray", model="m", engine="ray", workers=2)
    alone = actstore.ingest(source, tmp_path / "again", model="m")
    assert told_of(found.as_dict()) == told_of(alone.as_dict())
    assert_as_alone(tmp_path / "ray", tmp_path / "alone")
    assert [each.path for each in found.refused] == ["L0/batch_0_x.pt", "L1/batch_3_y.pt"]
    if TORTURE:
        both(tmp_path / "strict", source, strict=True)
        both(tmp_path / "whole", source, replace=True, first_k=5)


def test_the_command_ends_as_that_of_one_process(
    mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in")
    given = ("--model", "m", "--site", "resid_post", "--layer", "3", "--strict")

    def command(store: str, *further: str) -> tuple[int, str, str]:
        words = ("ingest", source, "--store", tmp_path / store, *given, *further)
        capsys.readouterr()
        return cli.run([str(word) for word in words]), *capsys.readouterr()

    alone = command("alone")
    assert command("ray", "--engine", "ray", "--workers", "2") == alone
    assert alone[0] != 0
    assert "2 files were refused" in alone[2]


@pytest.mark.parametrize(
    "options",
    [pytest.param({}, marks=long), {"strict": True, "replace": True}],
    ids=["pieces", "whole"],
)
def test_the_driver_is_killed_and_started_again(
    mark: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    source = write(tmp_path / "in")
    for number in (9, 10):
        (source / f"part_{number}.parquet").unlink()
    options = {**options, "recipe": "parquet"}  # what is spoilt cannot tell
    alone = ingest(source, tmp_path / "alone", **options)
    store = tmp_path / "ray"
    whole = "strict" in options
    killed = driving.start(source, store, stop=6, **options)
    driving.kill_when_it_stops(killed)
    clusters.wait_until(lambda: not clusters.workers_of(mark))
    assert (manifests.newest(store) == 0) == whole
    assert len(list(store.glob(".cache/ingest-*/*"))) == (2 if whole else 0)
    # Whoever reads these again finds what is no table.
    for number in range(6):
        driving.spoil(source / f"part_{number}.parquet")
    told = driving.result(driving.start(source, store, **options))
    assert "6 files not read again" in told["said"]
    expected = json.loads(json.dumps(told_of(alone.as_dict())))
    found = told_of(told["summary"])
    if whole:
        assert found == expected
        assert manifests.newest(store) == 1
        assert not list(store.glob(".cache/ingest-*"))
    else:
        same = ("refused", "files_read")
        assert {name: found[name] for name in same} == {name: expected[name] for name in same}
        # With the row that a later table repeats: now it is one of another run.
        assert (found["rows_present"], len(found["continued"])) == (6 * ROWS + 1, 1)
        assert found["rows_written"] + 6 * ROWS == expected["rows_written"]
    assert_as_alone(store, tmp_path / "alone")


@long
@pytest.mark.parametrize("options", [{}, {"strict": True}], ids=["pieces", "whole"])
def test_into_a_bucket(mark: Path, tmp_path: Path, bucket: str, options: dict[str, Any]) -> None:
    source = write(tmp_path / "in")
    for number in (9, 10):
        (source / f"part_{number}.parquet").unlink()
    ingest(source, tmp_path / "alone")
    summary = ingest(source, f"{bucket}/runs", engine="ray", workers=2, **options)
    assert_as_alone(f"{bucket}/runs", tmp_path / "alone")
    assert summary.report is not None
    assert Bucket(parse_bucket(f"{bucket}/runs")).objects(".cache") == []


class Handle:
    """Stands for an actor: keeps what it is asked to read."""

    def __init__(self) -> None:
        self.asked: list[Piece] = []
        self.read = self.learn = self

    def remote(self, piece: Piece) -> str:
        self.asked.append(piece)
        return "to come"


def test_where_all_wait_for_a_lost_piece_who_has_gone_farthest_reads_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def file(name: str) -> SourceFile:
        path, pattern = Path(name), cast("Any", None)  # nobody looks at it
        return SourceFile(
            path=path, relative=name, parts={}, pattern=pattern, root=path, folder=path, size=1
        )

    given = [Piece(number=n, place=n, files=[file(f"{n}.pt")], digest=str(n)) for n in range(4)]
    driver = drivers.Driver(None, None, None, given, {}, None, print)  # type: ignore[arg-type]
    driver._pieces = Pieces(iter(given), IngestError, "files")
    lost, *others = (driver._pieces.next(Hand()) for _ in range(3))
    assert lost is not None
    driver._pieces.back(Hand([lost]), "a kill")
    doing = drivers._Doing
    driver._seats = [
        drivers._Seat(0, Handle(), "ready?"),  # no room for it
        *(drivers._Seat(n, Handle(), None, doing.WAITING, other) for n, other in
          enumerate(others, 1)),
    ]  # fmt: skip
    driver._look()
    assert [seat.actor.asked for seat in driver._seats] == [[], [], []]  # one may come yet
    monkeypatch.setattr(drivers, "_PATIENCE", -1.0)
    driver._look()
    waits, reads = driver._seats[1:]
    assert (waits.doing, waits.number) == (doing.WAITING, 1)
    assert (reads.doing, reads.number) == (doing.READING, 0)
    assert [piece.files[0].relative for piece in reads.actor.asked] == ["0.pt"]
    assert driver._pieces.first_again == 2  # and nobody's fault: it is read again
    assert not driver._pieces._lost[2]


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "in")
    with pytest.raises(UsageError, match="--workers"):
        ingest(source, tmp_path / "s", engine="ray")
    with pytest.raises(UsageError, match="--workers goes with --engine ray"):
        ingest(source, tmp_path / "s", workers=2)
    for option in ({}, {"strict": True}):
        with pytest.raises(UsageError, match="in the memory of this process, where no worker"):
            ingest(source, "memory://runs", engine="ray", workers=2, **option)
    assert not (tmp_path / "s").exists()


def test_a_dry_run_is_that_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in")
    monkeypatch.setattr("ray.remote", None)  # nobody is started
    told: list[str] = []
    found = ingest(
        source, tmp_path / "s", engine="ray", workers=3, dry_run=True, note=told.append
    ).as_dict()
    assert told == [
        "note: --dry-run reads in this process; --engine ray would cut the files into 6 pieces "
        "for 3 workers"
    ]
    alone = ingest(source, tmp_path / "s", dry_run=True).as_dict()
    for each in (found, alone):
        del each["run_id"], each["seconds"]
    assert found == alone
    assert not (tmp_path / "s").exists()
