"""Unfinished work: locked while its writer lives, taken back when it is dead."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from actstore.errors import CommitError, CorruptStoreError, PathError
from actstore.storage import layout, pruning, staging
from actstore.storage.disk_errors import writing
from actstore.storage.staging import Staging, planned_paths, prepare, recover
from tests.storage.stores import batch, card_commit, content, expected, live_files, write


@pytest.fixture
def store(tmp_path: Path) -> Path:
    root = tmp_path / "s"
    write(root, batch(0, 3))
    return root


def abandon(work: Staging) -> Path:
    """Let a writer die: its lock goes, its folder stays."""
    os.close(work._lock)
    work._lock = -1
    return work.folder


def test_a_living_writers_work_is_left_alone(store: Path) -> None:
    work = Staging(store)
    (work.folder / "draft").write_text("x")
    recover(store)
    assert (work.folder / "draft").exists()
    work.close()
    assert list((store / ".staging").iterdir()) == []
    work.close()


def test_what_a_dead_writer_placed_and_did_not_commit_goes(store: Path) -> None:
    work = Staging(store)
    names = ["activations/a/b/x.parquet", "labels/y.parquet", *live_files(store)]
    for name in names[:2]:
        (work.folder / "draft").write_text("x")
        work.place({name: work.folder / "draft"})
    plan = {"base": 0, "paths": names}
    (work.folder / "plan.json").write_text(json.dumps(plan))
    assert planned_paths(store) == set(names)
    folder = abandon(work)
    recover(store)
    assert not folder.exists()
    assert not (store / names[0]).exists()
    assert not (store / names[1]).exists()
    assert content(store) == expected(batch(0, 3))  # the commit names it: it stays


def test_withdrawing_leaves_what_a_commit_names(store: Path) -> None:
    """Ctrl-C can come when the manifest is there and nobody knows yet."""
    work = Staging(store)
    plan = {"base": 0, "paths": live_files(store)}
    (work.folder / "plan.json").write_text(json.dumps(plan))
    work.withdraw()
    assert content(store) == expected(batch(0, 3))
    assert not (work.folder / "plan.json").exists()
    (work.folder / "draft").write_text("x")
    work.place({"activations/a/b/x.parquet": work.folder / "draft"})
    work.withdraw()
    assert not (store / "activations/a/b/x.parquet").exists()
    work.close()


@pytest.mark.parametrize("plan", ["", "{", "[]", '{"base": 0}', '{"base": "x", "paths": [1]}'])
def test_a_plan_that_was_cut_short_is_no_plan(store: Path, plan: str) -> None:
    work = Staging(store)
    (work.folder / "plan.json").write_text(plan)
    assert planned_paths(store) == set()
    folder = abandon(work)
    recover(store)
    assert not folder.exists()
    assert content(store) == expected(batch(0, 3))


@pytest.mark.parametrize(
    "path", ["../victim", "{}/victim", "activations/../../victim", "README.md", "link/victim"]
)
def test_a_plan_that_points_elsewhere_removes_nothing(store: Path, path: str) -> None:
    """A store may come from somebody else, its .staging included."""
    victim = store.parent / "victim"
    victim.write_text("x")
    (store / "link").symlink_to(store.parent)
    card = (store / "README.md").read_bytes()
    work = Staging(store)
    plan = {"base": 0, "paths": [path.format(store.parent)]}
    (work.folder / "plan.json").write_text(json.dumps(plan))
    abandon(work)
    recover(store)
    assert victim.exists()
    assert (store / "README.md").read_bytes() == card


def test_a_folder_without_lock_is_removed(store: Path) -> None:
    """A writer that died while it removed its folder leaves the last step undone.

    A power failure may also leave all but the lock: what was placed then goes too.
    """
    home = store / ".staging"
    (home / "0001").mkdir()
    (home / "0002").mkdir()
    placed = store / "activations" / "placed.parquet"
    placed.touch()
    plan = {"base": 1, "paths": ["activations/placed.parquet"]}
    (home / "0002" / "plan.json").write_text(json.dumps(plan))
    (home / "stray file").touch()
    recover(store)
    assert [path.name for path in home.iterdir()] == ["stray file"]
    assert not placed.exists()


def test_a_folder_without_a_name_is_cleared_and_its_living_writer_makes_another(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store / ".staging" / "0001.new").mkdir()
    assert recover(store) == 0  # nothing was in it
    assert list((store / ".staging").iterdir()) == []
    real_open, cleared = os.open, 0

    def opened(path: Path, flags: int, *rest: int) -> int:
        nonlocal cleared
        if flags & os.O_CREAT and cleared < 2:
            cleared += 1
            monkeypatch.setattr(os, "open", real_open)
            if cleared == 1:  # before the lock file is there
                recover(store)
                monkeypatch.setattr(os, "open", opened)
                return real_open(path, flags, *rest)
            lock = real_open(path, flags, *rest)  # before it is locked
            assert recover(store) == 1
            return lock
        return real_open(path, flags, *rest)

    monkeypatch.setattr(os, "open", opened)
    work = Staging(store)
    assert cleared == 2
    assert recover(store) == 0
    assert (work.folder / "lock").exists()
    work.close()
    assert list((store / ".staging").iterdir()) == []


def test_two_may_recover_at_once(store: Path) -> None:
    work = Staging(store)
    folder = abandon(work)
    other = os.open(folder / "lock", os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX)
    recover(store)
    assert folder.exists()
    os.close(other)
    recover(store)
    assert not folder.exists()


def test_a_damaged_commit_stops_recovery_before_anything_is_lost(store: Path) -> None:
    work = Staging(store)
    plan = {"base": 0, "paths": live_files(store)}
    (work.folder / "plan.json").write_text(json.dumps(plan))
    abandon(work)
    shard = store / live_files(store)[0]
    manifest = layout.manifest_path(store, 1)
    sound = manifest.read_bytes()
    manifest.write_bytes(b"{")
    with pytest.raises(CorruptStoreError):
        recover(store)
    assert shard.exists()
    manifest.write_bytes(sound)
    recover(store)
    assert content(store) == expected(batch(0, 3))


def test_the_card_of_a_killed_writer_is_caught_up(store: Path) -> None:
    stale = (store / "README.md").read_bytes()
    write(store, batch(3, 1))
    (store / "README.md").write_bytes(stale)
    assert write(store, batch(3, 1)) is None  # nothing new to commit
    assert card_commit(store) == 2
    (store / "README.md").unlink()
    prepare(store)
    assert card_commit(store) == 2


def test_files_placed_before_a_failure_are_taken_back(store: Path) -> None:
    work = Staging(store)
    (work.folder / "one").write_text("x")
    shutil.rmtree(store / "labels", ignore_errors=True)
    (store / "labels").write_text("a file where a folder should be")
    files = {"activations/a/b/x.parquet": work.folder / "one", "labels/y.parquet": work.folder}
    with pytest.raises(CommitError, match="cannot write to the store at"):
        work.place(files)
    assert not (store / "activations/a/b/x.parquet").exists()
    work.close()


def test_errors_of_the_disk_are_explained(tmp_path: Path) -> None:
    full = r"No space left on device; what was committed before"
    with pytest.raises(CommitError, match=full), writing(tmp_path):
        raise OSError(28, "No space left on device")
    already = CommitError("as it is")
    with pytest.raises(CommitError, match=r"^as it is$"), writing(tmp_path):
        raise already
    with pytest.raises(ZeroDivisionError), writing(tmp_path):
        raise ZeroDivisionError


def test_a_new_stores_folders(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# My store\n")
    prepare(tmp_path)
    prepare(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "manifests"]
    assert staging.planned_paths(tmp_path) == set()


@pytest.mark.parametrize("place", ["", "activations/", "labels/", ".staging/", ".cache/"])
def test_a_store_does_not_begin_in_the_folder_of_another(store: Path, place: str) -> None:
    inner = store / f"{place}inner"
    with pytest.raises(PathError, match=r"lies in the store .*choose a place outside of it"):
        write(inner, batch(0, 3))
    assert not inner.exists()


def test_a_name_that_no_reader_opens_is_refused(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"\xff.store")
    with pytest.raises(PathError, match=r"\\xff.store: the name is not UTF-8"):
        write(root, batch(0, 3))
    assert not root.exists()


def test_a_store_that_was_begun_in_another_is_still_written_to(store: Path, tmp_path: Path) -> None:
    write(tmp_path / "inner", batch(0, 3))
    inner = (tmp_path / "inner").rename(store / "inner")
    write(inner, batch(3, 2))
    assert content(inner) == expected(batch(0, 5))


def test_a_session_without_a_commit_leaves_no_store_behind(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "store"
    staging.prepare(root)
    one, two = staging.Staging(root), staging.Staging(root)
    one.close()
    assert (root / "manifests").is_dir()  # the other session still needs it
    two.close()
    assert not root.exists()
    assert root.parent.is_dir()


@pytest.mark.parametrize("moment", ["moved", "synced"])
def test_folders_that_a_prune_removes_while_they_are_empty_are_made_again(
    store: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Each time that a file is moved into them, and each time that they are synced."""
    work = Staging(store)
    draft = work.folder / "draft"
    draft.write_text("x")
    left = 3

    def first(does: Callable[..., object]) -> Callable[..., object]:
        def prune_and_do(*given: Path) -> object:
            nonlocal left
            if left:
                left -= 1
                pruning._remove_empty(store)
            return does(*given)

        return prune_and_do

    if moment == "moved":
        monkeypatch.setattr(Path, "rename", first(Path.rename))
    else:
        monkeypatch.setattr(layout, "sync_folder", first(layout.sync_folder))
    work.place({"activations/m/new/layer_001/a.parquet": draft})
    assert not left
    assert (store / "activations/m/new/layer_001/a.parquet").read_text() == "x"
    work.close()
    assert not (store / "activations/m/new/layer_001/a.parquet").exists()


def test_every_folder_above_a_placed_file_is_synced(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that others have made just now too: their names may not be on the disk yet."""
    (store / "activations/m/new").mkdir(parents=True)
    synced: list[Path] = []
    monkeypatch.setattr(layout, "sync_folder", synced.append)
    work = Staging(store)
    (work.folder / "draft").write_text("x")
    work.place({"activations/m/new/layer_001/a.parquet": work.folder / "draft"})
    above = ("activations/m/new/layer_001", "activations/m/new", "activations/m", "activations", "")
    assert {store / each for each in above} <= set(synced)
    work.close()


def test_a_file_system_without_hard_links_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*given: object, **more: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # what FAT answers

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(CommitError, match=r"no hard links .* put the store on another"):
        write(tmp_path / "s", batch(0, 2))
    assert not (tmp_path / "s").exists()
