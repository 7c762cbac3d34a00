"""Routes about branches, tags, and the little of discussions that pull requests need."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import takewhile
from typing import Any
from urllib.parse import unquote

from tests.hub_server.answers import Answer, ApiError
from tests.hub_server.exchange import Request
from tests.hub_server.registry import check_may_open_pull_request, check_writable
from tests.hub_server.repository import MAIN, Commit, Discussion, Entry, Repository, now
from tests.hub_server.routing import Routes
from tests.hub_server.services import Services

DISCUSSIONS_PAGE = 10

routes = Routes()


@routes.on("GET", "/api/{kinds}/{id}/refs")
def refs(services: Services, request: Request, *, kinds: str, id: str) -> Answer:
    repository = services.readable(request, kinds, id)

    def under(prefix: str) -> list[dict[str, str]]:
        return [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": oid}
            for ref, oid in sorted(repository.refs.items())
            if ref.startswith(prefix)
        ]

    found = {
        "branches": under("refs/heads/"),
        "converts": under("refs/convert/"),
        "tags": under("refs/tags/"),
    }
    if request.flag("include_prs"):
        found["pullRequests"] = [
            {**pull, "name": f"PR {pull['name']}"} for pull in under("refs/pr/")
        ]
    return Answer.json(found)


def _check_name(name: str) -> str:
    if not name or name.startswith(("refs/", "-", "/")) or ".." in name or name.endswith("/"):
        raise ApiError(400, f"Invalid reference name: {name}")
    return name


@routes.on("POST", "/api/{kinds}/{id}/branch/{name}")
def create_branch(
    services: Services, request: Request, *, kinds: str, id: str, name: str
) -> Answer:
    repository = services.readable(request, kinds, id)
    check_writable(repository, services.user(request))
    start = (request.body.json() or {}).get("startingPoint") or "main"
    oid = repository.commit_at(start).oid
    repository.create_ref(f"refs/heads/{_check_name(unquote(name))}", oid)
    return Answer.json({})


@routes.on("DELETE", "/api/{kinds}/{id}/branch/{name}")
def delete_branch(
    services: Services, request: Request, *, kinds: str, id: str, name: str
) -> Answer:
    repository = services.readable(request, kinds, id)
    check_writable(repository, services.user(request))
    repository.delete_ref(f"refs/heads/{unquote(name)}")
    return Answer.json({})


@routes.on("POST", "/api/{kinds}/{id}/tag/{rev}")
def create_tag(services: Services, request: Request, *, kinds: str, id: str, rev: str) -> Answer:
    repository = services.readable(request, kinds, id)
    check_writable(repository, services.user(request))
    tag = _check_name(request.body.json()["tag"])
    repository.create_ref(f"refs/tags/{tag}", repository.commit_at(unquote(rev)).oid)
    return Answer.json({})


@routes.on("DELETE", "/api/{kinds}/{id}/tag/{name}")
def delete_tag(services: Services, request: Request, *, kinds: str, id: str, name: str) -> Answer:
    repository = services.readable(request, kinds, id)
    check_writable(repository, services.user(request))
    repository.delete_ref(f"refs/tags/{unquote(name)}")
    return Answer.json({})


@routes.on("POST", "/api/{kinds}/{id}/super-squash/{name}")
def super_squash(services: Services, request: Request, *, kinds: str, id: str, name: str) -> Answer:
    repository = services.readable(request, kinds, id)
    user = check_writable(repository, services.user(request))
    ref = repository.ref_of(unquote(name))
    if ref is None or not ref.startswith("refs/heads/"):
        raise ApiError(404, f"Invalid rev id: {name}", code="RevisionNotFound")
    repository.squash(ref, title=request.body.json()["message"], author=user.name)
    return Answer.json({})


def open_discussion(
    repository: Repository, *, title: str, description: str, author: str, status: str
) -> Discussion:
    """A new pull request, whose reference the caller creates; `status` is draft or open."""
    return _add_discussion(repository, title, description, author, status, pull_request=True)


def _add_discussion(
    repository: Repository,
    title: str,
    description: str,
    author: str,
    status: str,
    *,
    pull_request: bool,
) -> Discussion:
    discussion = Discussion(
        num=len(repository.discussions) + 1,
        title=title,
        author=author,
        status=status,
        is_pull_request=pull_request,
        created_at=now(),
    )
    discussion.events.append(_comment(author, description))
    repository.discussions.append(discussion)
    repository.save()
    return discussion


def _event(kind: str, author: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": os.urandom(8).hex(),
        "type": kind,
        "createdAt": now(),
        "author": {"name": author},
        "data": dict(data),
    }


def _comment(author: str, text: str) -> dict[str, Any]:
    data = {"edited": False, "hidden": False, "latest": {"raw": text}}
    return _event("comment", author, data)


@routes.on("POST", "/api/{kinds}/{id}/discussions")
def start_discussion(services: Services, request: Request, *, kinds: str, id: str) -> Answer:
    repository = services.readable(request, kinds, id)
    user = check_may_open_pull_request(services.user(request))
    asked = request.body.json()
    pull = bool(asked.get("pullRequest"))
    with repository.lock:
        discussion = _add_discussion(
            repository,
            asked["title"],
            asked.get("description") or "",
            user.name,
            "draft" if pull else "open",
            pull_request=pull,
        )
        if pull:
            repository.create_ref(f"refs/pr/{discussion.num}", repository.refs[MAIN])
    return Answer.json({"num": discussion.num, "pullRequest": pull})


def _summary(repository: Repository, discussion: Discussion) -> dict[str, Any]:
    return {
        "num": discussion.num,
        "title": discussion.title,
        "author": {"name": discussion.author},
        "status": discussion.status,
        "isPullRequest": discussion.is_pull_request,
        "createdAt": discussion.created_at,
        "repo": {"name": repository.id, "type": repository.kind},
    }


@routes.on("GET", "/api/{kinds}/{id}/discussions")
def discussions(services: Services, request: Request, *, kinds: str, id: str) -> Answer:
    repository = services.readable(request, kinds, id)
    kind, status, author = (
        request.query.get(name, [""])[0] for name in ("type", "status", "author")
    )
    found = [
        discussion
        for discussion in reversed(repository.discussions)
        if kind in ("", "all", "pull_request" if discussion.is_pull_request else "discussion")
        and status in ("", "all", "open" if discussion.status in ("open", "draft") else "closed")
        and author in ("", discussion.author)
    ]
    start = request.number("p", 0) * DISCUSSIONS_PAGE
    page = [_summary(repository, d) for d in found[start : start + DISCUSSIONS_PAGE]]
    return Answer.json({"count": len(found), "start": start, "discussions": page})


def _discussion(repository: Repository, num: str) -> Discussion:
    if not 1 <= int(num) <= len(repository.discussions):
        raise ApiError(404, "Discussion not found")
    return repository.discussions[int(num) - 1]


@routes.on("GET", "/api/{kinds}/{id}/discussions/{num}")
def discussion_details(
    services: Services, request: Request, *, kinds: str, id: str, num: str
) -> Answer:
    repository = services.readable(request, kinds, id)
    discussion = _discussion(repository, num)
    facts = {**_summary(repository, discussion), "events": list(discussion.events)}
    if discussion.is_pull_request:
        base, _ = _proposed(repository, num)
        ahead = takewhile(lambda c: c.oid != base.oid, repository.history(f"refs/pr/{num}"))
        facts["events"] += [
            _event("commit", c.author, {"subject": c.title, "oid": c.oid})
            for c in reversed(list(ahead))
        ]
        facts["changes"] = {"base": MAIN, "mergeCommitId": discussion.merge_commit}
        facts["filesWithConflicts"] = _conflicts(repository, num)
        facts["diff"] = None
    return Answer.json(facts)


def _proposed(repository: Repository, num: str) -> tuple[Commit, dict[str, Entry | None]]:
    """Where a pull request left main, and what it changes since."""
    ours = {commit.oid for commit in repository.history(MAIN)}
    history = repository.history(f"refs/pr/{num}")
    base = next((commit for commit in history if commit.oid in ours), history[-1])
    head = history[0].tree
    changes: dict[str, Entry | None] = {
        path: head.get(path)
        for path in {*head, *base.tree}
        if _oid(head.get(path)) != _oid(base.tree.get(path))
    }
    return base, changes


def _oid(entry: Entry | None) -> str | None:
    return None if entry is None else entry.oid


def _conflicts(repository: Repository, num: str) -> list[str]:
    """Files that main and the pull request both changed, differently."""
    base, changes = _proposed(repository, num)
    main = repository.commit_at(MAIN).tree
    return sorted(
        path
        for path, entry in changes.items()
        if _oid(main.get(path)) not in (_oid(base.tree.get(path)), _oid(entry))
    )


@routes.on("POST", "/api/{kinds}/{id}/discussions/{num}/{word}")
def change_discussion(
    services: Services,
    request: Request,
    *,
    kinds: str,
    id: str,
    num: str,
    word: str,
) -> Answer:
    """comment, title, status or merge."""
    repository = services.readable(request, kinds, id)
    user = check_may_open_pull_request(services.user(request))
    asked = request.body.json() or {}
    with repository.lock:
        discussion = _discussion(repository, num)
        if word == "comment":
            event = _comment(user.name, asked["comment"])
            answer = {"newMessage": event}
        elif word == "title":
            change = {"from": discussion.title, "to": asked["title"]}
            event = _event("title-change", user.name, change)
            discussion.title = asked["title"]
            answer = {"newTitle": event}
        elif word == "status":
            if user.name != discussion.author:
                check_writable(repository, user)
            event = _event("status-change", user.name, {"status": asked["status"]})
            discussion.status = asked["status"]
            answer = {"newStatus": event}
        elif word == "merge":
            check_writable(repository, user)
            event = _event("status-change", user.name, {"status": "merged"})
            _merge(repository, discussion, user.name)
            answer = {}
        else:
            raise ApiError(404, f"Unknown resource {word}")
        discussion.events.append(event)
        repository.save()
    return Answer.json(answer)


def _merge(repository: Repository, discussion: Discussion, author: str) -> None:
    if not discussion.is_pull_request or discussion.status not in ("open", "draft"):
        raise ApiError(400, "Only an open pull request can be merged")
    num = str(discussion.num)
    if conflicts := _conflicts(repository, num):
        raise ApiError(409, f"The pull request conflicts with main: {', '.join(conflicts)}")
    _, changes = _proposed(repository, num)
    main = repository.commit_at(MAIN).tree
    changes = {path: e for path, e in changes.items() if e is not None or path in main}
    made = repository.commit(MAIN, changes, title=discussion.title, author=author)
    discussion.status, discussion.merge_commit = "merged", made.oid
