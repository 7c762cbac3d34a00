"""Writes rows on a thread of its own while the model runs on, and commits now and then."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from actstore.storage.manifest import Run
from actstore.storage.rows import RowBatch
from actstore.storage.threads import Pool, Task
from actstore.storage.writer import StoreWriter

COMMIT_BYTES = 1 << 30
"""Vector bytes after which a commit is due."""
COMMIT_ROWS = 250_000
COMMIT_SECONDS = 60.0
"""Time after which a commit is due, in runs of up to :data:`_LONG`; more in longer ones."""
_LONG = 20 * COMMIT_SECONDS
"""From here on the time between commits grows with the run: a twentieth of what it has taken."""
_DEPTH = 2
"""Windows that may wait: the model waits for the disk rather than fill the memory."""


class WindowRows(NamedTuple):
    """One window's rows, and how far the source is read once they are stored."""

    rows: Callable[[], Iterable[RowBatch]]
    """Makes the rows; called on the writing thread."""
    progress: Mapping[str, Any]
    mark: int = 0
    """What ``committed`` is told once the window is in a commit."""


class Sink:
    """Takes windows and stores them in order; whole windows only are ever committed.

    A context manager. Leaving it without an error commits everything; leaving it by an error,
    Ctrl-C among them, commits the windows that were put, so that the next run goes on there.
    """

    def __init__(
        self,
        writer: StoreWriter,
        *,
        commit_seconds: float | None = None,
        committed: Callable[[int], None] | None = None,
    ) -> None:
        """Take over ``writer``: no other thread may use it until the sink is closed.

        Args:
            writer: where rows go.
            commit_seconds: instead of :data:`COMMIT_SECONDS`; 0: a commit after each window.
            committed: called on the writing thread after each commit, with the mark of the last
                window in it.
        """
        self.written = 0
        self.present = 0
        self.bytes = 0
        self._writer = writer
        writer.recorded = _less_overtaken
        self._rows_earlier = writer.run.settings.get("progress", {"rows": 0}).get("rows")
        self._commit_seconds = COMMIT_SECONDS if commit_seconds is None else commit_seconds
        self._committed = committed
        self._mark = 0
        self._pool = Pool(1)
        self._waiting: deque[Task[None]] = deque()
        self._error: BaseException | None = None
        self._started = self._last = time.monotonic()

    def __enter__(self) -> Sink:
        self._started = self._last = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._do(partial(self._commit, None if kind is None else "broken off")).wait()
        self._pool.close()
        if self._error is not None and kind is None:
            raise self._error

    @property
    def error(self) -> BaseException | None:
        """What the writing thread failed with."""
        return self._error

    @property
    def commit(self) -> int | None:
        """Number of the last commit."""
        return self._writer.commits[-1] if self._writer.commits else None

    def put(self, part: WindowRows) -> None:
        """Store a window; waits while too many wait already.

        Raises:
            ActstoreError: an earlier window could not be stored; whatever the writer raises.
        """
        while len(self._waiting) > _DEPTH:  # the first is being stored, the others wait
            self._waiting[0].wait()
            self._waiting.popleft()
        self._waiting.append(self._do(partial(self._take, part)))
        if self._error is not None:
            raise self._error

    def _do(self, work: Callable[[], None]) -> Task[None]:
        """Have something done on the writing thread, unless something failed there before."""

        def unless_failed() -> None:
            if self._error is not None:
                return
            try:
                work()
            except BaseException as error:  # handed to the thread that waits for it
                self._error = error

        return self._pool.submit(unless_failed)

    def _take(self, part: WindowRows) -> None:
        self._store(part)
        now = time.monotonic()
        if self._due(now - self._last, now - self._started):
            self._commit("in progress")
            self._last = time.monotonic()

    def _store(self, part: WindowRows) -> None:
        with self._writer.file():
            for batch in part.rows():
                added = self._writer.add(batch)
                self.written += added.written
                self.present += added.present
                self.bytes += added.bytes
        self._mark = part.mark
        run: Run = self._writer.run
        progress = dict(part.progress)
        if self._rows_earlier is not None:  # else an earlier session did not count them
            progress["rows"] = self._rows_earlier + self.written
        self._writer.run = dataclasses.replace(run, settings={**run.settings, "progress": progress})

    def _due(self, since: float, running: float) -> bool:
        return (
            self._writer.pending_bytes >= COMMIT_BYTES
            or self._writer.pending_rows >= COMMIT_ROWS
            or since >= self._commit_seconds * max(1.0, running / _LONG)
        )

    def _commit(self, state: str | None) -> None:
        settings = self._writer.run.settings
        what = settings.get("dataset") or "examples"
        message = f"capture {settings.get('model')} on {what}"
        self._writer.commit(
            operation="capture", message=f"{message} ({state})" if state else message
        )
        if self._committed is not None:
            self._committed(self._mark)


def _less_overtaken(run: Run, overtaken: int) -> Run:
    """Return a run's record with the rows that it really has stored: others may have been first."""
    progress = run.settings.get("progress", {})
    if not overtaken or "rows" not in progress:
        return run
    progress = {**progress, "rows": progress["rows"] - overtaken}
    return dataclasses.replace(run, settings={**run.settings, "progress": progress})
