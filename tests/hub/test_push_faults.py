"""Everything that can go wrong with every request of a push: clear errors, nothing half done."""

from __future__ import annotations

import itertools
import logging
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from actstore import cli
from actstore.errors import (
    AccessError,
    ActstoreError,
    HubError,
    OfflineError,
    RateLimitError,
    RemoteFileError,
    RepositoryNotFoundError,
    RevisionError,
    TransferError,
    UsageError,
)
from actstore.hub.push import push
from actstore.remote.client import Client, Patience
from actstore.remote.redaction import redact
from actstore.storage import manifest as manifests
from tests.hub.pushing import (
    ALL,
    ID,
    QUICK,
    client,
    commits,
    push_to,
    relabel,
    remote_content,
    remote_manifest,
    uploads,
)
from tests.hub_server import Hub, faults
from tests.storage.stores import assert_sound, batch, content, write

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries")

FAULTS = {
    "500": faults.status(500),
    "503 though done": faults.status(503, applied=True),
    "429": faults.status(429),
    "404": faults.status(404),
    "cut while asking": faults.drop("request", kind="rst", at=10),
    "cut before the answer": faults.drop("before", kind="rst"),
    "answer lost": faults.drop("after"),
    "answer cut": faults.drop("body", at=5),
}
IMPATIENT = Patience(attempts=2, first=0.01, most=1.0, silence=10.0)


@pytest.fixture
def store(small: Path) -> Path:
    return small


def leaks(text: str) -> list[str]:
    """What must never be shown, as far as it is in a text."""
    return [bad for bad in ("hf_write", "X-Amz-Signature", "X-Expires") if bad in text]


def assert_holds(hub: Hub, to: str, store: Path) -> None:
    """A repository has the store's shards, byte for byte, and names no others."""
    shards = manifests.load(store).shards
    assert remote_manifest(hub, to=to).shards == shards
    files = {path: e.sha256 for path, e in hub.files(to).items() if path.endswith(".parquet")}
    assert files == {entry.path: entry.sha256 for entry in shards}


