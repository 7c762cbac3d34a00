"""Each injected fault does to the real client what it does on the real Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, HfFileSystem, constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from tests.hub_server import Hub, faults
from tests.hub_server.faults import Fault
from tests.hub_server.short import ID, KIND, LARGE, plain, upload

BLOCK = 1 << 18
RETRIED = {
    "503": faults.status(503),
    "429": faults.rate_limit(7),
    "429 retry-after": faults.rate_limit(7, ratelimit_header=False),
    "fin": faults.drop("before"),
    "rst": faults.drop("before", kind="rst"),
}


def download(api: HfApi, folder: Path, path: str = "a.npy") -> bytes:
    return Path(api.hf_hub_download(ID, path, repo_type=KIND, cache_dir=folder)).read_bytes()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/preupload/"),
        ("POST", "/objects/batch"),
        ("PUT", "/upload/"),
        ("POST", "/objects/verify"),
        ("GET", "/tree/"),
    ],
)
@pytest.mark.parametrize("fault", RETRIED)
def test_steps_before_the_commit_are_retried(
    api: HfApi, hub: Hub, quick_retries: list[float], method: str, path: str, fault: str
) -> None:
    hub.create(ID)
    rule = hub.faults.add(RETRIED[fault], method=method, path=path)
    upload(api, "a.npy", LARGE)
    assert "a.npy" in {file.path for file in api.list_repo_tree(ID, repo_type=KIND)}
    assert hub.read(ID, "a.npy") == LARGE
    assert len(rule.fired) == 1
    assert quick_retries == [8.0 if "429" in fault else 1.0]


def test_an_upload_cut_in_the_middle_is_sent_again(
    api: HfApi, hub: Hub, quick_retries: list[float]
) -> None:
    hub.create(ID)
    hub.faults.add(faults.drop("request", kind="rst", at=500_000), method="PUT")
    upload(api, "a.npy", LARGE)
    cut, whole = hub.log.entries(method="PUT")
    assert (cut.request_bytes, cut.status, cut.fault) == (500_000, 0, "drop request rst")
    assert (whole.request_bytes, whole.status) == (len(LARGE), 200)
    assert hub.read(ID, "a.npy") == LARGE


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        (faults.status(500), HfHubHTTPError),
        (faults.status(409), HfHubHTTPError),
        (faults.status(412), HfHubHTTPError),
        (faults.rate_limit(7), HfHubHTTPError),
        (faults.drop("before"), httpx2.RemoteProtocolError),
        (faults.drop("before", kind="rst"), httpx2.ReadError),
        (faults.drop("request", kind="rst"), httpx2.TransportError),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
def test_a_failed_commit_is_not_retried_and_the_next_push_sends_only_the_commit(
    api: HfApi, hub: Hub, fault: Fault, raised: type[Exception]
) -> None:
    hub.create(ID)
    head = hub.head(ID)
    hub.faults.add(fault, path="/commit/main")
    with pytest.raises(raised):
        upload(api, "a.npy", LARGE)
    assert hub.head(ID) == head
    hub.reset()
    upload(api, "a.npy", LARGE)
    assert hub.log.entries(method="PUT") == []
    assert hub.read(ID, "a.npy") == LARGE


@pytest.mark.parametrize("kind", ["fin", "rst"])
def test_a_commit_whose_answer_is_lost_has_landed(
    api: HfApi, hub: Hub, kind: Literal["fin", "rst"]
) -> None:
    hub.create(ID)
    parent = hub.head(ID).oid
    hub.faults.add(faults.drop("after", kind=kind), path="/commit/main")
    with pytest.raises(httpx2.TransportError):
        upload(api, "a.npy", LARGE, parent_commit=parent)
    landed = hub.head(ID).oid
    assert landed != parent
    assert upload(api, "a.npy", LARGE, parent_commit=parent) == landed
    with pytest.raises(HfHubHTTPError, match="A commit has happened since"):
        upload(api, "a.npy", LARGE[::-1], parent_commit=parent)


def test_a_server_error_after_the_commit_was_applied(api: HfApi, hub: Hub) -> None:
    hub.create(ID)
    hub.faults.add(faults.status(504, applied=True), path="/commit/main")
    with pytest.raises(HfHubHTTPError, match="504"):
        upload(api, "a.txt", b"a")
    assert hub.read(ID, "a.txt") == b"a"


def test_calls_that_are_never_retried(api: HfApi, hub: Hub, tmp_path: Path) -> None:
    hub.create(ID, {"a.npy": LARGE})
    hub.faults.add(faults.status(500), path="validate-yaml")
    with pytest.raises(HfHubHTTPError, match="500"):
        upload(api, "README.md", b"# x")
    hub.faults.add(faults.status(500), path="/api/repos/create")
    with pytest.raises(HfHubHTTPError, match="500"):
        api.create_repo("alice/y", repo_type=KIND)
    hub.faults.add(faults.status(500), path="/revision/main", times=2)
    with pytest.raises(HfHubHTTPError, match="500"):
        api.repo_info(ID, revision="main", repo_type=KIND)
    with pytest.raises(LocalEntryNotFoundError):
        api.snapshot_download(ID, repo_type=KIND, cache_dir=tmp_path)


@pytest.mark.parametrize("fault", ["503", "429"])
def test_looking_for_a_file_is_retried(
    api: HfApi, hub: Hub, tmp_path: Path, quick_retries: list[float], fault: str
) -> None:
    hub.create(ID, {"a.npy": LARGE})
    rule = hub.faults.add(RETRIED[fault], method="HEAD", path="/resolve/", times=2)
    assert download(api, tmp_path) == LARGE
    assert len(rule.fired) == 2


def test_looking_for_a_file_over_a_broken_connection(api: HfApi, hub: Hub, tmp_path: Path) -> None:
    hub.create(ID, {"a.npy": LARGE})
    hub.faults.add(faults.drop("before", kind="rst"), method="HEAD")
    with pytest.raises(httpx2.ReadError):
        download(api, tmp_path)
    assert download(api, tmp_path) == LARGE


@pytest.mark.parametrize("code", [500, 503])
def test_a_failing_object_store_is_not_asked_again(
    api: HfApi, hub: Hub, tmp_path: Path, code: int
) -> None:
    hub.create(ID, {"a.npy": LARGE})
    hub.faults.add(faults.status(code), origin="objects")
    with pytest.raises(HfHubHTTPError, match=str(code)):
        download(api, tmp_path)
    assert download(api, tmp_path) == LARGE


@pytest.mark.parametrize("at", [0, 1, 700_001, BLOCK, len(LARGE) - 1])
def test_a_download_closed_early_is_resumed(
    api: HfApi,
    hub: Hub,
    tmp_path: Path,
    quick_retries: list[float],
    monkeypatch: pytest.MonkeyPatch,
    at: int,
) -> None:
    """The client resumes behind the last whole block it wrote, of 10 MiB unless told otherwise."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    hub.create(ID, {"a.npy": LARGE})
    hub.faults.add(faults.drop("body", at=at), origin="objects")
    assert download(api, tmp_path) == LARGE
    first, second = hub.log.entries(origin="objects")
    assert first.response_bytes == at
    kept = at // 100_000 * 100_000
    assert second.range == (f"bytes={kept}-" if kept else None)


