"""Changes and reads stores while the C library fails calls: run with failing.c preloaded."""

from __future__ import annotations

import ctypes
import errno
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from actstore.errors import ActstoreError
from actstore.storage import shard
from actstore.storage.snapshot import open_snapshot
from actstore.storage.verification import verify
from tests.storage.crashing import SCENARIOS
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

    error: int
    lasting: bool
    reading: bool


FAULTS = {
    "EIO once": Fault(errno.EIO, False, False),
    "EIO from then on": Fault(errno.EIO, True, False),
    "ENOSPC from then on": Fault(errno.ENOSPC, True, False),
    "EIO on reading": Fault(errno.EIO, False, True),
}


def counted(root: Path, at: int, fault: Fault, work: Callable[[Path], object]) -> tuple[int, str]:
    """Do something while a call fails; return how many calls it took, and what is wrong with it."""
    library = ctypes.CDLL(None)
    library.failing_seen.restype = ctypes.c_long
    until = ctypes.c_long(FOR_EVER if fault.lasting else at)
    wrong = ""
    library.failing_arm(bytes(root), ctypes.c_long(at), until, fault.error, fault.reading)
    try:
        work(root)
    except ActstoreError:
        pass
    except Exception as error:
        if not (fault.reading and isinstance(error, OSError)):  # the system's own words will do
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


if __name__ == "__main__":
    shard.GROUP_BYTES = shard._CHUNK = 64
    for number, fault in enumerate(FAULTS):
        fail(sys.argv[1], Path(sys.argv[2]) / f"{number}", fault)
