"""One large file of a repository, read by byte ranges: several at once, each answer checked."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import NamedTuple

from actstore.errors import RemoteStoreError, TransferError
from actstore.remote.cache import Range
from actstore.remote.client import KIND, Client
from actstore.storage.files import Traffic

REQUESTS = 16
"""Requests under way at once, in all of this process."""
PIECE = 8 << 20
"""Bytes of one request: longer ranges are fetched as several pieces side by side."""
_EXPIRED = frozenset({400, 401, 403, 404, 410})
"""What storage answers to a link that has grown too old."""


class Meter:
    """Counts what is transferred. Threads may share one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._traffic = Traffic(0, 0, 0)

    def add(self, *, requests: int = 0, received: int = 0, cached: int = 0) -> None:
        """Count some more."""
        with self._lock:
            had = self._traffic
            self._traffic = Traffic(
                had.requests + requests, had.received + received, had.cached + cached
            )

    @property
    def traffic(self) -> Traffic:
        """What there was so far."""
        return self._traffic


class _Link(NamedTuple):
    """Where storage keeps the file, for the time being."""

    url: str
    """Signed: never to be shown."""
    at_hub: bool
    """Whether the Hub itself answers there, and so wants the token."""


class RemoteObject:
    """One file at one commit.

    Args:
        client: the Hub.
        repository: ``org/name``.
        commit: at which the file is read.
        path: in the repository.
        size: bytes that it must have.
        sha256: that it must have; the Hub, which knows it, is asked before the first byte.
        meter: counts what moves.
    """

    def __init__(
        self,
        client: Client,
        repository: str,
        commit: str,
        path: str,
        *,
        size: int,
        sha256: str,
        meter: Meter,
    ) -> None:
        self._client = client
        self._repository = repository
        self._commit = commit
        self.path = path
        self.size = size
        self.sha256 = sha256
        self._meter = meter
        self._lock = threading.Lock()
        self._place: _Link | None = None
        self._etag: str | None = None

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return the bytes of each range, fetched side by side.

        Raises:
            TransferError: an answer is not the part of the file that was asked for.
            RemoteStoreError: the file is not the one that was meant.
            HubError: as :meth:`Client.call`.
        """
        pieces = [
            (number, (at, min(at + PIECE, stop)))
            for number, (start, stop) in enumerate(ranges)
            for at in range(start, stop, PIECE)
        ]
        if len(pieces) == 1:
            return [self._fetch(*pieces[0][1])]
        stopped = threading.Event()

        def fetch(piece: Range) -> bytes:
            return b"" if stopped.is_set() else self._fetch(*piece)

        futures = [_pool().submit(fetch, piece) for _, piece in pieces]
        found: list[list[bytes]] = [[] for _ in ranges]
        try:
            for (number, _), future in zip(pieces, futures, strict=True):
                found[number].append(future.result())
        except BaseException:
            stopped.set()
            for future in futures:
                future.cancel()
            wait(futures)
            raise
        return [parts[0] if len(parts) == 1 else b"".join(parts) for parts in found]

    def _fetch(self, start: int, stop: int) -> bytes:
        def ask() -> bytes:
            place = self._locate(None)
            found = self._ask(place, start, stop, last=False)
            if found is None:
                found = self._ask(self._locate(place), start, stop, last=True)
            assert found is not None
            return found

        found = self._client.call(
            f"read {self.path} of {self._repository}",
            ask,
            repository=self._repository,
            revision=self._commit,
        )
        self._meter.add(received=len(found))
        return found

    def _ask(self, place: _Link, start: int, stop: int, *, last: bool) -> bytes | None:
        """Make one request; None when the link has expired and ``last`` is not set."""
        import httpx2
        from huggingface_hub import get_session
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        token = self._client.token if place.at_hub else None
        headers = build_hf_headers(token=token or False, library_name="actstore")
        headers |= {"Accept-Encoding": "identity", "Range": f"bytes={start}-{stop - 1}"}
        self._meter.add(requests=1)
        with get_session().stream("GET", place.url, headers=headers) as answer:
            if answer.status_code in _EXPIRED and not last:
                return None
            if answer.status_code >= 400:
                answer.read()
            hf_raise_for_status(answer)
            self._check(answer, start, stop)
            blocks = []
            got = 0
            for block in answer.iter_bytes():
                blocks.append(block)
                got += len(block)
                if got > stop - start:
                    break
        if got != stop - start:
            raise httpx2.RemoteProtocolError(f"{got:,} of {stop - start:,} bytes came")
        return b"".join(blocks)

    def _check(self, answer: object, start: int, stop: int) -> None:
        status, headers = answer.status_code, answer.headers  # type: ignore[attr-defined]  # httpx's
        if status != 206:
            raise TransferError(
                f"the Hub sends all of {self.path} of {self._repository} where a part was asked "
                "for: a proxy in between may not pass range requests on"
            )
        given = headers.get("Content-Range", "")
        if given != f"bytes {start}-{stop - 1}/{self.size}":
            raise TransferError(
                f"bytes {start} to {stop - 1} of the {self.size} of {self.path} of "
                f"{self._repository} were asked for, and {given or 'others'} came"
            )
        etag = headers.get("ETag", "").removeprefix("W/").strip('"')
        with self._lock:
            if self._etag is None:
                self._etag = etag
        if etag != self._etag:
            raise TransferError(
                f"{self.path} of {self._repository} was another file at the next request (its "
                "ETag has changed); run the same command again"
            )

    def _locate(self, stale: _Link | None) -> _Link:
        """Return where the file lies; asked anew if that was ``stale``."""
        with self._lock:
            if self._place is None or self._place is stale:
                self._place = self._resolve()
            return self._place

    def _resolve(self) -> _Link:
        from urllib.parse import urlsplit

        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        url = hf_hub_url(
            self._repository,
            self.path,
            repo_type=KIND,
            revision=self._commit,
            endpoint=self._client.endpoint,
        )
        self._meter.add(requests=1)
        facts = get_hf_file_metadata(
            url,
            token=self._client.token or False,
            timeout=self._client.patience.silence,
            library_name="actstore",
            endpoint=self._client.endpoint,
        )
        if facts.etag != self.sha256 or facts.size not in (None, self.size):
            raise RemoteStoreError(
                f"{self.path} of {self._repository} is not the file that its manifest names "
                f"(SHA-256 {self.sha256[:12]}…, {self.size:,} bytes): whoever pushed it must push "
                "it anew"
            )
        at_hub = urlsplit(facts.location).netloc == urlsplit(self._client.endpoint).netloc
        return _Link(facts.location, at_hub)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(REQUESTS, thread_name_prefix="actstore-hub")


os.register_at_fork(after_in_child=_pool.cache_clear)
