"""A store and its repository after pushes: the same rows, one commit each, nothing superfluous."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

import actstore
from actstore.errors import (
    AccessError,
    CardError,
    DamageError,
    RemoteStoreError,
    RevisionError,
    UsageError,
)
from actstore.hub.push import push
from actstore.storage import card, compaction, manifest_content
from actstore.storage import manifest as manifests
from actstore.storage.card_overview import fingerprint
from tests.hub.pushing import (
    ID,
    client,
    commits,
    matching,
    push_to,
    relabel,
    remote_content,
    remote_manifest,
    uploads,
)
from tests.hub_server import Hub
from tests.storage.stores import RUN, assert_sound, batch, content, write

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries")


def test_a_push_is_one_commit_that_holds_the_store(hub: Hub, store: Path, tmp_path: Path) -> None:
    before = content(store)
    done = push_to(hub, store, message="First push")
    assert (done.created, done.sent, done.rows, done.number) == (True, 4, 22, 1)
    assert commits(hub) == 1
    matching(hub, store, tmp_path / "copy")
    assert content(store) == before
    assert manifests.numbers(store) == [1]
    head = hub.head(ID)
    assert head.oid == done.commit
    assert head.title == "First push"
    assert "actstore-commit: 1\n" in head.message
    assert fingerprint(remote_manifest(hub).shards) in head.message


def test_an_unchanged_store_sends_nothing_and_makes_no_commit(hub: Hub, store: Path) -> None:
    push_to(hub, store)
    hub.reset()
    done = push_to(hub, store)
    assert done.commit is None
    assert commits(hub) == 1
    assert [entry.method for entry in hub.log.entries() if entry.method != "GET"] == []


def test_more_rows_send_only_their_shards(hub: Hub, store: Path, tmp_path: Path) -> None:
    push_to(hub, store)
    write(store, batch(6, 4, layer=1))
    hub.reset()
    done = push_to(hub, store)
    assert (done.sent, done.removed, uploads(hub)) == (1, 1, 1)
    assert commits(hub) == 2
    matching(hub, store, tmp_path / "copy")
    assert hub.head(ID).title == "actstore commit 2: 26 rows in 5 shards"


def test_labels_are_in_the_pushed_shards_and_other_shards_stay(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    push_to(hub, store)
    before = {entry.path for entry in remote_manifest(hub).shards}
    relabel(store, [0, 20], "unfaithful")
    relabel(store, [20], None)
    expected = content(store)
    survey = push_to(hub, store, dry_run=True)
    assert (survey.sent, survey.removed, survey.folded) == (2, 2, 2)
    hub.reset()
    done = push_to(hub, store)
    assert (done.sent, done.folded, uploads(hub)) == (2, 2, 2)
    assert len(before & {entry.path for entry in remote_manifest(hub).shards}) == 2
    matching(hub, store, tmp_path / "copy")
    assert content(store) == expected
    assert manifests.load(store).operation == "fold"
    readme = hub.read(ID, "README.md").decode()
    assert "| task | ok | unfaithful | no label |" in readme
    assert "| maze | 17 | 0 | 1 |" in readme


def test_compaction_takes_the_place_of_the_small_shards(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    for number in range(3):
        write(store, batch(10 * (number + 1), 2, layer=1))
        push_to(hub, store)
    compaction.compact(store)
    done = push_to(hub, store)
    assert (done.sent, done.shards, commits(hub)) == (1, 4, 4)
    matching(hub, store, tmp_path / "copy")


def test_what_small_writes_joined_takes_the_place_of_what_was_pushed(
    hub: Hub, tmp_path: Path
) -> None:
    store = tmp_path / "s"
    run = dataclasses.replace(RUN, run_id="write-1", kind="write")
    for number in range(16):
        write(store, batch(number, 1), run=run, small=True)
    push_to(hub, store)
    write(store, batch(16, 1), run=run, small=True)
    done = push_to(hub, store)
    assert (done.sent, done.shards) == (2, 2)
    matching(hub, store, tmp_path / "copy")


def test_a_store_whose_manifests_share_segments(
    hub: Hub, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository gets a manifest that lists everything; its copy is a store like any other."""
    monkeypatch.setattr(manifest_content, "MOST_LISTED", 2)
    for number in range(6):
        write(store, batch(20 + number, 1, layer=number))
    assert manifests.load(store).segments
    push_to(hub, store)
    assert not remote_manifest(hub).segments
    assert remote_manifest(hub) == manifests.load(store).whole()
    assert push_to(hub, store).commit is None
    write(store, batch(40, 1, layer=2))
    assert push_to(hub, store).sent == 1
    assert remote_manifest(hub) == manifests.load(store).whole()
    assert remote_content(hub, tmp_path / "copy") == content(store)


