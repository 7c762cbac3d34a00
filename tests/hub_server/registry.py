"""All repositories of the loopback Hub, and who may reach which."""

from __future__ import annotations

import json
import re
import shutil
import threading
from pathlib import Path

from tests.hub_server.accounts import User
from tests.hub_server.answers import ApiError, no_rights, repo_not_found
from tests.hub_server.repository import Repository

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
NAME = re.compile(r"[\w\-]([\w\-.]{0,94}[\w\-])?$", re.ASCII)


class Registry:
    """Repositories by kind and name, one folder each: `<root>/<kind>/<namespace>/<name>`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.RLock()
        self._open: dict[tuple[str, str], Repository] = {}
        root.mkdir(parents=True, exist_ok=True)
        for found in sorted(root.glob("*/*/*/repo.json")):
            repository = Repository(found.parent)
            self._open[repository.kind, repository.id] = repository
        self._moved_file = root / "moved.json"
        self._moved: dict[str, str] = {}
        if self._moved_file.exists():
            self._moved = json.loads(self._moved_file.read_text())

    def all(self, kind: str) -> list[Repository]:
        with self._lock:
            return [r for (k, _), r in sorted(self._open.items()) if k == kind]

    def get(self, kind: str, id: str) -> Repository | None:
        """The repository of this name, or the one that was moved away from it."""
        with self._lock:
            return self._open.get((kind, self._moved.get(f"{kind}/{id}", id)))

    def create(self, kind: str, id: str, *, private: bool, author: str) -> Repository:
        if not all(NAME.match(part) for part in id.split("/")) or id.count("/") != 1:
            raise ApiError(400, f"Invalid repository name: {id}")
        with self._lock:
            if (kind, id) in self._open:
                raise ApiError(409, f"You already created this {kind} repo: {id}")
            self._moved.pop(f"{kind}/{id}", None)
            folder = self._root / kind / id
            repository = Repository.create(folder, kind=kind, id=id, private=private, author=author)
            self._open[kind, id] = repository
            return repository

    def delete(self, repository: Repository) -> None:
        with self._lock:
            del self._open[repository.kind, repository.id]
            shutil.rmtree(repository.folder)

    def move(self, repository: Repository, id: str) -> None:
        """Rename; the old name keeps leading here until a new repository takes it."""
        with self._lock, repository.lock:
            if (repository.kind, id) in self._open:
                raise ApiError(409, f"Repository {id} already exists")
            target = self._root / repository.kind / id
            target.parent.mkdir(parents=True, exist_ok=True)
            repository.folder.rename(target)
            del self._open[repository.kind, repository.id]
            self._moved[f"{repository.kind}/{repository.id}"] = id
            self._moved_file.write_text(json.dumps(self._moved))
            repository.folder, repository.id = target, id
            repository.save()
            self._open[repository.kind, id] = repository


def check_readable(repository: Repository | None, user: User | None) -> Repository:
    """The repository, if it is there and `user` may know so."""
    if repository is None or (
        repository.private and (user is None or not user.sees(repository.namespace))
    ):
        raise repo_not_found(anonymous=user is None)
    return repository


def check_files_readable(repository: Repository, user: User | None) -> None:
    """Files of a gated repository need a granted request; its listing does not."""
    if not repository.gated or (
        user is not None and (user.sees(repository.namespace) or user.name in repository.granted)
    ):
        return
    restricted = f"Access to {repository.kind} {repository.id} is restricted"
    if user is None:
        raise ApiError(
            401,
            f"{restricted}. You must have access to it and be authenticated to access it. "
            "Please log in.",
            code="GatedRepo",
        )
    raise ApiError(
        403,
        f"{restricted} and you are not in the authorized list.",
        code="GatedRepo",
    )


def check_writable(repository: Repository, user: User | None) -> User:
    """The user, if the token may write there; 401 or 403 otherwise."""
    if user is None:
        raise ApiError(401, "Invalid username or password.")
    if user.role != "write":
        raise no_rights("You must use a write token to upload to a repository.")
    if not user.writes(repository.namespace):
        raise no_rights(f"You don't have the rights to write to {repository.id}")
    return user


def check_may_open_pull_request(user: User | None) -> User:
    """Anyone who reads a repository and holds a write token may propose changes to it."""
    if user is None:
        raise ApiError(401, "Invalid username or password.")
    if user.role != "write":
        raise no_rights("You must use a write token to open a pull request.")
    return user