def shown(error: BaseException) -> str:
    """An error with everything that hangs on it, as an uncaught one is printed."""
    return "".join(traceback.format_exception(error)).replace('token="hf_write"', "")


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_at_any_request_is_survived_or_explained(
    hub: Hub,
    store: Path,
    name: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """First a push that makes the repository, then one with labels, a new and dead shards.

    Each request meets two of the eight faults, unless all are asked for.
    """
    caplog.set_level(logging.DEBUG)
    stride = 1 if os.environ.get(ALL) else 4
    first = 1 + list(FAULTS).index(name) % stride
    number = befallen = 0
    for number in itertools.count(first, stride):
        to = f"alice/first-{number}"
        hub.reset()
        rule = hub.faults.add(FAULTS[name], number=number)
        survived = _push_survives(hub, store, to)
        hub.faults.clear()
        if survived:
            assert push_to(hub, store, to).commit is None
        else:
            push_to(hub, store, to)
        befallen += bool(rule.fired)
        assert commits(hub, to=to) == 1
        assert_holds(hub, to, store)
        if not rule.fired:
            break
    assert befallen == len(range(first, number, stride))
    assert number > 12

    base = manifests.load(store)
    relabel(store, [0], "b")
    write(store, batch(20, 2, layer=2))
    push_to(hub, store, dry_run=True)
    expected = content(store)
    for again in range(first, number, stride):
        to = f"alice/first-{again}"
        before = commits(hub, to=to)
        hub.reset()
        rule = hub.faults.add(FAULTS[name], number=again)
        if not _push_survives(hub, store, to):
            head = hub.head(to)
            assert f"manifests/{base.number:010d}.json" in head.tree  # as it was
            hub.faults.clear()
            push_to(hub, store, to)
        assert commits(hub, to=to) == before + 1
        assert_holds(hub, to, store)
    assert content(store) == expected
    assert_sound(store)
    printed = capfd.readouterr()
    assert leaks(printed.out + printed.err + caplog.text) == []


def _push_survives(hub: Hub, store: Path, to: str) -> bool:
    problem = None
    try:
        push_to(hub, store, to)
    except HubError as error:
        problem = error
    if problem is not None:
        assert leaks(shown(problem)) == []
        assert problem.__cause__ is problem.__context__ is None
    return problem is None


def test_a_commit_whose_answer_is_lost_is_made_once(hub: Hub, store: Path) -> None:
    lost = hub.faults.add(faults.drop("after"), method="POST", path="/commit/")
    done = push_to(hub, store)
    assert lost.fired
    assert commits(hub) == 1
    assert done.commit == hub.head(ID).oid
    assert len(hub.log.entries(method="POST", path="/commit/")) == 1


def test_a_pull_request_whose_answer_is_lost_is_opened_once(hub: Hub, store: Path) -> None:
    push_to(hub, store)
    write(store, batch(9, 1, layer=0))
    hub.faults.add(faults.drop("after"), method="POST", path="/commit/")
    done = push_to(hub, store, create_pr=True)
    assert done.pull_request is not None
    assert done.pull_request.endswith("/discussions/1")
    assert len(list(client(hub).api.get_repo_discussions(ID, repo_type="dataset"))) == 1


def test_an_interrupted_upload_sends_the_rest_only(hub: Hub, store: Path, tmp_path: Path) -> None:
    write(store, *[batch(0, 5, layer=layer) for layer in range(2, 8)])
    hub.faults.add(faults.status(400), method="PUT", origin="objects", nth=5, times=None)
    with pytest.raises(TransferError):
        push_to(hub, store)
    assert commits(hub) == 0
    sent = [entry for entry in hub.log.entries(method="PUT") if entry.status == 200]
    hub.reset()
    push_to(hub, store)
    assert uploads(hub) == 8 - len(sent) == 4
    assert remote_content(hub, tmp_path / "copy") == content(store)


def test_objects_that_the_hub_has_lost_are_sent_again(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    pointer = b'{"error":"LFS pointer pointed to a file that does not exist: a"}'
    hub.faults.add(faults.status(400, body=pointer), method="POST", path="/commit/")
    push_to(hub, store)
    assert len(hub.log.entries(path="objects/batch")) == 2
    assert remote_content(hub, tmp_path / "copy") == content(store)


def test_a_hub_that_fails_for_good_is_given_up(hub: Hub, store: Path) -> None:
    hub.faults.add(faults.status(503), path="/commit/", times=None)
    with pytest.raises(TransferError, match=r"503.*run the same command again"):
        push(store, ID, client=client(hub, patience=IMPATIENT))
    assert commits(hub) == 0
    hub.reset()
    hub.faults.add(faults.drop("before"), path="/revision/", times=None)
    with pytest.raises(TransferError, match="connection failed"):
        push_to(hub, store)


def test_a_hub_that_says_nothing_is_given_up(hub: Hub, store: Path) -> None:
    push_to(hub, store)
    write(store, batch(9, 1, layer=0))
    hub.faults.add(faults.stall(6), path="/commit/")
    short = Patience(attempts=2, first=0.01, silence=0.5)
    from huggingface_hub import close_session

    close_session()  # a new one takes the shorter patience
    done = push(store, ID, client=client(hub, patience=short))
    assert done.commit == hub.head(ID).oid
    close_session()


def test_more_patience_than_there_is(hub: Hub, store: Path) -> None:
    hub.faults.add(faults.rate_limit(600), path="/api/datasets/", times=None)
    with pytest.raises(RateLimitError, match="again in 601 s") as caught:
        push_to(hub, store)
    assert caught.value.seconds == 601
    hub.reset()
    hub.faults.add(faults.rate_limit(600, ratelimit_header=False), path="/commit/", times=None)
    with pytest.raises(RateLimitError, match="again in 600 s"):
        push_to(hub, store)
    assert len(hub.log.entries(path="/commit/")) == 1


def nobody_there(hub: Hub, store: Path) -> object:
    return push(store, ID, client=Client(endpoint="http://127.0.0.1:9", token="x", patience=QUICK))


def with_token(token: str) -> Callable[[Hub, Path], object]:
    return lambda hub, store: push(store, ID, client=client(hub, token))


REFUSALS: dict[str, tuple[Callable[[Hub, Path], object], type[ActstoreError], str]] = {
    "no slash": (lambda hub, s: push_to(hub, s, "acts"), UsageError, "write ORG/NAME"),
    "three parts": (lambda hub, s: push_to(hub, s, "a/b/c"), UsageError, "one slash"),
    "a path": (
        lambda hub, s: push_to(hub, s, "hf://datasets/alice/acts/x"),
        UsageError,
        "whole repository",
    ),
    "a model": (lambda hub, s: push_to(hub, s, "hf://models/a/b"), UsageError, "no data set"),
    "two revisions": (
        lambda hub, s: push_to(hub, s, f"{ID}@a", revision="b"),
        UsageError,
        "given twice",
    ),
    "read-only token": (with_token("hf_read"), AccessError, "write access"),
    "somebody else's token": (with_token("hf_other"), AccessError, "does not allow"),
    "no such token": (with_token("hf_nobody"), AccessError, "does not know the token"),
    "no such namespace": (
        lambda hub, s: push_to(hub, s, "bob/acts"),
        AccessError,
        "make the repository bob/acts",
    ),
    "offline": (nobody_there, OfflineError, "cannot be reached"),
    "private, other token": (
        lambda hub, s: push(s, "alice/secret", client=client(hub, "hf_other")),
        AccessError,
        "make the repository",
    ),
    "no such branch to read": (
        lambda hub, s: client(hub).head(ID, "nope"),
        RevisionError,
        "no revision 'nope'",
    ),
    "no such file": (
        lambda hub, s: client(hub).read(ID, "nope", "main"),
        RemoteFileError,
        "no such file",
    ),
    "no repository": (lambda hub, s: client(hub).head("alice/no"), RepositoryNotFoundError, "name"),
    "private, no token": (
        lambda hub, s: client(hub, token=False).head("alice/secret"),
        RepositoryNotFoundError,
        "if it is private set HF_TOKEN",
    ),
    "gated": (
        lambda hub, s: client(hub, token="hf_other").read("alice/gated", "README.md", "main"),
        AccessError,
        "is gated; ask for access at",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_say_what_to_do(hub: Hub, store: Path, name: str) -> None:
    hub.create(ID)
    hub.create("alice/secret", private=True)
    hub.create("alice/gated", {"README.md": b"x"})
    client(hub).api.update_repo_settings("alice/gated", repo_type="dataset", gated="manual")
    act, kind, text = REFUSALS[name]
    with pytest.raises(kind, match=text) as caught:
        act(hub, store)
    assert leaks(shown(caught.value)) == []
    assert commits(hub) == 0


def test_offline_by_choice(hub: Hub, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OfflineError, match="HF_HUB_OFFLINE is set"):
        push_to(hub, store)


def test_nothing_that_is_written_holds_a_secret(
    hub: Hub, store: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    hub.faults.add(faults.status(500), method="PUT", times=2)
    assert cli.run(["push", str(store), ID]) == 0
    relabel(store, [1], "x")
    hub.faults.add(faults.status(403), path="/commit/")
    assert cli.run(["push", str(store), ID]) == 1
    printed = capfd.readouterr()
    assert "error: cannot commit" in printed.err
    files = [p for p in store.rglob("*") if p.is_file()]
    texts = [path.read_bytes().decode("latin-1") for path in files]
    texts += [hub.read(ID, path).decode("latin-1") for path in hub.files(ID)]
    texts += [printed.out, printed.err, hub.head(ID).message, hub.head(ID).title]
    assert leaks("\n".join(texts)) == []


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("GET https://h/x?sig=abc&e=1 failed", "GET https://h/x?… failed"),
        ("token s3cret here", "token *** here"),
        ("hf_abcdefghijklmnopqrstuvwxyz", "***"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("http://me:pw@host/x", "http://host/x"),
        ("the hf_xet library", "the hf_xet library"),
    ],
)
def test_redaction(text: str, clean: str) -> None:
    assert redact(text, "s3cret") == clean