@pytest.mark.parametrize("forget", [False, True])
def test_a_pruned_or_forgetful_store_still_knows_its_repository(
    hub: Hub, store: Path, tmp_path: Path, forget: bool
) -> None:
    push_to(hub, store)
    write(store, batch(6, 4, layer=1))
    compaction.compact(store)
    if forget:
        next((store / "remotes").iterdir()).unlink()
    else:
        compaction.prune(store)
    push_to(hub, store)
    matching(hub, store, tmp_path / "copy")


def test_a_dry_run_changes_nothing(hub: Hub, store: Path) -> None:
    done = push_to(hub, store, dry_run=True)
    assert (done.created, done.sent, done.commit) == (True, 4, None)
    with pytest.raises(KeyError):
        hub.repository(ID)
    push_to(hub, store)
    relabel(store, [0], "bad")
    numbers = manifests.numbers(store)
    hub.reset()
    assert push_to(hub, store, dry_run=True, revision="other").sent == 1
    assert manifests.numbers(store) == numbers
    assert {entry.method for entry in hub.log.entries()} == {"GET"}


def test_private_repositories(hub: Hub, store: Path) -> None:
    push_to(hub, store, private=True)
    assert hub.repository(ID).private
    push_to(hub, store, private=True)
    hub.create("alice/open")
    with pytest.raises(UsageError, match="public"):
        push_to(hub, store, "alice/open", private=True)
    assert commits(hub, to="alice/open") == 0


def test_branches_are_made_and_kept_apart(hub: Hub, store: Path, tmp_path: Path) -> None:
    push_to(hub, store)
    write(store, batch(6, 4, layer=1))
    done = push_to(hub, store, revision="exp/a")
    assert done.revision == "exp/a"
    assert remote_manifest(hub).number == 1
    assert remote_content(hub, tmp_path / "copy", "exp/a") == content(store)
    assert push_to(hub, store, f"{ID}@exp/a".replace("exp/a", "exp%2Fa")).commit is None
    assert push_to(hub, store).sent == 1


@pytest.mark.parametrize("revision", ["v1", "0123456789", "refs/pr/7", "refs/convert/parquet"])
def test_what_is_no_branch_is_not_pushed_to(hub: Hub, store: Path, revision: str) -> None:
    push_to(hub, store)
    client(hub).api.create_tag(ID, tag="v1", repo_type="dataset")
    with pytest.raises(RevisionError):
        push_to(hub, store, revision=revision)
    assert commits(hub) == 1


def test_a_pull_request_leaves_main_alone(hub: Hub, store: Path, tmp_path: Path) -> None:
    push_to(hub, store)
    write(store, batch(6, 4, layer=1))
    done = push_to(hub, store, create_pr=True)
    assert done.pull_request is not None
    assert done.pull_request.endswith("/discussions/1")
    assert commits(hub) == 1
    assert remote_content(hub, tmp_path / "copy", "refs/pr/1") == content(store)
    write(store, batch(10, 1, layer=1))
    assert push_to(hub, store, revision="refs/pr/1").sent == 1
    with pytest.raises(UsageError, match="pull request"):
        push_to(hub, store, create_pr=True, revision="other")


