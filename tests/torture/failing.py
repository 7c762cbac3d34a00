"""Changes and reads stores while the C library fails calls: run with failing.c preloaded."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from actstore.errors import ActstoreError, IngestError
from actstore.ingestion.run import ingest
from actstore.querying.info import example_counts
from actstore.querying.polars_frame import frame
from actstore.querying.sql import Database
from actstore.storage import manifest as manifests
from actstore.storage import shard
from actstore.storage.snapshot import open_snapshot
from actstore.storage.verification import verify
from tests.layouts.folders import SHAPES
from tests.storage.crashing import SCENARIOS, prepare_labels
from tests.storage.stores import batch, content, write
from tests.storage.test_crashes import (
    assert_complete,
    assert_stands,
    copy_of,
    prepare,
)
from tests.torture.effort import TORTURE, attack

NEVER = FOR_EVER = 1 << 60
STEP = 4 if TORTURE else 60


class Fault(NamedTuple):
    """What fails, and for how long."""

    errors: tuple[int, ...]
    """What the system says: one of these, by the number of the call."""
    lasting: bool
    reading: bool


FAULTS = {
    "EIO once": Fault((errno.EIO,), False, False),
    "EIO from then on": Fault((errno.EIO,), True, False),
    "ENOSPC from then on": Fault((errno.ENOSPC,), True, False),
    "EIO on reading": Fault((errno.EIO,), False, True),
}
ON_READING = Fault((errno.EIO, errno.EACCES, errno.ENOENT, errno.ESTALE), False, True)


def counted(root: Path, at: int, fault: Fault, work: Callable[[Path], object]) -> tuple[int, str]:
    """Do something while a call fails; return how many calls it took, and what is wrong with it."""
    library = ctypes.CDLL(None)
    library.failing_seen.restype = ctypes.c_long
    until = ctypes.c_long(FOR_EVER if fault.lasting else at)
    number = fault.errors[at % len(fault.errors)]
    wrong = ""
    library.failing_arm(bytes(root), ctypes.c_long(at), until, number, fault.reading)
    try:
        work(root)
    except ActstoreError as error:
        if fault.reading and str(root) not in str(error):
            wrong = f"it names nothing: {error}"
    except Exception:
        wrong = traceback.format_exc()
    finally:
        calls = library.failing_seen()
        library.failing_arm(b"", ctypes.c_long(0), ctypes.c_long(0), 0, 0)
    return calls, wrong


def fail(name: str, folder: Path, fault: str) -> None:
    """Fail calls of a change in turn; the store stands, and the change can be made afterwards."""
    scenario, what = SCENARIOS[name], FAULTS[fault]
    folder.mkdir()
    prepared = prepare(name, folder)

    def work(root: Path) -> None:
        scenario.run(root)
        snapshot = open_snapshot(root)
        snapshot.metadata_file()
        verify(snapshot)  # a read that fails may be a problem that it names
        snapshot.close()

    calls, _ = counted(copy_of(prepared, folder / "s"), NEVER, what, work)
    assert calls > len(FAULTS)
    wrong = []
    with attack("faults", f"{fault}, in the C library") as tally:
        # Each call meets one of the faults, where everything is tried.
        for at in range(1 + list(FAULTS).index(fault), calls + 1, STEP):
            root = copy_of(prepared, folder / "s")
            made, problem = counted(root, at, what, work)
            tally.tries += made >= at
            if problem:
                wrong.append(f"{fault}, call {at} of {calls}: {problem}")
            assert_stands(root, prepared)
            assert_complete(root, scenario, prepared)
        assert tally.tries > 0
        assert not wrong, "\n".join(wrong)


def fail_reading(folder: Path) -> None:
    """Fail calls of reading a store in turn: each is an error of ours that names what failed."""
    root = folder / "s"
    prepare_labels(root)
    more = batch(40, 3, layer=0)
    write(root, dataclasses.replace(more, columns={**more.columns, "extra": ['{"a": 1}'] * 3}))
    whole = content(root)

    def work(root: Path) -> None:
        shutil.rmtree(root / ".cache", ignore_errors=True)
        manifests.forget()
        snapshot = open_snapshot(root)
        database = Database(snapshot)
        try:
            snapshot.gather(np.arange(snapshot.rows))
            database.table("SELECT label, extra.a, activation FROM activations")
            frame(snapshot).collect()
            example_counts(snapshot)
            verify(snapshot)
        finally:
            database.close()
            snapshot.close()

    calls, _ = counted(root, NEVER, ON_READING, work)
    assert calls > 50
    wrong = []
    with attack("faults", "reading a store, in the C library") as tally:
        for at in range(1, calls + 1, 1 if TORTURE else 11):
            made, problem = counted(root, at, ON_READING, work)
            tally.tries += made >= at
            if problem:
                wrong.append(f"call {at} of {calls}: {problem}")
        assert tally.tries > 0
        assert not wrong, "\n".join(wrong)
    assert content(root) == whole


def fail_source(folder: Path) -> None:
    """Fail calls of reading a source: its file is named, or the rows are what they always are."""
    source = folder / "source"
    source.mkdir(parents=True)
    SHAPES["stack with parquet"].write(source)

    def told(source: Path) -> tuple[int, dict[str, int]]:
        done = ingest(source, folder / "none", model="org/model", yes=True, dry_run=True)
        for refused in done.refused:
            raise IngestError(refused.reason, source / refused.path)
        return done.rows_written, dict(done.labels)

    def work(source: Path) -> None:
        assert told(source) == whole

    whole = told(source)
    calls, _ = counted(source, NEVER, ON_READING, work)
    assert calls > 10
    with attack("faults", "reading a source, in the C library") as tally:
        for at in range(1, calls + 1, 1 if TORTURE else 3):
            made, problem = counted(source, at, ON_READING, work)
            tally.tries += made >= at
            assert not problem, f"call {at} of {calls}: {problem}"
        assert tally.tries > 0


if __name__ == "__main__":
    shard.GROUP_BYTES = shard._CHUNK = 64
    if sys.argv[1] == "reading":
        fail_reading(Path(sys.argv[2]))
        fail_source(Path(sys.argv[2]) / "ingest")
    else:
        for number, fault in enumerate(FAULTS):
            fail(sys.argv[1], Path(sys.argv[2]) / f"{number}", fault)