def test_a_download_over_a_broken_connection(api: HfApi, hub: Hub, tmp_path: Path) -> None:
    hub.create(ID, {"a.npy": LARGE})
    hub.faults.add(faults.drop("body", kind="rst", at=700_001), origin="objects")
    with pytest.raises(httpx2.ReadError):
        download(api, tmp_path)
    assert download(api, tmp_path) == LARGE


def test_a_download_that_stalls_is_resumed(
    api: HfApi,
    hub: Hub,
    tmp_path: Path,
    quick_retries: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.create(ID, {"a.npy": LARGE})
    hub.faults.add(faults.stall(0.6, at=1000), origin="objects")
    assert download(api, tmp_path) == LARGE
    assert hub.log.entries(origin="objects")[1].range == "bytes=1000-"


def test_a_flipped_byte_is_accepted_silently(api: HfApi, hub: Hub, tmp_path: Path) -> None:
    hub.create(ID, {"a.npy": LARGE})
    hub.faults.add(faults.flip(1_500_000), origin="objects", times=None)
    received = download(api, tmp_path)
    assert [at for at in range(len(LARGE)) if received[at] != LARGE[at]] == [1_500_000]
    fs = HfFileSystem(endpoint=hub.url, token="hf_write", skip_instance_cache=True)
    path = f"datasets/{ID}/a.npy"
    assert fs.cat_file(path, start=0, end=1_500_000) == LARGE[:1_500_000]
    assert fs.cat_file(path, start=1_499_999, end=1_500_001) != LARGE[1_499_999:1_500_001]


def test_a_truncated_object_is_noticed_by_its_size(api: HfApi, hub: Hub, tmp_path: Path) -> None:
    hub.create(ID, {"a.npy": LARGE})
    hub.faults.add(faults.truncate(1000), origin="objects")
    with pytest.raises(OSError, match="Consistency check failed"):
        download(api, tmp_path)
    assert hub.log.entries(origin="objects")[0].response_bytes == 1000


def test_a_slow_body_arrives(api: HfApi, hub: Hub, tmp_path: Path) -> None:
    hub.create(ID, {"a.npy": LARGE})
    hub.faults.add(faults.pace(50e6), origin="objects")
    assert download(api, tmp_path) == LARGE


# Which requests a fault befalls


def statuses(hub: Hub, count: int) -> list[int]:
    return [plain(hub, "GET", "/api/agent-harnesses").status_code for _ in range(count)]


def test_faults_by_number_nth_and_times(hub: Hub) -> None:
    hub.faults.add(faults.status(500), number=2)
    assert statuses(hub, 3) == [200, 500, 200]
    hub.reset()
    assert statuses(hub, 3) == [200, 200, 200]
    hub.reset()
    hub.faults.add(faults.status(500), path="harness", nth=2, times=2)
    hub.faults.add(faults.status(503), nth=5)
    assert statuses(hub, 5) == [200, 500, 500, 200, 503]
    hub.reset()
    hub.faults.add(faults.status(500), method="POST")
    hub.faults.add(faults.status(500), origin="objects")
    hub.faults.add(faults.status(502), times=None)
    assert statuses(hub, 3) == [502, 502, 502]
    assert [entry.fault for entry in hub.log.entries()] == ["status 502"] * 3


def test_a_push_survives_a_fault_at_any_request(
    api: HfApi, hub: Hub, quick_retries: list[float]
) -> None:
    """How a test walks through all requests: count them once, then break each in turn."""
    operations = [("a.npy", LARGE), ("b.txt", b"b")]

    def push(id: str) -> None:
        additions = [CommitOperationAdd(path, data) for path, data in operations]
        api.create_commit(id, additions, commit_message="m", repo_type=KIND)

    hub.create("alice/count")
    hub.log.reset()
    push("alice/count")
    count = len(hub.log.entries())
    assert count == 5
    for number in range(1, count + 1):
        hub.create(f"alice/{number}")
        hub.reset()
        rule = hub.faults.add(faults.drop("before"), number=number)
        if number == count:
            with pytest.raises(httpx2.RemoteProtocolError):
                push(f"alice/{number}")
        push(f"alice/{number}")
        assert rule.fired == [number]
        assert set(hub.files(f"alice/{number}")) == {"a.npy", "b.txt"}
