"""Routes that read files: tree, paths-info, resolve, and the object store's downloads."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode

from tests.hub_server.answers import Answer, ApiError, FileSlice, entry_not_found
from tests.hub_server.exchange import Request
from tests.hub_server.registry import check_files_readable
from tests.hub_server.repository import Commit, Entry, Repository
from tests.hub_server.routing import Routes
from tests.hub_server.services import Services

EXPANDED_PAGE = 50
COMMITS_PAGE = 50
RAW_REF = re.compile(r"(refs/(?:pr|heads|tags|convert)/[^/]+)/(.+)$")
RANGE = re.compile(r"bytes=(\d*)-(\d*)$")

routes = Routes()
objects = Routes()
"""Routes of the second origin."""


def paged(
    services: Services, request: Request, items: list[Any], size: int
) -> tuple[slice, dict[str, str]]:
    """The slice of the page asked for, and a Link header when another one follows."""
    start = request.number("cursor", 0)
    if start + size >= len(items):
        return slice(start, None), {}
    query = {k: v for k, v in request.query.items() if k != "cursor"} | {"cursor": [start + size]}
    url = f"{services.url}{request.path}?{urlencode(query, doseq=True)}"
    return slice(start, start + size), {"Link": f'<{url}>; rel="next"'}


def describe(repository: Repository, commit: Commit, path: str, *, expand: bool) -> dict[str, Any]:
    """A file, or a folder whose `path` ends with "/", as tree and paths-info show it."""
    if path.endswith("/"):
        folder = path[:-1]
        facts: dict[str, Any] = {
            "type": "directory",
            "oid": commit.folder_oid(folder),
            "size": 0,
            "path": folder,
        }
        touched: Iterable[str] = {entry.commit for _, entry in commit.below(folder)}
    else:
        entry = commit.tree[path]
        facts = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
        if entry.lfs:
            facts["lfs"] = {
                "oid": entry.sha256,
                "size": entry.size,
                "pointerSize": entry.pointer_size,
            }
        if entry.xet_hash is not None:
            facts["xetHash"] = entry.xet_hash
        touched = [entry.commit]
    if expand:
        last = max((repository.commit_at(oid) for oid in touched), key=lambda c: c.date)
        facts["lastCommit"] = {"id": last.oid, "title": last.title, "date": last.date}
        if facts["type"] == "file":
            facts["securityFileStatus"] = {
                "status": "safe",
                "avScan": None,
                "pickleImportScan": None,
            }
    return facts


@routes.on("GET", "/api/{kinds}/{id}/tree/{rev}(?:/{rest})?")
def tree(
    services: Services,
    request: Request,
    *,
    kinds: str,
    id: str,
    rev: str,
    rest: str = "",
) -> Answer:
    repository = services.readable(request, kinds, id)
    commit = repository.commit_at(unquote(rev))
    folder = unquote(rest).strip("/")
    if folder not in commit.folders:
        raise entry_not_found(f"{folder} does not exist on {rev}", commit=commit.oid)
    expand = request.flag("expand")
    paths = list(commit.walk(folder, recursive=request.flag("recursive")))
    size = request.number("limit", EXPANDED_PAGE if expand else services.tree_page)
    page, headers = paged(services, request, paths, size)
    shown = [describe(repository, commit, path, expand=expand) for path in paths[page]]
    return Answer.json(shown, headers=headers)


@routes.on("POST", "/api/{kinds}/{id}/paths-info/{rev}")
def paths_info(services: Services, request: Request, *, kinds: str, id: str, rev: str) -> Answer:
    repository = services.readable(request, kinds, id)
    commit = repository.commit_at(unquote(rev))
    if "json" in request.headers.get("Content-Type", ""):
        asked = request.body.json()
        paths, expand = asked["paths"], bool(asked.get("expand"))
    else:
        form = parse_qs(request.body.read().decode())
        paths, expand = form.get("paths", []), form.get("expand", [""])[0].lower() == "true"
    found = []
    for path in (asked.strip("/") for asked in paths):
        if path in commit.tree:
            found.append(describe(repository, commit, path, expand=expand))
        elif path and path in commit.folders:
            found.append(describe(repository, commit, f"{path}/", expand=expand))
    return Answer.json(found)


@routes.on("GET", "/api/{kinds}/{id}/commits/{rev}")
def commits(services: Services, request: Request, *, kinds: str, id: str, rev: str) -> Answer:
    repository = services.readable(request, kinds, id)
    history = repository.history(unquote(rev))
    page, headers = paged(services, request, history, request.number("limit", COMMITS_PAGE))
    shown = [
        {
            "id": commit.oid,
            "title": commit.title,
            "message": commit.message,
            "authors": [{"user": commit.author}],
            "date": commit.date,
        }
        for commit in history[page]
    ]
    return Answer.json(shown, headers={**headers, "X-Total-Count": str(len(history))})


def _readable_file(
    services: Services, request: Request, kinds: str, id: str, rest: str
) -> tuple[Repository, Commit, str, Entry]:
    """The file behind `<revision>/<path>`; the revision is one segment or a bare `refs/pr/1`."""
    repository = services.readable(request, kinds, id)
    check_files_readable(repository, services.user(request))
    bare = RAW_REF.match(rest)
    revision, path = bare.groups() if bare else rest.partition("/")[::2]
    commit, entry = repository.entry(unquote(revision), unquote(path))
    return repository, commit, unquote(path), entry


def _file_headers(
    services: Services, repository: Repository, commit: Commit, entry: Entry
) -> dict[str, str]:
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    if entry.lfs:
        headers |= {"X-Linked-Size": str(entry.size), "X-Linked-ETag": f'"{entry.sha256}"'}
    if entry.xet_hash is not None and services.xet is not None:
        token_url = f"{services.url}/api/{repository.kind}s/{repository.id}/xet-read-token"
        headers |= {
            "X-Xet-Hash": entry.xet_hash,
            "Link": f'<{token_url}/{commit.oid}>; rel="xet-auth"',
        }
    return headers


@routes.on("GET", "/{prefix}{id}/resolve/{rest}")
def resolve(
    services: Services, request: Request, *, id: str, rest: str, kinds: str = "models"
) -> Answer:
    """302 to the object store for a large file, 307 to a stable URL of this origin otherwise."""
    repository, commit, path, entry = _readable_file(services, request, kinds, id, rest)
    headers = _file_headers(services, repository, commit, entry)
    if entry.lfs:
        location = services.object_url + services.signer.sign("GET", f"/objects/{entry.sha256}")
        name = path.rpartition("/")[2]
        location += "&" + urlencode({"response-content-disposition": f'inline; filename="{name}"'})
        return Answer(status=302, headers={**headers, "Location": location})
    location = f"/api/resolve-cache/{kinds}/{repository.id}/{commit.oid}/{quote(path)}"
    location += "?" + urlencode({"etag": f'"{entry.oid}"'})
    return Answer(status=307, headers={**headers, "Location": location, "ETag": f'"{entry.oid}"'})


@routes.on("GET", "/api/resolve-cache/{kinds}/{id}/{rest}")
def resolve_cache(
    services: Services, request: Request, *, kinds: str, id: str, rest: str
) -> Answer:
    repository, commit, _, entry = _readable_file(services, request, kinds, id, rest)
    headers = _file_headers(services, repository, commit, entry) | {"ETag": f'"{entry.oid}"'}
    return ranged(request, services.content(entry.sha256), headers)


@objects.on("GET", "/objects/{sha256}")
def download(services: Services, request: Request, *, sha256: str) -> Answer:
    """A large file, to anyone who holds the signed link."""
    services.signer.check(request)
    headers = {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"}
    if disposition := request.query.get("response-content-disposition"):
        headers["Content-Disposition"] = disposition[0]
    return ranged(request, services.content(sha256), headers)


def ranged(request: Request, path: Path, headers: dict[str, str]) -> Answer:
    """The whole file, or the one range asked for; 416 when it lies behind the end."""
    size = path.stat().st_size
    headers = {"Content-Type": "application/octet-stream", **headers}
    found = RANGE.match(request.headers.get("Range", ""))
    if found is None or found.groups() == ("", ""):
        return Answer(headers=headers, body=FileSlice(path=path, start=0, stop=size))
    first, last = found.groups()
    if first:
        start, stop = int(first), min(int(last) + 1 if last else size, size)
    else:
        start, stop = max(0, size - int(last)), size
    if start >= stop:
        unsatisfiable = {"Content-Range": f"bytes */{size}"}
        raise ApiError(416, "Requested range not satisfiable", headers=unsatisfiable)
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    body = FileSlice(path=path, start=start, stop=stop)
    return Answer(status=206, headers=headers, body=body, offset=start)
