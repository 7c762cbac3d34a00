"""Faults that the loopback Hub injects, chosen by request number or by what the request is."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tests.hub_server.log import Logged, Origin

Moment = Literal["request", "before", "after", "body"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with one request. Made by the functions below."""

    name: str
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    applied: bool = False
    """Whether the request is carried out before it is answered with `status`."""
    drop: Literal["fin", "rst"] | None = None
    moment: Moment = "before"
    """When the connection is dropped, see `drop`."""
    at: int = 0
    """Body bytes that still pass: of the request for `request`, of the answer for `body`."""
    truncate: int | None = None
    flip: int | None = None
    stall: float = 0.0
    pace: float | None = None
    """Bytes a second."""


def status(
    code: int,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b'{"error":"injected"}',
    applied: bool = False,
) -> Fault:
    """Answer with `code` instead; nothing is carried out unless `applied`."""
    name = f"status {code}"
    return Fault(name=name, status=code, headers=headers or {}, body=body, applied=applied)


def rate_limit(seconds: int, *, ratelimit_header: bool = True) -> Fault:
    """429 that asks for `seconds` of patience, in the Hub's `ratelimit` header or `Retry-After`."""
    if ratelimit_header:
        headers = {"ratelimit": f'"api";r=0;t={seconds}'}
    else:
        headers = {"Retry-After": str(seconds)}
    return status(429, headers=headers, body=b'{"error":"Too Many Requests"}')


def drop(moment: Moment, *, kind: Literal["fin", "rst"] = "fin", at: int = 0) -> Fault:
    """Close the connection (FIN) or break it (RST).

    `request`: after `at` bytes of the request's body, nothing carried out.
    `before`: the whole request was read, nothing carried out, no answer.
    `after`: the request was carried out, its answer is lost.
    `body`: carried out, and the answer breaks off after its headers and `at` bytes of its body.
    """
    return Fault(name=f"drop {moment} {kind}", drop=kind, moment=moment, at=at)


def truncate(length: int) -> Fault:
    """A shorter body under a matching Content-Length: the store itself holds less."""
    return Fault(name=f"truncate {length}", truncate=length)


def flip(offset: int) -> Fault:
    """One byte of the object changed, at `offset` of the whole object; other ranges are sound."""
    return Fault(name=f"flip {offset}", flip=offset)


def stall(seconds: float, *, at: int | None = None) -> Fault:
    """Silence before the answer, or after `at` bytes of its body."""
    if at is None:
        return Fault(name=f"stall {seconds}", stall=seconds)
    return Fault(name=f"stall {seconds} at {at}", stall=seconds, moment="body", at=at)


def pace(bytes_per_second: float) -> Fault:
    """A slow body."""
    return Fault(name=f"pace {bytes_per_second}", pace=bytes_per_second)


@dataclass(slots=True, kw_only=True)
class Rule:
    """One fault and the requests that it befalls."""

    fault: Fault
    number: int | None
    method: str | None
    path: re.Pattern[str] | None
    origin: Origin | None
    nth: int
    times: int | None
    seen: int = 0
    fired: list[int] = field(default_factory=list)
    """Numbers of the requests it befell."""

    def due(self, entry: Logged) -> bool:
        """Whether this is a request that fits, counted, and it is its turn."""
        if self.number is not None and entry.number != self.number:
            return False
        if self.method is not None and entry.method != self.method:
            return False
        if self.path is not None and not self.path.search(entry.path):
            return False
        if self.origin is not None and entry.origin != self.origin:
            return False
        self.seen += 1
        return self.seen >= self.nth and (self.times is None or len(self.fired) < self.times)


class FaultRules:
    """Thread-safe; every rule counts each request, the first that is due takes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []

    def add(
        self,
        fault: Fault,
        *,
        number: int | None = None,
        method: str | None = None,
        path: str | None = None,
        origin: Origin | None = None,
        nth: int = 1,
        times: int | None = 1,
    ) -> Rule:
        """Inject `fault` from the `nth` request that fits, `times` times (None: for ever).

        `number` is the request's number in the log since its last reset; `path` a regular
        expression searched in the raw path with its query. The rule returned tells what it hit.
        """
        rule = Rule(
            fault=fault,
            number=number,
            method=method,
            path=None if path is None else re.compile(path),
            origin=origin,
            nth=nth,
            times=times,
        )
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        with self._lock:
            self._rules = []

    def take(self, entry: Logged) -> Fault | None:
        """The fault for this request, noted in its log entry."""
        with self._lock:
            due = [rule for rule in self._rules if rule.due(entry)]
            if not due:
                return None
            due[0].fired.append(entry.number)
            entry.fault = due[0].fault.name
            return due[0].fault
