"""Ingests by Ray are those of one process, row for row and in order, whatever is lost."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import actstore
from actstore.errors import IngestError, UsageError
from actstore.ingestion.report import IngestSummary, Progress
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.workers import pieces, ray_engine
from actstore.ingestion.workers.pieces import Piece
from actstore.storage import manifest as manifests
from actstore.workers.handing import Hand, Pieces
from tests.capturing import clusters
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


def rows(store: Path | str) -> tuple[Any, np.ndarray]:
    """All columns but those that differ from run to run, and the vectors, in row order."""
    chosen = actstore.open(store).select()
    table = chosen.table()
    names = [name for name in table.column_names if name != "run_id"]
    return table.select(names), chosen.numpy(mixed=True)


def assert_as_alone(store: Path | str, alone: Path) -> None:
    (table, vectors), (expected, bits) = rows(store), rows(alone)
    assert table.equals(expected)
    assert np.array_equal(vectors.view(np.uint32), bits.view(np.uint32))


def test_rows_and_what_is_told_are_those_of_one_process(mark: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in")
    alone = ingest(source, tmp_path / "alone")
    killed: list[int] = []

    def progress(done: Progress) -> None:
        if not killed and done.files:  # in the middle: others are reading
            killed.append(clusters.workers_of(mark)[0])
            os.kill(killed[0], signal.SIGKILL)

    told: list[str] = []
    summary = actstore.ingest(
        source, tmp_path / "ray", model="m", site="resid_post", layer=3,
        engine="ray", workers=2, progress=progress, note=told.append,
    )  # fmt: skip
    assert any("was lost" in text for text in told)
    assert_as_alone(tmp_path / "ray", tmp_path / "alone")
    found, expected = summary.as_dict(), alone.as_dict()
    assert found["rows_written"] == expected["rows_written"] == ROWS * (FILES - 2) - 1
    for name in ("files_read", "bytes", "labels", "groups", "first_row", "sample_rows"):
        assert found[name] == expected[name], name
    assert summary.commit == manifests.latest(tmp_path / "ray").number
    assert sorted(found["refused"], key=str) == sorted(expected["refused"], key=str)
    assert [each["path"] for each in found["refused"]] == ["part_9.parquet", "part_10.parquet"]
    assert found["rows_present"] + found["rows_repeated"] == 1
    runs = manifests.latest(tmp_path / "ray").runs
    assert [run.run_id for run in runs] == [summary.run_id]
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


@long
def test_into_a_bucket(mark: Path, tmp_path: Path, bucket: str) -> None:
    source = write(tmp_path / "in")
    ingest(source, tmp_path / "alone")
    summary = ingest(source, f"{bucket}/runs", engine="ray", workers=2)
    assert_as_alone(f"{bucket}/runs", tmp_path / "alone")
    assert summary.report is not None


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

    given = [Piece(number=n, files=[file(f"{n}.pt")], digest=str(n)) for n in range(4)]
    driver = ray_engine._Driver(None, None, None, given, {}, None, print)  # type: ignore[arg-type]
    driver._pieces = Pieces(iter(given), IngestError, "files")
    lost, *others = (driver._pieces.next(Hand()) for _ in range(3))
    assert lost is not None
    driver._pieces.back(Hand([lost]), "a kill")
    doing = ray_engine._Doing
    driver._seats = [
        ray_engine._Seat(0, Handle(), "ready?"),  # no room for it
        *(ray_engine._Seat(n, Handle(), None, doing.WAITING, other) for n, other in
          enumerate(others, 1)),
    ]  # fmt: skip
    driver._look()
    assert [seat.actor.asked for seat in driver._seats] == [[], [], []]  # one may come yet
    monkeypatch.setattr(ray_engine, "_PATIENCE", -1.0)
    driver._look()
    waits, reads = driver._seats[1:]
    assert (waits.doing, waits.number) == (doing.WAITING, 1)
    assert (reads.doing, reads.number) == (doing.READING, 0)
    assert [piece.files[0].relative for piece in reads.actor.asked] == ["0.pt"]
    assert driver._pieces.first_again == 2  # and nobody's fault: it is read again
    assert not driver._pieces._lost[2]


def test_what_one_process_must_do_is_refused(tmp_path: Path) -> None:
    clt.write_multi_target(tmp_path / "clt")
    with pytest.raises(UsageError, match="layout clt are read in their order, by one process"):
        ingest(tmp_path / "clt", tmp_path / "s", engine="ray", workers=2)
    source = write(tmp_path / "in")
    for option in ("strict", "replace", "dry_run"):
        with pytest.raises(UsageError, match="is for one process"):
            ingest(source, tmp_path / "s", engine="ray", workers=2, **{option: True})
    with pytest.raises(UsageError, match="--workers"):
        ingest(source, tmp_path / "s", engine="ray")
    with pytest.raises(UsageError, match="--workers goes with --engine ray"):
        ingest(source, tmp_path / "s", workers=2)
    with pytest.raises(UsageError, match="files that lie elsewhere are fetched by one process"):
        actstore.ingest("hf://datasets/o/n", tmp_path / "s", engine="ray", workers=2)
    assert not (tmp_path / "s").exists()
