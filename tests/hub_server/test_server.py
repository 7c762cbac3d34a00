"""The loopback Hub keeps the Hub's contract: accounts, references, errors, its own tools."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    HfApi,
    RepoFile,
)
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub_server import (
    Hub,
    User,
    routes_account,
    routes_content,
    routes_social,
    routes_upload,
    routes_xet,
)
from tests.hub_server.routing import Routes
from tests.hub_server.short import ID, KIND, LARGE, plain, upload

# Accounts and repositories


def test_whoami(api: HfApi, hub: Hub) -> None:
    me = api.whoami()
    assert (me["name"], [org["name"] for org in me["orgs"]]) == ("alice", ["org"])
    assert api.whoami(token="hf_read")["auth"]["accessToken"]["role"] == "read"
    with pytest.raises(HfHubHTTPError) as caught:
        api.whoami(token="hf_wrong")
    assert caught.value.response.status_code == 401


def test_create_again_move_and_delete(api: HfApi, hub: Hub) -> None:
    url = api.create_repo("x", repo_type=KIND)
    assert (url.repo_id, url.repo_type) == (ID, KIND)
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_repo(ID, repo_type=KIND)
    assert caught.value.response.status_code == 409
    assert api.create_repo(ID, repo_type=KIND, exist_ok=True) == url
    assert api.create_repo("org/y", repo_type=KIND, private=True).repo_id == "org/y"
    assert api.repo_info("org/y", repo_type=KIND).private
    upload(api, "a.parquet", LARGE)
    api.move_repo(ID, "org/z", repo_type=KIND)
    assert hub.read("org/z", "a.parquet") == LARGE
    assert api.dataset_info(ID).id == "org/z"
    api.delete_repo("org/z", repo_type=KIND)
    assert not api.repo_exists("org/z", repo_type=KIND)
    api.delete_repo("org/z", repo_type=KIND, missing_ok=True)


def test_models_and_data_sets_of_one_name_are_two_repositories(api: HfApi, hub: Hub) -> None:
    api.create_repo(ID)
    api.create_repo(ID, repo_type=KIND)
    api.upload_file(path_or_fileobj=b"m", path_in_repo="m.txt", repo_id=ID)
    assert api.list_repo_files(ID) == [".gitattributes", "m.txt"]
    assert api.list_repo_files(ID, repo_type=KIND) == [".gitattributes"]
    assert [found.id for found in api.list_datasets(author="alice")] == [ID]


def test_info(api: HfApi, hub: Hub) -> None:
    card = b"---\nlicense: mit\ntags: [activations]\nsize_categories: [n<1K]\n---\n# X\n"
    hub.create(ID, {"README.md": card, "a.parquet": LARGE})
    info = api.dataset_info(ID, files_metadata=True)
    assert info.card_data is not None
    assert info.card_data["license"] == "mit"
    assert info.tags == ["license:mit", "size_categories:n<1K", "activations", "region:us"]
    assert info.sha == hub.head(ID).oid
    sizes = {file.rfilename: file.size for file in info.siblings or []}
    assert sizes["a.parquet"] == len(LARGE)
    only = api.dataset_info(ID, expand=["sha", "usedStorage"])
    assert (only.sha, only.siblings) == (info.sha, None)
    assert api.dataset_info(ID, revision=str(info.sha)).sha == info.sha
    with pytest.raises(BadRequestError):
        api.dataset_info(ID, expand=["nonsense"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("yaml", "complaint"),
    [
        ("a: [", "Invalid YAML"),
        ("license: my-own", "must be one of"),
        ("configs: [{data_files: x}]", "config_name"),
        ("configs: [{config_name: a}, {config_name: a}]", "duplicate"),
        ("size_categories: [huge]", "size_categories"),
    ],
)
def test_readme_is_checked_before_anything_is_sent(
    api: HfApi, hub: Hub, yaml: str, complaint: str
) -> None:
    hub.create(ID)
    with pytest.raises(ValueError, match=complaint):
        upload(api, "README.md", f"---\n{yaml}\n---\n".encode())
    assert hub.files(ID) == {}


# References


def test_branches_and_tags(api: HfApi, hub: Hub) -> None:
    hub.create(ID, {"a.txt": b"1"})
    first = hub.head(ID).oid
    api.create_branch(ID, branch="exp/x", repo_type=KIND)
    upload(api, "a.txt", b"2", revision="exp/x")
    api.create_tag(ID, tag="v1", revision="exp/x", repo_type=KIND)
    assert hub.read(ID, "a.txt") == b"1"
    assert hub.read(ID, "a.txt", "v1") == b"2"
    refs = api.list_repo_refs(ID, repo_type=KIND)
    assert {b.name: b.target_commit == first for b in refs.branches} == {
        "main": True,
        "exp/x": False,
    }
    assert [tag.ref for tag in refs.tags] == ["refs/tags/v1"]
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch(ID, branch="exp/x", repo_type=KIND)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag(ID, tag="v1", repo_type=KIND)
    api.create_branch(ID, branch="exp/x", repo_type=KIND, exist_ok=True)
    api.delete_branch(ID, branch="exp/x", repo_type=KIND)
    api.delete_tag(ID, tag="v1", repo_type=KIND)
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(ID, tag="v1", repo_type=KIND)
    with pytest.raises(HfHubHTTPError):
        api.delete_branch(ID, branch="main", repo_type=KIND)


def test_history_comes_in_pages_and_can_be_squashed(api: HfApi, hub: Hub) -> None:
    hub.create(ID)
    for number in range(120):
        hub.commit(ID, {"a.txt": b"%d" % number}, title=f"commit {number}")
    history = api.list_repo_commits(ID, repo_type=KIND)
    assert [c.title for c in history[:2]] == ["commit 119", "commit 118"]
    assert (len(history), history[-1].title) == (121, "initial commit")
    api.super_squash_history(ID, repo_type=KIND, commit_message="one")
    assert [c.title for c in api.list_repo_commits(ID, repo_type=KIND)] == ["one"]
    assert hub.read(ID, "a.txt") == b"119"


def test_pull_request_of_a_stranger(api: HfApi, hub: Hub) -> None:
    hub.create(ID, {"a.txt": b"1", "b.txt": b"1"})
    bob = HfApi(endpoint=hub.url, token="hf_other")
    with pytest.raises(HfHubHTTPError) as caught:
        upload(bob, "a.txt", b"2")
    assert caught.value.response.status_code == 403
    operations = [CommitOperationAdd("a.txt", b"2"), CommitOperationAdd("n.npy", LARGE)]
    info = bob.create_commit(
        ID, operations, commit_message="better", repo_type=KIND, create_pr=True
    )
    assert (info.pr_num, info.pr_revision) == (1, "refs/pr/1")
    assert hub.read(ID, "a.txt") == b"1"
    fetched = api.get_paths_info(ID, "n.npy", revision="refs/pr/1", repo_type=KIND)
    assert isinstance(fetched[0], RepoFile)
    assert fetched[0].size == len(LARGE)
    raw = plain(hub, "HEAD", f"/datasets/{ID}/resolve/refs/pr/1/n.npy")
    assert raw.headers["X-Linked-Size"] == str(len(LARGE))
    hub.commit(ID, {"b.txt": b"2"})
    details = api.get_discussion_details(ID, 1, repo_type=KIND)
    assert (details.status, details.author, details.conflicting_files) == ("open", "bob", [])
    assert [e.type for e in details.events] == ["comment", "commit"]
    api.comment_discussion(ID, 1, comment="thanks", repo_type=KIND)
    api.merge_pull_request(ID, 1, repo_type=KIND)
    assert {p: hub.read(ID, p) for p in ("a.txt", "b.txt")} == {"a.txt": b"2", "b.txt": b"2"}
    assert api.get_discussion_details(ID, 1, repo_type=KIND).status == "merged"


def test_draft_pull_request(api: HfApi, hub: Hub) -> None:
    hub.create(ID, {"a.txt": b"1"})
    draft = api.create_pull_request(ID, title="t", repo_type=KIND)
    assert (draft.status, draft.git_reference) == ("draft", "refs/pr/1")
    upload(api, "a.txt", b"2", revision="refs/pr/1")
    hub.commit(ID, {"a.txt": b"3"})
    details = api.get_discussion_details(ID, 1, repo_type=KIND)
    assert details.conflicting_files == ["a.txt"]
    with pytest.raises(HfHubHTTPError, match=r"conflicts with main: a\.txt"):
        api.merge_pull_request(ID, 1, repo_type=KIND)
    api.change_discussion_status(ID, 1, new_status="closed", repo_type=KIND)
    assert [d.status for d in api.get_repo_discussions(ID, repo_type=KIND)] == ["closed"]
    refs = api.list_repo_refs(ID, repo_type=KIND, include_pull_requests=True)
    assert [ref.ref for ref in refs.pull_requests or []] == ["refs/pr/1"]


# Who may do what


def test_missing_and_private_look_the_same(api: HfApi, hub: Hub, tmp_path: Path) -> None:
    hub.create("org/secret", {"a.txt": b"a"}, private=True)
    for id, token, status in (
        ("org/secret", False, 401),
        ("org/secret", "hf_other", 404),
        ("org/nothing", False, 401),
        ("org/nothing", "hf_write", 404),
    ):
        for call in (
            lambda id=id, token=token: api.repo_info(id, repo_type=KIND, token=token),
            lambda id=id, token=token: api.hf_hub_download(
                id, "a.txt", repo_type=KIND, token=token, cache_dir=tmp_path
            ),
        ):
            with pytest.raises(RepositoryNotFoundError) as caught:
                call()
            assert not isinstance(caught.value, GatedRepoError)
            assert caught.value.response.status_code == status
    assert api.repo_info("org/secret", repo_type=KIND, token="hf_read").private


def test_gated(api: HfApi, hub: Hub, tmp_path: Path) -> None:
    hub.create(ID, {"a.txt": b"a"})
    api.update_repo_settings(ID, gated="manual", repo_type=KIND)
    assert api.dataset_info(ID, token=False).gated == "manual"
    for token, status in ((False, 401), ("hf_other", 403)):
        with pytest.raises(GatedRepoError) as caught:
            api.hf_hub_download(ID, "a.txt", repo_type=KIND, token=token, cache_dir=tmp_path)
        assert caught.value.response.status_code == status
        with pytest.raises(GatedRepoError):
            api.auth_check(ID, repo_type=KIND, token=token)
    api.grant_access(ID, "bob", repo_type=KIND)
    api.hf_hub_download(ID, "a.txt", repo_type=KIND, token="hf_other", cache_dir=tmp_path)


def test_read_only_token(api: HfApi, hub: Hub) -> None:
    hub.create(ID, {"a.txt": b"a"})
    for call in (
        lambda: upload(api, "a.txt", b"b", token="hf_read"),
        lambda: api.create_repo("alice/y", repo_type=KIND, token="hf_read"),
        lambda: api.delete_repo(ID, repo_type=KIND, token="hf_read"),
        lambda: api.create_tag(ID, tag="t", repo_type=KIND, token="hf_read"),
        lambda: upload(api, "a.txt", b"b", token="hf_read", create_pr=True),
    ):
        with pytest.raises(HfHubHTTPError) as caught:
            call()
        assert caught.value.response.status_code == 403


def test_wrong_revision_file_and_token(api: HfApi, hub: Hub, tmp_path: Path) -> None:
    hub.create(ID, {"a.txt": b"a"})
    with pytest.raises(RevisionNotFoundError):
        api.repo_info(ID, repo_type=KIND, revision="nope")
    with pytest.raises(RevisionNotFoundError):
        upload(api, "a.txt", b"b", revision="nope")
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download(ID, "b.txt", repo_type=KIND, cache_dir=tmp_path)
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as caught:
        api.repo_info(ID, repo_type=KIND, token="hf_wrong")
    assert caught.value.response.status_code == 401


def test_visibility_can_change(api: HfApi, hub: Hub) -> None:
    hub.create(ID)
    api.update_repo_settings(ID, private=True, repo_type=KIND)
    assert not api.repo_exists(ID, repo_type=KIND, token="hf_other")
    api.update_repo_settings(ID, private=False, repo_type=KIND)
    assert api.repo_exists(ID, repo_type=KIND, token=False)


# The tool itself


def test_restart_on_the_same_folder(lfs: None, tmp_path: Path) -> None:
    users = {"t": User(name="alice")}
    with Hub(tmp_path, users=users) as hub:
        api = HfApi(endpoint=hub.url, token="t")
        api.create_repo(ID, repo_type=KIND)
        head = upload(api, "a.npy", LARGE)
        api.create_tag(ID, tag="v1", repo_type=KIND)
    with Hub(tmp_path, users=users) as again:
        api = HfApi(endpoint=again.url, token="t")
        assert api.dataset_info(ID, revision="v1").sha == head
        assert again.read(ID, "a.npy") == LARGE
        assert upload(api, "a.npy", LARGE) == head


def test_links_expire(tmp_path: Path) -> None:
    with Hub(tmp_path, link_lifetime=-1) as hub:
        hub.create(ID, {"a.npy": LARGE})
        location = plain(hub, "HEAD", f"/datasets/{ID}/resolve/main/a.npy").headers["Location"]
        answer = plain(hub, "GET", location)
        assert (answer.status_code, answer.json()["error"]) == (403, "Request has expired")


def test_log_over_http(hub: Hub) -> None:
    plain(hub, "GET", "/api/agent-harnesses")
    (seen,) = plain(hub, "GET", "/__log").json()
    assert (seen["number"], seen["path"], seen["response_bytes"]) == (1, "/api/agent-harnesses", 2)
    plain(hub, "DELETE", "/__log")
    assert plain(hub, "GET", "/__log").json() == []


def test_the_page_names_every_route() -> None:
    page = Path(__file__).with_name("README.md").read_text(encoding="utf-8").replace("\\|", "|")
    modules = (routes_account, routes_content, routes_social, routes_upload, routes_xet)
    written = {
        f"{module.__name__.rpartition('.')[2]}.py": {
            name
            for table in vars(module).values()
            if isinstance(table, Routes)
            for name in table.names()
        }
        for module in modules
    }
    rows = [line for line in page.splitlines() if line.startswith("| `routes_")]
    told = {line.split("`")[1]: set(re.findall(r"`([A-Z]+ /[^`]+)`", line)) for line in rows}
    assert told == written
