"""One large file of a repository, read by byte ranges: several at once, each answer checked."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

from actstore.errors import RemoteStoreError, TransferError
from actstore.remote.cache import Range
from actstore.remote.client import KIND, Client
from actstore.remote.ranges import Meter, read_side_by_side

_EXPIRED = frozenset({400, 401, 403, 404, 410})
"""What storage answers to a link that has grown too old."""


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
        return read_side_by_side(self._fetch, ranges)

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
