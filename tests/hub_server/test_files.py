"""The loopback Hub keeps the Hub's contract: listing, downloading and committing files."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
)
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
)

from tests.hub_server import Hub
from tests.hub_server.short import ID, KIND, LARGE, CommitOperation, plain, upload

# Reading


def test_tree_of_thousands_comes_in_pages(api: HfApi, hub: Hub) -> None:
    hub.create(ID, {f"d {i % 3}/{i:04}.txt": b"x" for i in range(2400)})
    found = list(api.list_repo_tree(ID, repo_type=KIND, recursive=True))
    assert len(found) == 2400 + 3 + 1
    assert len(hub.log.entries(path="/tree/main")) == 3
    hub.log.reset()
    folder = list(api.list_repo_tree(ID, "d 1", repo_type=KIND, expand=True))
    assert [file.path for file in folder] == [f"d 1/{i:04}.txt" for i in range(1, 2400, 3)]
    assert all(f.last_commit and f.last_commit["oid"] == hub.head(ID).oid for f in folder)
    assert len(hub.log.entries(path="/tree/main/d%201")) == 16
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(ID, "nowhere", repo_type=KIND))


def test_last_commit_is_the_one_that_changed_the_file(api: HfApi, hub: Hub) -> None:
    hub.create(ID, {"a/1.txt": b"1", "b.txt": b"b"})
    first = hub.head(ID)
    hub.commit(ID, {"b.txt": b"c"}, title="changes b")
    paths = ["a", "a/1.txt", "b.txt", "missing"]
    found = api.get_paths_info(ID, paths, expand=True, repo_type=KIND)
    titles = {f.path: f.last_commit["title"] for f in found if f.last_commit}
    assert titles == {"a": first.title, "a/1.txt": first.title, "b.txt": "changes b"}


def test_resolve_of_a_large_file(hub: Hub) -> None:
    hub.create(ID, {"d/ä b.parquet": LARGE})
    path = f"/datasets/{ID}/resolve/main/d/{quote('ä b.parquet')}"
    answer = plain(hub, "HEAD", path)
    sha256 = hub.files(ID)["d/ä b.parquet"].sha256
    assert answer.status_code == 302
    assert answer.headers["X-Linked-ETag"] == f'"{sha256}"'
    assert answer.headers["X-Linked-Size"] == str(len(LARGE))
    assert answer.headers["X-Repo-Commit"] == hub.head(ID).oid
    location = answer.headers["Location"]
    assert location.startswith(hub.object_url)
    assert plain(hub, "GET", location).content == LARGE
    part = plain(hub, "GET", location, Range="bytes=1000-1500000")
    assert (part.status_code, part.content) == (206, LARGE[1000:1500001])
    assert part.headers["Content-Range"] == f"bytes 1000-1500000/{len(LARGE)}"
    assert plain(hub, "GET", location, Range="bytes=-10").content == LARGE[-10:]
    assert plain(hub, "GET", location, Range="bytes=2097150-").content == LARGE[-2:]
    beyond = plain(hub, "GET", location, Range=f"bytes={len(LARGE)}-")
    assert beyond.status_code == 416
    assert beyond.headers["Content-Range"] == f"bytes */{len(LARGE)}"
    forged = location.replace("Signature=", "Signature=0")
    assert plain(hub, "GET", forged).status_code == 403


def test_resolve_of_a_regular_file(hub: Hub) -> None:
    hub.create(ID, {"a.txt": b"hello"})
    answer = plain(hub, "HEAD", f"/datasets/{ID}/resolve/main/a.txt")
    assert answer.status_code == 307
    assert answer.headers["Location"].startswith("/api/resolve-cache/")
    cached = plain(hub, "GET", answer.headers["Location"])
    assert cached.content == b"hello"
    assert cached.headers["X-Repo-Commit"] == hub.head(ID).oid
    assert cached.headers["ETag"] == f'"{hub.files(ID)["a.txt"].oid}"'
    missing = plain(hub, "HEAD", f"/datasets/{ID}/resolve/main/b.txt")
    assert missing.status_code == 404
    assert missing.headers["X-Error-Code"] == "EntryNotFound"
    assert missing.headers["X-Repo-Commit"] == hub.head(ID).oid


def test_download_and_snapshot(api: HfApi, hub: Hub, tmp_path: Path) -> None:
    files = {"a.txt": b"hello", "empty": b"", "d/b.parquet": LARGE}
    hub.create(ID, files)
    folder = Path(api.snapshot_download(ID, repo_type=KIND, cache_dir=tmp_path / "cache"))
    assert {p: (folder / p).read_bytes() for p in files} == files
    hub.log.reset()
    api.hf_hub_download(ID, "d/b.parquet", repo_type=KIND, cache_dir=tmp_path / "cache")
    assert hub.log.bytes_sent() == 0
    api.snapshot_download(ID, repo_type=KIND, local_dir=tmp_path / "local", allow_patterns="d/*")
    assert (tmp_path / "local/d/b.parquet").read_bytes() == LARGE
    checked = api.verify_repo_checksums(ID, repo_type=KIND, local_dir=tmp_path / "local")
    assert checked.mismatches == []


def test_the_token_never_reaches_the_object_store(api: HfApi, hub: Hub, tmp_path: Path) -> None:
    hub.create(ID)
    upload(api, "a.parquet", LARGE)
    api.hf_hub_download(ID, "a.parquet", repo_type=KIND, cache_dir=tmp_path)
    HfFileSystem(endpoint=hub.url, token="hf_write").cat(f"datasets/{ID}/a.parquet")
    seen = hub.log.entries(origin="objects")
    assert {entry.method for entry in seen} == {"PUT", "GET"}
    assert not any(entry.authorized for entry in seen)
    assert any(entry.authorized for entry in hub.log.entries(origin="hub"))
    assert hub.log.bytes_received(origin="objects") == len(LARGE)


def test_file_system(api: HfApi, hub: Hub) -> None:
    hub.create(ID, {"a.txt": b"hello", "d/1.parquet": LARGE, "d/2.parquet": b"2"})
    api.create_branch(ID, branch="exp/one", repo_type=KIND)
    fs = HfFileSystem(endpoint=hub.url, token="hf_write", skip_instance_cache=True)
    root = f"datasets/{ID}"
    assert fs.glob(f"{root}/d/*.parquet") == [f"{root}/d/1.parquet", f"{root}/d/2.parquet"]
    assert set(fs.ls(root, detail=False)) >= {f"{root}/a.txt", f"{root}/d"}
    assert fs.info(f"{root}/d/1.parquet")["size"] == len(LARGE)
    assert fs.modified(f"{root}/a.txt").year >= 2025
    hub.log.reset()
    with fs.open(f"{root}@exp%2Fone/d/1.parquet", block_size=4096, cache_type="none") as file:
        file.seek(1 << 20)
        assert file.read(300) == LARGE[1 << 20 : (1 << 20) + 300]
    (read,) = hub.log.entries(origin="objects")
    assert (read.response_bytes, read.range) == (300, f"bytes={1 << 20}-{(1 << 20) + 299}")
    assert "/resolve/exp%2Fone/" in hub.log.entries(path="resolve")[0].path
    with fs.open(f"{root}/new.txt", "wb") as file:
        file.write(b"written")
    assert hub.read(ID, "new.txt") == b"written"


# Writing


def test_regular_and_large_files(api: HfApi, hub: Hub) -> None:
    hub.create(ID)
    upload(api, "a.txt", b"text")
    upload(api, "a.dat", b"\0binary")
    upload(api, "a.npy", LARGE)
    upload(api, "empty.npy", b"")
    assert {p: e.lfs for p, e in hub.files(ID).items()} == {
        "a.txt": False,
        "a.dat": True,
        "a.npy": True,
        "empty.npy": False,
    }
    assert hub.read(ID, "a.npy") == LARGE


def test_large_files_in_parts(lfs: None, tmp_path: Path) -> None:
    with Hub(tmp_path / "hub", multipart_bytes=1_000_000) as hub:
        hub.create(ID)
        upload(HfApi(endpoint=hub.url, token="hf_write"), "a.npy", LARGE)
        parts = [e.request_bytes for e in hub.log.entries(method="PUT")]
        assert parts == [1_000_000, 1_000_000, len(LARGE) - 2_000_000]
        assert hub.read(ID, "a.npy") == LARGE


def test_unchanged_files_are_not_sent_again(api: HfApi, hub: Hub) -> None:
    hub.create(ID)
    first = upload(api, "a.npy", LARGE)
    hub.log.reset()
    assert upload(api, "a.npy", LARGE) == first
    assert upload(api, "b.npy", LARGE) != first
    assert hub.log.entries(method="PUT") == []
    assert len(hub.repository(ID).history("main")) == 3


def test_commit_of_all_operations_is_one_step(api: HfApi, hub: Hub) -> None:
    hub.create(ID, {"old.npy": LARGE, "t.txt": b"t", "d/1.txt": b"1", "d/e/2.txt": b"2", "f": b"f"})
    api.create_commit(
        ID,
        repo_type=KIND,
        operations=[
            CommitOperationAdd("new.txt", b"new"),
            CommitOperationAdd("new.npy", LARGE[::-1]),
            CommitOperationCopy("old.npy", "copy.npy"),
            CommitOperationCopy("t.txt", "copy.txt"),
            CommitOperationDelete("d/"),
            CommitOperationDelete("f"),
        ],
        commit_message="everything",
        commit_description="at once",
        parent_commit=hub.head(ID).oid,
    )
    expected = {"old.npy", "t.txt", "new.txt", "new.npy", "copy.npy", "copy.txt"}
    assert set(hub.files(ID)) == expected
    assert hub.read(ID, "copy.npy") == LARGE
    assert (hub.head(ID).title, hub.head(ID).message) == ("everything", "at once")


def test_deleting_what_is_not_there_changes_nothing(api: HfApi, hub: Hub) -> None:
    hub.create(ID, {"a.txt": b"a"})
    head = hub.head(ID)
    for path in ("b.txt", "folder/"):
        operations: list[CommitOperation] = [
            CommitOperationAdd("new.txt", b"n"),
            CommitOperationDelete(path),
        ]
        with pytest.raises(EntryNotFoundError, match="A file with this name doesn't exist"):
            api.create_commit(ID, operations, commit_message="m", repo_type=KIND)
    assert hub.head(ID) == head


def test_stale_parent(api: HfApi, hub: Hub) -> None:
    hub.create(ID, {"a.txt": b"a"})
    stale = hub.head(ID).oid
    hub.commit(ID, {"a.txt": b"b"})
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as caught:
        upload(api, "a.txt", b"c", parent_commit=stale)
    assert caught.value.response.status_code == 412
    assert hub.read(ID, "a.txt") == b"b"


def test_object_that_was_never_uploaded(api: HfApi, hub: Hub) -> None:
    """A repository deleted and made anew does not know the objects uploaded before."""
    hub.create(ID)
    addition = CommitOperationAdd("a.npy", LARGE)
    api.preupload_lfs_files(ID, [addition], repo_type=KIND)
    api.delete_repo(ID, repo_type=KIND)
    api.create_repo(ID, repo_type=KIND)
    with pytest.raises(BadRequestError, match="LFS pointer pointed to a file that does not exist"):
        api.create_commit(ID, [addition], commit_message="m", repo_type=KIND)


def test_upload_folder_with_patterns(api: HfApi, hub: Hub, tmp_path: Path) -> None:
    hub.create(ID, {"data/old.parquet": b"old", "keep.txt": b"k"})
    for name in ("data/1.parquet", "data/2.parquet", "skip.tmp", "logs/x.log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / ".gitignore").write_text("logs/\n")
    api.upload_folder(
        repo_id=ID,
        repo_type=KIND,
        folder_path=tmp_path,
        ignore_patterns=["*.tmp", "hub/**"],
        delete_patterns="data/*.parquet",
    )
    assert set(hub.files(ID)) == {".gitignore", "data/1.parquet", "data/2.parquet", "keep.txt"}


@pytest.mark.parametrize("path", ["../up", "a/../b", "/root", "a//b", ".git/config"])
def test_paths_that_leave_the_repository(hub: Hub, path: str) -> None:
    """The client refuses them by itself, so they are sent without it."""
    hub.create(ID)
    lines = (
        '{"key":"header","value":{"summary":"s"}}\n'
        f'{{"key":"file","value":{{"path":"{path}","content":"","encoding":"base64"}}}}\n'
    )
    with httpx2.Client(trust_env=False) as client:
        answer = client.post(
            f"{hub.url}/api/datasets/{ID}/commit/main",
            content=lines,
            headers={"Authorization": "Bearer hf_write", "Content-Type": "application/x-ndjson"},
        )
    assert answer.status_code == 400
