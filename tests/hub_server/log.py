"""Every request the loopback Hub has seen, with the bytes that moved."""

from __future__ import annotations

import re
import threading
from dataclasses import asdict, dataclass
from typing import Literal

Origin = Literal["hub", "objects", "cas"]


@dataclass(slots=True, kw_only=True)
class Logged:
    """One request. Never holds a token: only whether an Authorization header came with it."""

    number: int
    """1 for the first request after the log was made or reset; faults are chosen by it."""
    origin: Origin
    method: str
    path: str
    """As sent: percent-encoded, with its query, signatures included."""
    range: str | None
    user_agent: str
    authorized: bool
    status: int = 0
    """0 when the connection was dropped before an answer."""
    request_bytes: int = 0
    """Body bytes received."""
    response_bytes: int = 0
    """Body bytes sent."""
    fault: str | None = None
    done: bool = False


class RequestLog:
    """Thread-safe; reading waits a moment for requests that are still being answered."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._entries: list[Logged] = []

    def begin(
        self,
        *,
        origin: Origin,
        method: str,
        path: str,
        range: str | None,
        user_agent: str,
        authorized: bool,
    ) -> Logged:
        with self._changed:
            entry = Logged(
                number=len(self._entries) + 1,
                origin=origin,
                method=method,
                path=path,
                range=range,
                user_agent=user_agent,
                authorized=authorized,
            )
            self._entries.append(entry)
            return entry

    def end(self, entry: Logged) -> None:
        with self._changed:
            entry.done = True
            self._changed.notify_all()

    def reset(self) -> None:
        """Forget everything; the next request is number 1."""
        with self._changed:
            self._entries = []

    def entries(
        self,
        *,
        method: str | None = None,
        path: str | None = None,
        origin: Origin | None = None,
        status: int | None = None,
        wait: float = 2.0,
    ) -> list[Logged]:
        """Requests in order of arrival; `path` is a regular expression searched in the raw path.

        A client holds its answer before the server has noted the last bytes, so unfinished
        requests are given `wait` seconds.
        """
        with self._changed:
            self._changed.wait_for(lambda: all(e.done for e in self._entries), timeout=wait)
            return [
                entry
                for entry in self._entries
                if (method is None or entry.method == method)
                and (path is None or re.search(path, entry.path))
                and (origin is None or entry.origin == origin)
                and (status is None or entry.status == status)
            ]

    def bytes_sent(self, *, origin: Origin | None = None, path: str | None = None) -> int:
        """Body bytes that clients downloaded."""
        return sum(e.response_bytes for e in self.entries(origin=origin, path=path))

    def bytes_received(self, *, origin: Origin | None = None, path: str | None = None) -> int:
        """Body bytes that clients uploaded."""
        return sum(e.request_bytes for e in self.entries(origin=origin, path=path))

    def as_json(self) -> list[dict[str, object]]:
        return [asdict(entry) for entry in self.entries()]
