"""The loopback Hub: two origins over one folder, started and stopped from a test or by hand."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.hub_server import (
    routes_account,
    routes_content,
    routes_social,
    routes_upload,
    routes_xet,
)
from tests.hub_server.accounts import DEFAULT_USERS, User
from tests.hub_server.answers import Answer
from tests.hub_server.exchange import Listener, Request
from tests.hub_server.faults import FaultRules
from tests.hub_server.log import Origin, RequestLog
from tests.hub_server.registry import Registry
from tests.hub_server.repository import (
    GITATTRIBUTES,
    LARGE_SUFFIXES,
    MAIN,
    Commit,
    Entry,
    Repository,
    lfs_entry,
    regular_entry,
)
from tests.hub_server.routing import Routes
from tests.hub_server.services import Services, Signer
from tests.hub_server.storage import ObjectStore
from tests.hub_server.xet import XetMode, XetStore

MULTIPART_BYTES = 64 << 20
TREE_PAGE = 1000
HUB_ROUTES = (
    routes_account.routes,
    routes_social.routes,
    routes_upload.routes,
    routes_content.routes,
    routes_xet.routes,
)
OBJECT_ROUTES = (routes_content.objects, routes_upload.objects, routes_xet.objects)


class Hub:
    """A Hub on 127.0.0.1, and its object store on a second port, as another origin.

    >>> with Hub(tmp_path / "hub") as hub:
    ...     HfApi(endpoint=hub.url, token="hf_write").create_repo("alice/x", repo_type="dataset")

    Everything lives under `root`: a stopped Hub started again on it knows the same repositories.
    Tokens: `hf_write` (user alice, may write to organisation org), `hf_read` (alice, read only),
    `hf_other` (user bob), unless `users` maps other tokens to `User`s.

    `xet` lets clients that have Xet on use it: "http" (any number of clients, every byte in the
    log, from a third port) or "local" (hf_xet opens the folder itself, one client process at a
    time). None refuses Xet, and clients must have it off.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        users: Mapping[str, User] | None = None,
        port: int = 0,
        object_port: int = 0,
        xet: XetMode | None = None,
        multipart_bytes: int = MULTIPART_BYTES,
        tree_page: int = TREE_PAGE,
        link_lifetime: float = 3600,
    ) -> None:
        root = Path(root)
        root.mkdir(parents=True, exist_ok=True)
        self.log = RequestLog()
        self.faults = FaultRules()
        self.crashes: list[str] = []
        """Tracebacks of errors in the Hub itself; a fixture asserts that there are none."""
        self.services = Services(
            registry=Registry(root / "repositories"),
            objects=ObjectStore(root / "objects"),
            users=DEFAULT_USERS if users is None else users,
            signer=Signer(root, link_lifetime),
            xet=XetStore(root / "xet", xet) if xet else None,
            multipart_bytes=multipart_bytes,
            tree_page=tree_page,
        )
        self.services.objects.write(GITATTRIBUTES.encode())
        self._listeners = [
            self._listener("hub", port, HUB_ROUTES),
            self._listener("objects", object_port, OBJECT_ROUTES),
            *([self._listener("cas", 0, (routes_xet.cas,))] if xet == "http" else []),
        ]
        self.url = self.services.url = self._listeners[0].url
        self.object_url = self.services.object_url = self._listeners[1].url
        self.services.cas_url = self._listeners[-1].url
        self._threads: list[threading.Thread] = []

    def _listener(self, origin: Origin, port: int, tables: tuple[Routes, ...]) -> Listener:
        routes = Routes.joined(tables)

        def respond(request: Request) -> Answer:
            if origin == "hub" and request.path == "/__log":
                return self._answer_log(request)
            return routes.answer(self.services, request)

        return Listener(
            port=port,
            origin=origin,
            respond=respond,
            log=self.log,
            faults=self.faults,
            crashes=self.crashes,
        )

    def _answer_log(self, request: Request) -> Answer:
        """GET /__log for the request log as JSON, DELETE /__log to begin it anew."""
        if request.method == "DELETE":
            self.log.reset()
            return Answer.json({})
        return Answer.json(self.log.as_json())

    def start(self) -> Self:
        for listener in self._listeners:
            thread = threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def stop(self) -> None:
        """Close both ports and every open connection."""
        for listener, thread in zip(self._listeners, self._threads, strict=False):
            listener.shutdown()
            thread.join()
        for listener in self._listeners:
            listener.close_connections()
            listener.server_close()
        self._threads = []

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def reset(self) -> None:
        """Begin the request log at number 1 and forget all faults."""
        self.faults.clear()
        self.log.reset()

    # Straight to the state, without HTTP: for arranging a test and for checking what came of it.

    def repository(self, id: str, *, kind: str = "dataset") -> Repository:
        repository = self.services.registry.get(kind, id)
        if repository is None:
            raise KeyError(id)
        return repository

    def create(
        self,
        id: str,
        files: Mapping[str, bytes] | None = None,
        *,
        kind: str = "dataset",
        private: bool = False,
    ) -> Repository:
        """A repository, with files if any are given."""
        author = id.split("/")[0]
        made = self.services.registry.create(kind, id, private=private, author=author)
        if files:
            self.commit(id, files, kind=kind)
        return made

    def commit(
        self,
        id: str,
        files: Mapping[str, bytes | None],
        *,
        kind: str = "dataset",
        revision: str = "main",
        title: str = "arranged by a test",
    ) -> Commit:
        """Write (or with None delete) files, as someone else's commit.

        Large files are those that a push would send as such. Paths are taken as they are, hostile
        ones too.
        """
        repository = self.repository(id, kind=kind)
        changes: dict[str, Entry | None] = {}
        for path, data in files.items():
            changes[path] = None if data is None else self._entry(repository, path, data)
        return repository.commit(
            repository.ref_of(revision) or MAIN, changes, title=title, author=repository.namespace
        )

    def _entry(self, repository: Repository, path: str, data: bytes) -> Entry:
        sha256 = self.services.objects.write(data)
        if data and (path.rpartition(".")[2] in LARGE_SUFFIXES or b"\0" in data[:512]):
            repository.learn(sha256)
            return lfs_entry(sha256, len(data))
        return regular_entry(data)

    def head(self, id: str, revision: str = "main", *, kind: str = "dataset") -> Commit:
        return self.repository(id, kind=kind).commit_at(revision)

    def files(self, id: str, revision: str = "main", *, kind: str = "dataset") -> dict[str, Entry]:
        """What a revision holds, without `.gitattributes`."""
        tree = self.head(id, revision, kind=kind).tree
        return {path: entry for path, entry in sorted(tree.items()) if path != ".gitattributes"}

    def read(self, id: str, path: str, revision: str = "main", *, kind: str = "dataset") -> bytes:
        _, entry = self.repository(id, kind=kind).entry(revision, path)
        return self.services.content(entry.sha256).read_bytes()
