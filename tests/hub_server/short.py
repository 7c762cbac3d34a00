"""Short forms that the tests of the loopback Hub share."""

from __future__ import annotations

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi

from tests.hub_server import Hub

CommitOperation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete
ID = "alice/x"
KIND = "dataset"
LARGE = bytes(range(256)) * 8192  # 2 MiB


def upload(
    api: HfApi,
    path: str,
    data: bytes,
    *,
    revision: str | None = None,
    token: str | None = None,
    parent_commit: str | None = None,
    create_pr: bool = False,
) -> str:
    """One commit; its oid."""
    info = api.upload_file(
        path_or_fileobj=data,
        path_in_repo=path,
        repo_id=ID,
        repo_type=KIND,
        revision=revision,
        token=token,
        parent_commit=parent_commit,
        create_pr=create_pr,
    )
    return info.oid


def plain(hub: Hub, method: str, path: str, **headers: str) -> httpx2.Response:
    """One request without huggingface_hub, not following redirects."""
    url = path if path.startswith("http") else hub.url + path
    with httpx2.Client(trust_env=False, verify=False) as client:
        return client.request(method, url, headers=headers)
