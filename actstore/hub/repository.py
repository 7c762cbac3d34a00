"""Repositories and branches to push to: found, made where there is none, refused where not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from actstore.errors import RepositoryNotFoundError, RevisionError, UsageError
from actstore.remote.client import KIND, MAIN, Client

if TYPE_CHECKING:
    from huggingface_hub import DatasetInfo

_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_REQUEST = re.compile(r"refs/pr/\d+")


def ensure(client: Client, repository: str, *, private: bool, dry_run: bool) -> bool:
    """Make a data-set repository if there is none; return whether there was none.

    Raises:
        UsageError: a private one is wanted and there is a public one.
        AccessError: the token may not make it.
        HubError: as :meth:`Client.call`.
    """
    info = _look(client, repository)
    if info is None:
        if not dry_run:
            client.call(
                f"make the repository {repository}",
                lambda: client.api.create_repo(
                    repository,
                    repo_type=KIND,
                    # Left open, an organization's own default applies.
                    private=True if private else None,
                    exist_ok=True,
                ),
                repository=repository,
            )
        return True
    if private and not info.private:
        raise UsageError(
            f"{repository} is there already and public, and --private is for new repositories: "
            f"nothing was pushed; make it private at {client.endpoint}/datasets/{repository}"
            "/settings, or push to another name"
        )
    return False


def _look(client: Client, repository: str) -> DatasetInfo | None:
    def ask() -> DatasetInfo:
        return client.api.dataset_info(repository)

    try:
        return client.call(f"open {repository}", ask, repository=repository)
    except RepositoryNotFoundError:
        return None


def ensure_branch(client: Client, repository: str, branch: str, *, dry_run: bool) -> None:
    """Make a branch from ``main`` if there is none.

    Raises:
        RevisionError: the name is that of a tag, a commit or a pull request that is not there.
        HubError: as :meth:`Client.call`.
    """
    if branch == MAIN:
        return
    refs = client.call(
        f"list the branches of {repository}",
        lambda: client.api.list_repo_refs(repository, repo_type=KIND, include_pull_requests=True),
        repository=repository,
    )
    if branch in {ref.name for ref in refs.branches}:
        return
    if _REQUEST.fullmatch(branch):
        if branch in {ref.ref for ref in refs.pull_requests or ()}:
            return
        raise RevisionError(
            f"{repository} has no pull request {branch.rpartition('/')[2]}: open one with "
            "--create-pr"
        )
    if branch in {ref.name for ref in refs.tags}:
        raise RevisionError(
            f"{branch!r} is a tag of {repository}: a tag stays what it is; push to a branch"
        )
    if _COMMIT.fullmatch(branch) or branch.startswith("refs/"):
        raise RevisionError(f"{branch!r} is no branch of {repository}: push to a branch")
    if not dry_run:
        client.call(
            f"make the branch {branch} of {repository}",
            lambda: client.api.create_branch(
                repository, branch=branch, repo_type=KIND, exist_ok=True
            ),
            repository=repository,
            revision=branch,
        )


def look_at_branch(client: Client, repository: str, branch: str) -> str:
    """Return the branch to read for a dry run: ``main`` where ``branch`` is yet to be made."""
    try:
        client.head(repository, branch)
    except RevisionError:
        return MAIN
    return branch


def open_pull_requests(client: Client, repository: str, title: str) -> Iterator[tuple[str, str]]:
    """Give address and head commit of each open pull request of that title, the newest first."""

    def ask() -> list[tuple[str, int]]:
        found = client.api.get_repo_discussions(
            repository,
            repo_type=KIND,
            discussion_type="pull_request",
            discussion_status="open",
        )
        return [(item.url, item.num) for item in found if item.title == title]

    doing = f"list the pull requests of {repository}"
    for url, number in sorted(
        client.call(doing, ask, repository=repository), key=lambda item: -item[1]
    ):
        yield url, client.head(repository, f"refs/pr/{number}")
