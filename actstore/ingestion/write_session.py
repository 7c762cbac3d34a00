"""A writing session: many small writes gathered into full shards, committed now and then."""

from __future__ import annotations

import dataclasses
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack

from actstore.errors import UsageError
from actstore.ingestion.memory import Given, WriteOptions, WriteSettings, WriteSummary
from actstore.remote.working import working
from actstore.storage.writer import CHECKPOINT_BYTES, CHECKPOINT_ROWS, StoreWriter


class WriteSession:
    """Takes what ``Store.write`` takes, as often as wanted; a context manager.

    Each write is there as a whole or not at all, and all wait for a commit: :meth:`commit`, the
    end of the block, or whatever comes first of much waiting and ``seconds`` going by. So a
    thousand small writes make a few large shards, where a thousand calls of ``Store.write`` make
    a shard for each model, site and layer every time.

    An exception that leaves the block, Ctrl-C too, commits the writes that were complete, as a
    file keeps what was written to it; of the one that failed nothing is stored. A process that is
    killed leaves what was committed. Either way the same writes again store what is missing.

    Args:
        place: folder of the store, made when missing, or its address in a bucket.
        seconds: after which a write commits what waits.
        message: what the log says of each commit.

    Raises:
        UsageError: ``seconds`` is negative.
    """

    def __init__(
        self, place: Path | str, *, seconds: float = 300.0, message: str | None = None
    ) -> None:
        if not seconds >= 0:
            raise UsageError(f"seconds is how long writes wait for their commit, got {seconds!r}")
        self._folder = ExitStack()
        self._root = self._folder.enter_context(working(place))
        self._seconds = seconds
        self._message = message
        self._writer: StoreWriter | None = None
        self._kind: tuple[dict[str, Any], bool] | None = None
        self._whose = ""
        self._committed = time.monotonic()
        self._closed = False
        self.commits: list[int] = []
        """Numbers of the commits made so far."""

    def __enter__(self) -> WriteSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        with self._folder:
            self._end_run()
            if error is not None:
                raise error  # through the folder, which tells it what the store is called

    @property
    def pending_rows(self) -> int:
        """Rows that wait for their commit."""
        return 0 if self._writer is None else self._writer.pending_rows

    def write(
        self, activations: Any, metadata: Any = None, **options: Unpack[WriteOptions]
    ) -> WriteSummary:
        """Take activations, all of them or none.

        Args:
            activations: as for :func:`actstore.ingestion.memory.write`, like the rest, but
                for ``message``, which is the session's.
            metadata: the same.
            options: the same. Others than those of the write before begin a run of their own,
                after a commit.

        Returns:
            What was written; ``commit`` is None where that is to come.

        Raises:
            as :func:`actstore.ingestion.memory.write`; what waits is not touched by that, unless
                it is a CommitError.
            UsageError: the session is over, or a ``message`` was given.
        """
        if self._closed:
            raise UsageError("this writing session is over: open another one")
        chosen = WriteSettings(**options)
        if chosen.message is not None:
            raise UsageError(
                "a commit of a session holds several writes: give the message to writer()"
            )
        given = Given.of(activations, chosen)
        kind = given.settings, chosen.replace
        if self._writer is None or kind != self._kind:
            self._end_run()
            self._writer, self._kind, self._whose = given.writer(self._root), kind, given.whose
        done = given.add_to(self._writer, metadata)
        if self._is_due(self._writer):
            return dataclasses.replace(done, commit=self.commit())
        return done

    def commit(self) -> int | None:
        """Commit what waits; return the commit's number, None where nothing does.

        Raises:
            ConflictError: another writer has stored one of the rows with a different vector.
            CommitError: the store cannot be written; what waited is given up.
        """
        self._committed = time.monotonic()
        if self._writer is None:
            return None
        rows = self._writer.pending_rows
        text = self._message or f"wrote {rows} rows of {self._whose}"
        made = self._writer.commit(operation="write", message=text)
        if made is not None:
            self.commits.append(made)
        return made

    def close(self) -> None:
        """Commit what waits and end the session; may be called twice.

        Raises:
            as :meth:`commit`.
        """
        self._closed = True
        with self._folder:
            self._end_run()

    def _is_due(self, writer: StoreWriter) -> bool:
        return (
            writer.pending_bytes >= CHECKPOINT_BYTES
            or writer.pending_rows >= CHECKPOINT_ROWS
            or time.monotonic() - self._committed >= self._seconds
        )

    def _end_run(self) -> None:
        if self._writer is not None:
            try:
                self.commit()
            finally:
                self._writer.close()
                self._writer = None
