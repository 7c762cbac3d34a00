"""Routes of a push: preupload, the LFS batch and its PUTs, and the commit itself."""

from __future__ import annotations

import base64
import fnmatch
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from tests.hub_server.accounts import User
from tests.hub_server.answers import Answer, ApiError, entry_not_found, revision_not_found
from tests.hub_server.exchange import Request
from tests.hub_server.registry import (
    check_may_open_pull_request,
    check_readable,
    check_writable,
)
from tests.hub_server.repository import (
    MAIN,
    STALE_PARENT,
    Commit,
    Entry,
    Repository,
    lfs_entry,
    regular_entry,
)
from tests.hub_server.routes_social import open_discussion
from tests.hub_server.routing import Routes
from tests.hub_server.services import Services

MAX_REGULAR_BYTES = 10 << 20
MAX_PREUPLOAD_FILES = 256
MAX_LFS_FILES = 25_000
BAD_POINTER = "LFS pointer pointed to a file that does not exist"
LFS_JSON = {"Content-Type": "application/vnd.git-lfs+json"}

routes = Routes()
objects = Routes()


def proposer(services: Services, request: Request, repository: Repository) -> User:
    """Who may send content: a writer, or with `create_pr` anyone with a write token."""
    user = services.user(request)
    if request.flag("create_pr"):
        return check_may_open_pull_request(user)
    return check_writable(repository, user)


@routes.on("POST", "/api/{kinds}/{id}/preupload/{rev}")
def preupload(services: Services, request: Request, *, kinds: str, id: str, rev: str) -> Answer:
    """For each file: large or regular, ignored or not, and what is there under its name now."""
    repository = services.readable(request, kinds, id)
    proposer(services, request, repository)
    commit = repository.commit_at(unquote(rev))
    asked = request.body.json()
    if len(asked["files"]) > MAX_PREUPLOAD_FILES:
        raise ApiError(400, f'"files" must hold at most {MAX_PREUPLOAD_FILES} items')
    large = _large_patterns(services, commit)
    ignored = asked.get("gitIgnore")
    if ignored is None and ".gitignore" in commit.tree:
        ignored = services.objects.read(commit.tree[".gitignore"].sha256).decode()
    answers = []
    for file in asked["files"]:
        path, size = file["path"], file["size"]
        sample = base64.b64decode(file.get("sample") or "")
        is_large = size > 0 and (
            size > MAX_REGULAR_BYTES or b"\0" in sample or _matches(path, large)
        )
        answer = {
            "path": path,
            "uploadMode": "lfs" if is_large else "regular",
            "shouldIgnore": _is_ignored(path, ignored or ""),
        }
        if path in commit.tree:
            answer["oid"] = commit.tree[path].remote_oid
        answers.append(answer)
    return Answer.json({"files": answers})


def _large_patterns(services: Services, commit: Commit) -> list[str]:
    entry = commit.tree.get(".gitattributes")
    if entry is None:
        return []
    lines = services.objects.read(entry.sha256).decode().splitlines()
    return [line.split()[0] for line in lines if "filter=lfs" in line.split()]


def _matches(path: str, patterns: list[str]) -> bool:
    name = path.rpartition("/")[2]
    return any(fnmatch.fnmatch(path if "/" in p else name, p.lstrip("/")) for p in patterns)


def _is_ignored(path: str, gitignore: str) -> bool:
    """Enough of .gitignore for names, folders, globs, anchors and exceptions."""
    parts = path.split("/")
    result = False
    for line in (raw.strip() for raw in gitignore.splitlines()):
        if not line or line.startswith("#"):
            continue
        wanted = not line.startswith("!")
        pattern = line.lstrip("!")
        folder_only, pattern = pattern.endswith("/"), pattern.rstrip("/")
        anchored, pattern = "/" in pattern, pattern.lstrip("/")
        ends = range(1, len(parts) if folder_only else len(parts) + 1)
        names = ["/".join(parts[:end]) if anchored else parts[end - 1] for end in ends]
        if any(fnmatch.fnmatch(name, pattern) for name in names):
            result = wanted
    return result


