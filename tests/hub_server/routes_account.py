"""Routes about accounts and whole repositories: whoami, create, delete, move, settings, info."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from tests.hub_server import cards
from tests.hub_server.accounts import User
from tests.hub_server.answers import Answer, ApiError, no_rights
from tests.hub_server.exchange import Request
from tests.hub_server.registry import (
    KINDS,
    check_files_readable,
    check_readable,
    check_writable,
)
from tests.hub_server.repository import Commit, Repository
from tests.hub_server.routing import Routes
from tests.hub_server.services import Services

LIST_PAGE = 1000

routes = Routes()


@routes.on("GET", "/api/whoami-v2")
def whoami(services: Services, request: Request) -> Answer:
    user = services.user(request)
    if user is None:
        raise ApiError(401, "Invalid username or password.")
    return Answer.json(user.whoami())


@routes.on("GET", "/api/agent-harnesses")
def agent_harnesses(services: Services, request: Request) -> Answer:
    return Answer.json({})


@routes.on("GET", "/(info|parquet|splits|is-valid)")
def dataset_viewer(services: Services, request: Request) -> Answer:
    """`datasets` asks the viewer first, and goes on by itself when it knows nothing."""
    raise ApiError(404, "The dataset viewer is not available for this dataset.")


@routes.on("POST", "/api/validate-yaml")
def validate_yaml(services: Services, request: Request) -> Answer:
    asked = request.body.json()
    errors, warnings = cards.validate(asked["content"], asked.get("repoType") or "model")
    answer = {
        "errors": [{"message": message} for message in errors],
        "warnings": [{"message": message} for message in warnings],
    }
    return Answer.json(answer, status=400 if errors else 200)


def _namespace(user: User | None, organization: str | None) -> tuple[User, str]:
    """The user and the namespace to create, delete or move in; 401 or 403 without the right."""
    if user is None:
        raise ApiError(401, "Invalid username or password.")
    namespace = organization or user.name
    if not user.writes(namespace):
        raise no_rights(f'You don\'t have the rights under the namespace "{namespace}"')
    return user, namespace


@routes.on("POST", "/api/repos/create")
def create(services: Services, request: Request) -> Answer:
    asked = request.body.json()
    user, namespace = _namespace(services.user(request), asked.get("organization"))
    kind, id = asked.get("type") or "model", f"{namespace}/{asked['name']}"
    private = asked.get("visibility", "private" if asked.get("private") else "public") == "private"
    try:
        repository = services.registry.create(kind, id, private=private, author=user.name)
    except ApiError as error:
        if error.status == 409:
            prefix = "" if kind == "model" else f"{kind}s/"
            error.extra["url"] = f"{services.url}/{prefix}{id}"
        raise
    return Answer.json({"url": services.page_url(repository), "name": id, "id": f"id-{kind}-{id}"})


@routes.on("DELETE", "/api/repos/delete")
def delete(services: Services, request: Request) -> Answer:
    asked = request.body.json()
    user, kind = services.user(request), asked.get("type") or "model"
    namespace = asked.get("organization") or (user.name if user else "")
    repository = check_readable(services.registry.get(kind, f"{namespace}/{asked['name']}"), user)
    check_writable(repository, user)
    services.registry.delete(repository)
    return Answer.json({})


@routes.on("POST", "/api/repos/move")
def move(services: Services, request: Request) -> Answer:
    asked = request.body.json()
    user = services.user(request)
    repository = check_readable(services.registry.get(asked["type"], asked["fromRepo"]), user)
    check_writable(repository, user)
    _namespace(user, asked["toRepo"].split("/")[0])
    services.registry.move(repository, asked["toRepo"])
    return Answer.json({"url": services.page_url(repository)})


@routes.on("PUT", "/api/{kinds}/{id}/settings")
def settings(services: Services, request: Request, *, kinds: str, id: str) -> Answer:
    repository = services.readable(request, kinds, id)
    check_writable(repository, services.user(request))
    asked = request.body.json()
    with repository.lock:
        if "visibility" in asked or "private" in asked:
            repository.private = asked.get("visibility") == "private" or bool(asked.get("private"))
        if "gated" in asked:
            if asked["gated"] not in ("auto", "manual", False):
                raise ApiError(400, 'gated must be "auto", "manual" or false')
            repository.gated = asked["gated"]
        repository.save()
    return Answer.json({"private": repository.private, "gated": repository.gated})


@routes.on("POST", "/api/{kinds}/{id}/user-access-request/grant")
def grant(services: Services, request: Request, *, kinds: str, id: str) -> Answer:
    repository = services.readable(request, kinds, id)
    check_writable(repository, services.user(request))
    name = request.body.json()["user"]
    with repository.lock:
        repository.granted = sorted({*repository.granted, name})
        repository.save()
    return Answer.json({"user": name, "status": "accepted"})


@routes.on("GET", "/api/{kinds}/{id}/auth-check(/write)?")
def auth_check(services: Services, request: Request, *, kinds: str, id: str) -> Answer:
    repository, user = services.readable(request, kinds, id), services.user(request)
    check_files_readable(repository, user)
    if request.path.endswith("/write"):
        check_writable(repository, user)
    return Answer.json({})


@routes.on("GET", "/api/{kinds}")
def listing(services: Services, request: Request, *, kinds: str) -> Answer:
    """Public repositories and those the user sees; filtered by author and search."""
    user = services.user(request)
    author, search = (request.query.get(name, [""])[0] for name in ("author", "search"))
    found = [
        repository
        for repository in services.registry.all(KINDS[kinds])
        if (not repository.private or (user is not None and user.sees(repository.namespace)))
        and author in ("", repository.namespace)
        and search.lower() in repository.id.lower()
    ]
    found = found[: request.number("limit", LIST_PAGE)]
    return Answer.json([_info(services, r, r.commit_at("main"), blobs=False) for r in found])


@routes.on("GET", "/api/{kinds}/{id}")
@routes.on("GET", "/api/{kinds}/{id}/revision/{rev}")
def info(services: Services, request: Request, *, kinds: str, id: str, rev: str = "main") -> Answer:
    repository = services.readable(request, kinds, id)
    commit = repository.commit_at(unquote(rev))
    facts = _info(services, repository, commit, blobs=request.flag("blobs"))
    wanted = [*request.query.get("expand", []), *request.query.get("expand[]", [])]
    if wanted:
        facts["usedStorage"] = sum(entry.size for entry in commit.tree.values())
        unknown = sorted(set(wanted) - OPTIONAL_FACTS - facts.keys())
        if unknown:
            raise ApiError(400, f'"expand" must be one of the known properties, not {unknown}')
        facts = {k: v for k, v in facts.items() if k in ("_id", "id", *wanted)}
    return Answer.json(facts)


OPTIONAL_FACTS = {"citation", "description", "downloadsAllTime", "paperswithcode_id"} | {
    "mainSize",
    "resourceGroup",
    "trendingScore",
    "xetEnabled",
}
"""Known to the Hub and left out of this one's answers."""


