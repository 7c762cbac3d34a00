"""What every route of the loopback Hub works with: storage, accounts, signed links."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.hub_server.accounts import User, authenticate
from tests.hub_server.answers import ApiError
from tests.hub_server.exchange import Request
from tests.hub_server.registry import KINDS, Registry, check_readable
from tests.hub_server.repository import Repository
from tests.hub_server.storage import ObjectStore
from tests.hub_server.xet import XetStore


class Signer:
    """Links that need no token, like a storage provider's presigned URLs."""

    def __init__(self, root: Path, lifetime: float) -> None:
        """The secret is kept in `root`: links outlive a restart, not `lifetime` seconds."""
        file = root / "secret"
        if not file.exists():
            file.write_bytes(os.urandom(16))
        self._secret = file.read_bytes()
        self.lifetime = lifetime

    def sign(self, method: str, path: str) -> str:
        """The path with an expiry and a signature in its query."""
        expires = f"{time.time() + self.lifetime:.3f}"
        return f"{path}?X-Expires={expires}&X-Amz-Signature={self._mac(method, path, expires)}"

    def check(self, request: Request) -> None:
        """403, as S3 answers, for a link that is forged, altered or too old."""
        expires = request.query.get("X-Expires", [""])[0]
        given = request.query.get("X-Amz-Signature", [""])[0]
        method = "GET" if request.method == "HEAD" else request.method
        if not hmac.compare_digest(given, self._mac(method, request.path, expires)):
            raise ApiError(403, "SignatureDoesNotMatch")
        if float(expires) < time.time():
            raise ApiError(403, "Request has expired")

    def _mac(self, method: str, path: str, expires: str) -> str:
        text = f"{method} {path} {expires}".encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()


@dataclass(slots=True, kw_only=True)
class Services:
    """The state behind both origins."""

    registry: Registry
    objects: ObjectStore
    users: Mapping[str, User]
    signer: Signer
    xet: XetStore | None
    multipart_bytes: int
    """Large files above this many bytes are uploaded in parts of this size."""
    tree_page: int
    """Entries on a page of a tree listing."""
    url: str = ""
    object_url: str = ""
    cas_url: str = ""
    xet_tokens: set[str] = field(default_factory=set)

    def user(self, request: Request) -> User | None:
        return authenticate(request.token, self.users)

    def readable(self, request: Request, kinds: str, id: str) -> Repository:
        """The repository at `/api/<kinds>/<id>`, if the request's owner may see it."""
        repository = self.registry.get(KINDS[kinds], id)
        return check_readable(repository, self.user(request))

    def content(self, sha256: str) -> Path:
        """The file that holds an object, fetched out of the Xet store when it only lies there."""
        if not self.objects.has(sha256) and self.xet is not None:
            self.objects.keep(*self.objects.receive(self.xet.read(sha256)))
        return self.objects.path(sha256)

    def page_url(self, repository: Repository) -> str:
        prefix = "" if repository.kind == "model" else f"{repository.kind}s/"
        return f"{self.url}/{prefix}{repository.id}"