@routes.on("POST", "/{prefix}{id}\\.git/info/lfs/objects/batch")
def lfs_batch(services: Services, request: Request, *, id: str, kinds: str = "models") -> Answer:
    repository = services.readable(request, kinds, id)
    check_may_open_pull_request(services.user(request))
    asked = request.body.json()
    base = f"{services.page_url(repository)}.git/info/lfs/objects"
    answers = []
    for item in asked["objects"]:
        oid, size = item["oid"], item["size"]
        answer: dict[str, Any] = {"oid": oid, "size": size}
        if not (repository.knows(oid) and services.objects.has(oid)):
            answer["actions"] = {
                "upload": _upload_action(services, repository, asked, oid, size),
                "verify": {"href": f"{base}/verify", "header": {}},
            }
        answers.append(answer)
    transfer = "multipart" if any("chunk_size" in str(a) for a in answers) else "basic"
    return Answer.json({"transfer": transfer, "objects": answers}, headers=LFS_JSON)


def _upload_action(
    services: Services, repository: Repository, asked: Mapping[str, Any], oid: str, size: int
) -> dict[str, Any]:
    target = f"/upload/{repository.kind}s/{repository.id}/{oid}"
    part_size = services.multipart_bytes
    if size <= part_size or "multipart" not in asked.get("transfers", []):
        return {"href": services.object_url + services.signer.sign("PUT", target), "header": {}}
    prefix = f"/api/complete/{repository.kind}s/{repository.id}/{oid}"
    parts = {
        f"{number}": services.object_url + services.signer.sign("PUT", f"{target}/{number}")
        for number in range(1, -(-size // part_size) + 1)
    }
    return {
        "href": services.url + services.signer.sign("POST", prefix),
        "header": {"chunk_size": str(part_size), **parts},
    }


def _uploading(services: Services, kinds: str, id: str) -> Repository:
    repository = services.registry.get(kinds[:-1], id)
    if repository is None:
        raise ApiError(404, "NoSuchBucket")
    return repository


@objects.on("PUT", "/upload/{kinds}/{id}/{sha256}")
def upload(services: Services, request: Request, *, kinds: str, id: str, sha256: str) -> Answer:
    services.signer.check(request)
    repository = _uploading(services, kinds, id)
    received, digest = services.objects.receive(request.body.stream())
    if digest != sha256:
        received.unlink()
        raise ApiError(400, "BadDigest: the content does not have the sha256 it was announced by")
    services.objects.keep(received, sha256)
    repository.learn(sha256)
    return Answer(headers={"ETag": f'"{sha256}"'})


@objects.on("PUT", "/upload/{kinds}/{id}/{sha256}/{part}")
def upload_part(
    services: Services,
    request: Request,
    *,
    kinds: str,
    id: str,
    sha256: str,
    part: str,
) -> Answer:
    services.signer.check(request)
    _uploading(services, kinds, id)
    received, digest = services.objects.receive(request.body.stream())
    services.objects.keep(received, digest)
    return Answer(headers={"ETag": f'"{digest}"'})


@routes.on("POST", "/api/complete/{kinds}/{id}/{sha256}")
def complete(services: Services, request: Request, *, kinds: str, id: str, sha256: str) -> Answer:
    """Join the parts, named by their ETags; 400 unless they make up the announced object."""
    services.signer.check(request)
    repository = _uploading(services, kinds, id)
    parts = sorted(request.body.json()["parts"], key=lambda part: part["partNumber"])
    names = [part["etag"].strip('"') for part in parts]
    if not all(services.objects.has(name) for name in names):
        raise ApiError(400, "InvalidPart")
    received, digest = services.objects.receive(
        block for name in names for block in _blocks(services, name)
    )
    if digest != sha256:
        received.unlink()
        raise ApiError(400, "BadDigest: the parts do not make up the announced object")
    services.objects.keep(received, sha256)
    repository.learn(sha256)
    return Answer.json({"success": True})


def _blocks(services: Services, name: str) -> Iterator[bytes]:
    with services.objects.path(name).open("rb") as file:
        while block := file.read(1 << 20):
            yield block


@routes.on("POST", "/{prefix}{id}\\.git/info/lfs/objects/verify")
def verify(services: Services, request: Request, *, id: str, kinds: str = "models") -> Answer:
    repository = services.readable(request, kinds, id)
    check_may_open_pull_request(services.user(request))
    asked = request.body.json()
    oid = asked["oid"]
    if not repository.knows(oid):
        raise ApiError(404, "Object does not exist")
    if services.objects.size(oid) != asked["size"]:
        raise ApiError(400, "Object has another size")
    return Answer.json({}, headers=LFS_JSON)


@routes.on("POST", "/api/{kinds}/{id}/commit/{rev}")
def commit(services: Services, request: Request, *, kinds: str, id: str, rev: str) -> Answer:
    """All operations or none, on the head that is there when the body has arrived."""
    repository = services.readable(request, kinds, id)
    user = proposer(services, request, repository)
    lines = [json.loads(line) for line in request.body.read().splitlines() if line.strip()]
    headers = [line["value"] for line in lines if line["key"] == "header"]
    if len(headers) != 1 or not headers[0].get("summary"):
        raise ApiError(400, "A commit needs one header with a summary")
    header = headers[0]
    with repository.lock:
        # It may have been deleted, and even made anew, while the body was on its way.
        check_readable(services.registry.get(repository.kind, repository.id), user)
        base = repository.ref_of(unquote(rev))
        if base is None or base.startswith("refs/tags/"):
            raise revision_not_found(unquote(rev))
        head = repository.commit_at(base)
        if header.get("parentCommit") not in (None, head.oid):
            raise ApiError(412, STALE_PARENT)
        changes = _changes(services, repository, head, lines)
        answer: dict[str, Any] = {"success": True, "hookOutput": ""}
        target = base
        if request.flag("create_pr"):
            if base != MAIN and not base.startswith("refs/heads/"):
                raise ApiError(400, "A pull request starts from a branch")
            discussion = open_discussion(
                repository,
                title=header["summary"],
                description=header.get("description") or "",
                author=user.name,
                status="open",
            )
            target = f"refs/pr/{discussion.num}"
            repository.create_ref(target, head.oid)
            answer["pullRequestUrl"] = (
                f"{services.page_url(repository)}/discussions/{discussion.num}"
            )
        made = repository.commit(
            target,
            changes,
            title=header["summary"],
            message=header.get("description") or "",
            author=user.name,
        )
    answer["commitOid"] = made.oid
    answer["commitUrl"] = f"{services.page_url(repository)}/commit/{made.oid}"
    return Answer.json(answer)


def _changes(
    services: Services, repository: Repository, head: Commit, lines: list[dict[str, Any]]
) -> dict[str, Entry | None]:
    """The operations in order, as what each path becomes."""
    changes: dict[str, Entry | None] = {}

    def present() -> set[str]:
        return (set(head.tree) | {p for p, e in changes.items() if e}) - {
            p for p, e in changes.items() if e is None
        }

    if sum(line["key"] == "lfsFile" for line in lines) > MAX_LFS_FILES:
        raise ApiError(400, f"A commit holds at most {MAX_LFS_FILES} large files")
    for line in lines:
        key, value = line["key"], line["value"]
        if key == "header":
            continue
        path = value["path"]
        if key == "file":
            data = base64.b64decode(value["content"])
            if len(data) > MAX_REGULAR_BYTES:
                raise ApiError(400, f"{path} is larger than 10 MiB and must be a large file")
            _check_path(path)
            services.objects.write(data)
            changes[path] = regular_entry(data)
        elif key == "lfsFile":
            _check_path(path)
            changes[path] = _large_file(services, repository, value)
        elif key == "deletedFile":
            if path not in head.tree and path not in changes:
                raise entry_not_found("A file with this name doesn't exist", commit=head.oid)
            changes[path] = None
        elif key == "deletedFolder":
            prefix = path.rstrip("/") + "/"
            below = [name for name in present() if name.startswith(prefix)]
            if not below:
                raise entry_not_found("A file with this name doesn't exist", commit=head.oid)
            changes |= dict.fromkeys(below)
        else:
            raise ApiError(400, f"Unknown operation {key}")
    return {p: e for p, e in changes.items() if e is not None or p in head.tree}


def _check_path(path: str) -> None:
    parts = path.split("/")
    if any(part in ("", ".", "..", ".git") for part in parts) or re.search(r"[\0\r\n]", path):
        raise ApiError(400, f"Invalid path: {path!r}")


def _large_file(services: Services, repository: Repository, value: Mapping[str, Any]) -> Entry:
    """400 unless the object was uploaded to this repository, or lies in the Xet store."""
    sha256, xet = value["oid"], None
    if services.xet is not None:
        xet = services.xet.find(sha256)
    if xet is None and not repository.knows(sha256):
        raise ApiError(400, f"{BAD_POINTER}: {value['path']}")
    size = xet.size if xet is not None else services.objects.size(sha256)
    if value.get("size") not in (None, size):
        raise ApiError(400, f"{value['path']} has {size} bytes, not {value['size']}")
    repository.learn(sha256)
    return lfs_entry(sha256, size, None if xet is None else xet.xet_hash)