def _info(
    services: Services, repository: Repository, commit: Commit, *, blobs: bool
) -> dict[str, Any]:
    siblings: list[dict[str, Any]] = []
    for path, entry in sorted(commit.tree.items()):
        sibling: dict[str, Any] = {"rfilename": path}
        if blobs:
            sibling |= {"size": entry.size, "blobId": entry.oid}
            if entry.lfs:
                sibling["lfs"] = {
                    "sha256": entry.sha256,
                    "size": entry.size,
                    "pointerSize": entry.pointer_size,
                }
        siblings.append(sibling)
    facts: dict[str, Any] = {
        "_id": f"id-{repository.kind}-{repository.id}",
        "id": repository.id,
        "author": repository.namespace,
        "sha": commit.oid,
        "lastModified": commit.date,
        "createdAt": repository.created_at,
        "private": repository.private,
        "gated": repository.gated,
        "disabled": False,
        "tags": ["region:us"],
        "downloads": 0,
        "likes": 0,
        "siblings": siblings,
    }
    readme = commit.tree.get("README.md")
    if readme is not None:
        text = services.content(readme.sha256).read_bytes().decode(errors="replace")
        data = cards.card_data(text)
        if data is not None:
            facts |= {"cardData": data, "tags": cards.card_tags(data)}
    return facts
