"""One worker of a capture: loads the model, takes pieces as they come, stores them itself."""

from __future__ import annotations

import contextlib
import os
import platform
import queue
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from actstore.capturing.forward.pooling import SiteLayer
from actstore.capturing.run.capture import session_of
from actstore.capturing.run.options import CaptureOptions, CaptureSettings, Source
from actstore.capturing.run.pieces import Part, Piece
from actstore.capturing.run.session import Session
from actstore.capturing.run.summary import CaptureProgress, CaptureSummary
from actstore.models import loading
from actstore.remote.bucket_address import is_bucket
from actstore.remote.working import working
from actstore.storage.staging import is_held
from actstore.workers.cluster import sendable


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What all workers of a capture are told."""

    store: Path | str
    """Its folder, which all workers see, or its address in a bucket."""
    folder: Path
    """Where relative paths start."""
    sign: Path = Path()
    """A staging folder of the store, held by who hands the work out."""
    model: str
    load: Mapping[str, Any]
    """Further arguments of :func:`actstore.models.loading.load`."""
    options: CaptureOptions
    settings: Mapping[str, Any]
    """What else the runs' records should hold."""
    world_size: int
    size: int
    """Examples of a piece."""
    commit_seconds: float | None = None
    """Time between commits of a worker; 0: one after each window."""


class Ready(NamedTuple):
    """What a worker says when its model is loaded."""

    host: str
    sees_store: bool
    """Whether it sees the store, and the locks in it, that the others see."""
    model: str
    fingerprint: str
    """Of everything that decides the values."""
    values: Mapping[str, Any]
    places: tuple[SiteLayer, ...]


class State(NamedTuple):
    """How far a worker is."""

    waiting: int
    """Pieces that it has not begun."""
    through: int
    """Pieces that it has gone through, in the order in which they were given."""
    committed: int
    """Those of them that are in a commit."""
    examples: int
    """Examples that it is through with, stored ones not counted."""
    tokens: int


class Feed(Source):
    """Examples that come piece by piece, until there are no more."""

    def __init__(self, part: Part) -> None:
        super().__init__((), part=part)
        self._coming: queue.Queue[Piece | None] = queue.Queue()
        self.through = 0
        """Pieces that the reader has left behind."""

    @property
    def total(self) -> int | None:
        """Nobody knows."""
        return None

    @property
    def waiting(self) -> int:
        """Pieces that nobody has taken."""
        return self._coming.qsize()

    def put(self, piece: Piece | None) -> None:
        """Add a piece; None: it was the last one."""
        self._coming.put(piece)

    def end(self) -> None:
        """Take back what nobody has taken; there is no more."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._coming.get_nowait()
        self._coming.put(None)

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces as they come; wait where there is none yet."""
        while (piece := self._coming.get()) is not None:
            yield piece
            self.through += 1


class Worker:
    """Captures the pieces that it is given. Its methods are called from several threads."""

    def __init__(self, work: Work, rank: int) -> None:
        self._work = work
        self._rank = rank
        self._committed = 0
        self._done = CaptureProgress(0, None, 0, 0)
        part = Part(rank=rank, world_size=work.world_size, size=work.size)
        self._feed = Feed(part)
        self._session: Session | None = None
        self._opened = contextlib.ExitStack()

    def ready(self) -> Ready:
        """Load the model, and say what it is.

        Raises:
            ActstoreError: it cannot be loaded, or options do not fit it.
        """
        with sendable():
            session = self._session = self._open()
            settings = session.settings
        return Ready(
            host=platform.node(),
            sees_store=is_bucket(self._work.store) or is_held(self._work.sign),
            model=session.identity.name,
            fingerprint=settings["fingerprint"],
            values=settings["values"],
            places=tuple(session.places),
        )

    def _open(self) -> Session:
        work = self._work
        if work.folder.is_dir():
            os.chdir(work.folder)
        loaded = loading.load(work.model, **work.load)
        options: CaptureOptions = {
            **work.options,
            "rank": self._rank,
            "world_size": work.world_size,
            "piece": work.size,
            "engine": "local",
            "model_name": work.options.get("model_name") or loaded.name,
            "revision": loaded.revision,
            "settings": {"loading": dict(loaded.settings), **work.settings},
        }
        return session_of(
            loaded.model,
            loaded.processor,
            self._feed,
            store=self._opened.enter_context(working(work.store)),
            options=CaptureSettings(**options),
            progress=self._note,
            committed=self._note_commit,
            commit_seconds=work.commit_seconds,
        )

    def run(self) -> CaptureSummary:
        """Capture what is given until there is no more; return what was done.

        Raises:
            ActstoreError: as :func:`actstore.capture`.
        """
        assert self._session is not None
        with sendable(), self._opened:
            return replace(self._session.run(), asked=None)

    def give(self, pieces: list[Piece]) -> None:
        """Take some more pieces."""
        for piece in pieces:
            self._feed.put(piece)

    def end(self) -> None:
        """Finish what is begun, commit it, and take no more."""
        self._feed.end()

    def last(self) -> None:
        """Know that there are no more pieces than those that were given."""
        self._feed.put(None)

    def state(self) -> State:
        """Say how far it is."""
        return State(
            waiting=self._feed.waiting,
            through=self._feed.through,
            committed=self._committed,
            examples=self._done.examples,
            tokens=self._done.tokens,
        )

    def _note(self, done: CaptureProgress) -> None:
        self._done = done

    def _note_commit(self, pieces: int) -> None:
        self._committed = pieces