def test_a_config_is_pushed_alone_and_leaves_the_others(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    done = push_to(hub, store, only=["*.layer_001", "org--model.mlp_out.*"])
    assert (done.sent, done.rows) == (2, 10)
    assert {entry.layer for entry in remote_manifest(hub).shards} == {1, None}
    push_to(hub, store)
    assert remote_content(hub, tmp_path / "copy") == content(store)
    relabel(store, [0, 6, 12], "bad")
    done = push_to(hub, store, only=["org--model.mlp_out.*", "*.layer_002"])
    assert (done.sent, done.removed, done.shards) == (1, 2, 4)
    expected = content(store)
    found = remote_content(hub, tmp_path / "mixed")
    assert sum(found[key] != expected[key] for key in expected) == 2
    push_to(hub, store)
    assert remote_content(hub, tmp_path / "all") == expected
    with pytest.raises(UsageError, match=r"there are .*org--model\.resid_post\.layer_000"):
        push_to(hub, store, only=["*.layer_007"])


def test_an_archive_holds_the_same_rows(hub: Hub, store: Path, tmp_path: Path) -> None:
    write(store, batch(100, 3000, layer=1))
    before = {entry.path: entry for entry in manifests.load(store).shards}
    push_to(hub, store, archive=True)
    assert remote_content(hub, tmp_path / "copy") == content(store)
    entries = remote_manifest(hub).shards
    assert not any(entry.pages for entry in entries)
    assert {entry.path: entry for entry in manifests.load(store).shards} == before
    assert sum(entry.bytes for entry in entries) < sum(e.bytes for e in before.values())
    assert push_to(hub, store, archive=True).commit is None
    assert push_to(hub, store).commit is None
    write(store, batch(5000, 2, layer=2))
    assert push_to(hub, store).sent == 1
    assert push_to(hub, store, archive=True).sent == 1
    assert remote_content(hub, tmp_path / "again") == content(store)


def test_a_plain_repository_can_become_an_archive(hub: Hub, store: Path, tmp_path: Path) -> None:
    push_to(hub, store)
    assert push_to(hub, store, archive=True).sent == 4
    assert not any(entry.pages for entry in remote_manifest(hub).shards)
    assert remote_content(hub, tmp_path / "copy") == content(store)


def test_what_people_write_on_either_card_stays_on_both(hub: Hub, store: Path) -> None:
    push_to(hub, store, license="cc-by-4.0", pretty_name="Mine")
    text = hub.read(ID, "README.md").decode()
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["license"], front["pretty_name"]) == ("cc-by-4.0", "Mine")
    assert 'license: "cc-by-4.0"' in card.read(store)
    there = text.replace("<!-- Say here", "Written on the Hub.\n\n<!-- Say here")
    hub.commit(ID, {"README.md": there.encode()})
    here = card.read(store).replace("license:", "language: en\nlicense:") + "\nWritten here.\n"
    (store / "README.md").write_text(here, encoding="utf-8")
    write(store, batch(50, 1, layer=0))
    push_to(hub, store)
    for found in (card.read(store), hub.read(ID, "README.md").decode()):
        assert "Written on the Hub." in found
        assert "Written here." in found
        assert "language: en" in found
        assert found.count("cc-by-4.0") == 1
    assert push_to(hub, store).commit is None


def test_a_card_that_was_there_first_is_kept(hub: Hub, store: Path) -> None:
    hub.create(ID, {"README.md": b"---\nlicense: mit\n---\n# By hand\n"})
    push_to(hub, store)
    text = hub.read(ID, "README.md").decode()
    assert "# By hand" in text
    assert "license: mit" in text
    assert "config_name" in text


@pytest.mark.parametrize("broken", ["license: [mit", "- a list", "\x07: x"])
def test_broken_metadata_on_the_hub_is_kept_as_a_comment(
    hub: Hub, store: Path, broken: str
) -> None:
    hub.create(ID, {"README.md": f"---\n{broken}\n---\n# By hand\n".encode()})
    push_to(hub, store)
    text = hub.read(ID, "README.md").decode()
    assert "no valid YAML" in text
    assert "# By hand" in text
    assert yaml.safe_load(text.split("---\n")[1])["configs"]


