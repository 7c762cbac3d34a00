"""Which function answers which path. Paths are matched raw: a segment may hold `%2F`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Self

from tests.hub_server.answers import Answer, ApiError
from tests.hub_server.exchange import Request
from tests.hub_server.services import Services

Handler = Callable[..., Answer]
"""Takes the services, the request, and the named parts of its path as keywords."""

PARTS = {
    "kinds": r"(?P<kinds>models|datasets|spaces)",
    "id": r"(?P<id>[^/]+/[^/]+?)",
    "rev": r"(?P<rev>[^/]+)",
    "name": r"(?P<name>[^/]+)",
    "rest": r"(?P<rest>.*)",
    "sha256": r"(?P<sha256>[0-9a-f]{64})",
    "num": r"(?P<num>[0-9]+)",
    "part": r"(?P<part>[0-9]+)",
    "prefix": r"(?:(?P<kinds>datasets|spaces)/)?",
    "word": r"(?P<word>[a-z]+)",
}
"""What a `{part}` of a route stands for. A repository has a namespace: there is no `/gpt2` here."""


class Routes:
    """An ordered table of routes, filled by the decorator `on`."""

    def __init__(self) -> None:
        self._table: list[tuple[str, re.Pattern[str], Handler]] = []
        self._names: list[str] = []

    def on(self, method: str, route: str) -> Callable[[Handler], Handler]:
        pattern = re.compile(re.sub(r"\{(\w+)\}", lambda m: PARTS[m.group(1)], route) + "$")

        def register(handler: Handler) -> Handler:
            self._table.append((method, pattern, handler))
            self._names.append(f"{method} {route}")
            return handler

        return register

    def names(self) -> list[str]:
        """Method and path of each route, as it was written down."""
        return list(self._names)

    def answer(self, services: Services, request: Request) -> Answer:
        """The first route that fits; 404 (or 405) when none does."""
        method = "GET" if request.method == "HEAD" else request.method
        others = False
        for wanted, pattern, handler in self._table:
            found = pattern.match(request.path)
            if found is None:
                continue
            if wanted == method:
                parts = {name: value for name, value in found.groupdict().items() if value}
                return handler(services, request, **parts)
            others = True
        if others:
            raise ApiError(405, "Method not allowed")
        raise ApiError(404, "Sorry, we can't find the page you are looking for.")

    @classmethod
    def joined(cls, tables: Iterable[Self]) -> Self:
        """One table of several, in order."""
        whole = cls()
        for routes in tables:
            whole._table += routes._table
        return whole
