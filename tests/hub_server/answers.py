"""What the loopback Hub answers with: JSON, bytes, a slice of a file, or an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSlice:
    """Bytes `start` (included) to `stop` (excluded) of a file, never held in memory."""

    path: Path
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One HTTP answer."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | FileSlice = b""
    offset: int = 0
    """Where in the whole object the body begins: a fault flips byte N of the object."""

    @classmethod
    def json(
        cls, value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Self:
        """JSON without spaces, as the Hub sends it (DuckDB's lister looks for `"type":"file"`)."""
        return cls(
            status=status,
            headers={"Content-Type": "application/json; charset=utf-8", **(headers or {})},
            body=json.dumps(value, separators=(",", ":")).encode(),
        )


class ApiError(Exception):
    """An error answer: the status, and the headers by which huggingface_hub picks an exception."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        """`X-Error-Code`: RepoNotFound, RevisionNotFound, EntryNotFound or GatedRepo."""
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})

    def answer(self) -> Answer:
        headers = {"X-Error-Message": self.message, **self.headers}
        if self.code is not None:
            headers["X-Error-Code"] = self.code
        return Answer.json(
            {"error": self.message, **self.extra}, status=self.status, headers=headers
        )


def repo_not_found(*, anonymous: bool) -> ApiError:
    """The same answer for "missing" and "private": 401 to strangers, 404 to those with a token."""
    if anonymous:
        return ApiError(401, "Invalid username or password.", code="RepoNotFound")
    return ApiError(404, "Repository not found", code="RepoNotFound")


def revision_not_found(revision: str) -> ApiError:
    return ApiError(404, f"Invalid rev id: {revision}", code="RevisionNotFound")


def entry_not_found(message: str, *, commit: str | None = None) -> ApiError:
    """The client remembers the absence of a file under the commit named by `X-Repo-Commit`."""
    headers = {} if commit is None else {"X-Repo-Commit": commit}
    return ApiError(404, message, code="EntryNotFound", headers=headers)


def no_rights(message: str) -> ApiError:
    return ApiError(403, message)