def test_a_license_that_the_hub_does_not_know_is_explained(hub: Hub, store: Path) -> None:
    with pytest.raises(CardError, match="license"):
        push_to(hub, store, license="my own")
    assert commits(hub) == 0
    assert push_to(hub, store, license="mit").commit


def test_a_repository_that_is_something_else_is_left_alone(hub: Hub, store: Path) -> None:
    hub.create(ID, {"data/train.csv": b"a,b\n", "README.md": b"# Other\n"})
    before = hub.head(ID).oid
    with pytest.raises(RemoteStoreError, match=r"holds no store but data/train\.csv"):
        push_to(hub, store)
    assert hub.head(ID).oid == before


def test_files_beside_the_store_stay_and_dead_ones_go(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    push_to(hub, store)
    hub.commit(ID, {"figures/map.svg": b"<svg/>", "activations/stray.parquet": b"\0stray"})
    push_to(hub, store)
    assert "figures/map.svg" in hub.files(ID)
    hub.commit(ID, {"figures/map.svg": None})
    matching(hub, store, tmp_path / "copy")


def test_a_damaged_store_is_not_pushed(hub: Hub, store: Path) -> None:
    push_to(hub, store)
    write(store, batch(50, 1, layer=0))
    there = hub.files(ID)
    path = store / next(e.path for e in manifests.load(store).shards if e.path not in there)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    name = path.relative_to(store).as_posix()
    for archive in (False, True):
        with pytest.raises(DamageError, match="SHA-256 is not what the manifest says") as caught:
            push_to(hub, store, archive=archive)
        assert [path for path, _ in caught.value.problems] == [name]
    path.unlink()
    with pytest.raises(DamageError, match="missing"):
        push_to(hub, store)
    assert commits(hub) == 1


def test_a_gitignore_that_would_drop_shards_is_named(hub: Hub, store: Path) -> None:
    push_to(hub, store)
    hub.commit(ID, {".gitignore": b"*.parquet\n"})
    write(store, batch(50, 1, layer=0))
    with pytest.raises(RemoteStoreError, match="gitignore"):
        push_to(hub, store)


def test_lost_shards_are_brought_back(hub: Hub, store: Path, tmp_path: Path) -> None:
    push_to(hub, store)
    lost = remote_manifest(hub).shards[2].path
    hub.commit(ID, {lost: None})
    assert push_to(hub, store).sent == 1
    matching(hub, store, tmp_path / "copy")


def test_more_files_than_the_hub_takes_are_refused_before_any_is_sent(
    hub: Hub, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, batch(50, 1, layer=0))
    monkeypatch.setattr("actstore.hub.push_commit.MOST_IN_FOLDER", 1)
    with pytest.raises(UsageError, match=r"5 shards, 2 in .*layer_000.*actstore compact"):
        push_to(hub, store)
    assert uploads(hub) == 0


def test_pushing_needs_a_token(hub: Hub, store: Path) -> None:
    with pytest.raises(AccessError, match="HF_TOKEN"):
        push(store, ID, client=client(hub, token=False))
    assert hub.log.entries() == []


def test_the_public_face(
    hub: Hub, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    relabel(store, [0], "bad")
    with actstore.open(store) as opened:
        assert opened.push(ID).commit == hub.head(ID).oid
        assert opened.commit == 3
        assert opened.push(ID).commit is None
        write(store, batch(50, 1, layer=0))
        with pytest.raises(UsageError, match="refresh"):
            opened.push(ID)
    matching_before = remote_manifest(hub)
    assert matching_before.number == 3
    with actstore.open(store, at=1) as old, pytest.raises(UsageError, match="latest is 4"):
        old.push(ID)
    assert_sound(store)
