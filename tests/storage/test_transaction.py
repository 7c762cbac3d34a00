"""The one way in which a store changes: all of it or nothing, whoever else is at work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actstore.errors import CommitError
from actstore.storage import card, layout, pruning
from actstore.storage import manifest as manifests
from actstore.storage.compaction import compact
from actstore.storage.manifest import LabelEntry, Manifest
from actstore.storage.staging import Staging, prepare
from actstore.storage.transaction import Transaction
from tests.storage.stores import batch, card_commit, content, expected, write

NAME = "labels/new.parquet"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    root = tmp_path / "s"
    write(root, batch(0, 3))
    return root


def placed(root: Path) -> list[str]:
    """Every file in the store but the metadata's cache."""
    found = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return sorted(path for path in found if not path.startswith(".cache"))


def draft(change: Transaction) -> dict[str, Path]:
    """A file to commit."""
    (change.folder / "new.parquet").write_text("x")
    return {NAME: change.folder / "new.parquet"}


def labelled(latest: Manifest) -> Manifest:
    entry = LabelEntry(path=NAME, rows=1, bytes=1, sha256="0" * 64)
    return latest.next(
        operation="o", message="", shards=latest.shards, labels=(*latest.labels, entry)
    )


def test_a_commit_puts_files_and_card_in_place(store: Path) -> None:
    with Transaction(store) as change:
        made = change.commit(draft(change), labelled)
        assert made == change.base == manifests.load(store)
    assert (store / NAME).read_text() == "x"
    assert card_commit(store) == 2
    assert list((store / ".staging").iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, CommitError("no")])
@pytest.mark.parametrize("when", ["while written", "while built", "before it is published"])
def test_whatever_comes_before_the_commit_leaves_the_store_as_it_was(
    store: Path, monkeypatch: pytest.MonkeyPatch, error: Any, when: str
) -> None:
    before = placed(store)

    def fail(*arguments: object) -> Any:
        assert (store / NAME).exists()
        raise error

    if when == "before it is published":
        monkeypatch.setattr(manifests, "publish", fail)
    kind = error if isinstance(error, type) else type(error)

    def work() -> None:
        with Transaction(store) as change:
            files = draft(change)
            if when == "while written":
                raise error
            change.commit(files, fail if when == "while built" else labelled)

    with pytest.raises(kind):
        work()
    monkeypatch.undo()
    assert list((store / ".staging").iterdir()) == []
    assert placed(store) == before
    assert content(store) == expected(batch(0, 3))
    assert card_commit(store) == 1


def test_whatever_comes_after_the_commit_leaves_it_standing(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = manifests.publish

    def interrupted(*arguments: Any) -> bool:
        assert publish(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(manifests, "publish", interrupted)
    with pytest.raises(KeyboardInterrupt), Transaction(store) as change:
        change.commit(draft(change), labelled)
    assert change.base.number == 2
    assert (store / NAME).exists()
    assert list((store / ".staging").iterdir()) == []
    prepare(store)
    assert card_commit(store) == 2


def test_nothing_to_commit_takes_the_files_back_and_the_next_commit_can_be_made(
    store: Path,
) -> None:
    before = placed(store)
    with Transaction(store) as change:
        assert change.commit(draft(change), lambda latest: None) is None
        assert not (store / NAME).exists()
        made = change.commit(draft(change), labelled)
        assert made is not None
        assert made.number == 2
        again = change.commit({}, labelled)
        assert again is not None
        assert again.number == 3
    assert set(placed(store)) - set(before) == {
        NAME,
        "manifests/0000000002.json",
        "manifests/0000000003.json",
    }


def test_the_one_that_comes_second_builds_on_the_first(tmp_path: Path) -> None:
    root = tmp_path / "s"
    seen: list[int] = []

    def build(latest: Manifest) -> Manifest:
        seen.append(latest.number)
        if latest.number < 3:  # somebody else is quicker, three times
            other = latest.next(operation="other", message=str(latest.number), shards=())
            assert manifests.publish(root, other, change.folder)
        return latest.next(operation="mine", message="", shards=())

    with Transaction(root) as change:
        made = change.commit({}, build)
    assert made == manifests.load(root)
    assert made is not None
    assert (made.number, made.operation, made.parent) == (4, "mine", 3)
    assert seen == [0, 1, 2, 3]


def test_a_base_that_is_no_longer_the_latest_is_not_built_on(store: Path) -> None:
    first = manifests.load(store)
    write(store, batch(3, 2))
    with Transaction(store, first) as change:
        made = change.commit(draft(change), labelled)
    assert made is not None
    assert made.number == 3
    assert made.shards == manifests.load(store, 2).shards


@pytest.mark.parametrize(
    ("others", "reads"), [(False, 1), (True, 2)], ids=["alone", "with another writer"]
)
def test_a_manifest_is_read_once(
    store: Path, monkeypatch: pytest.MonkeyPatch, others: bool, reads: int
) -> None:
    count: list[Path] = []
    decode: Callable[..., Manifest] = manifests.decode

    def counted(data: bytes, where: str, root: Path | None = None) -> Manifest:
        count.append(Path(where))
        return decode(data, where, root)

    with Transaction(store) as change:
        pass
    monkeypatch.setattr(manifests, "decode", counted)
    manifests.forget()
    with Transaction(store) as change:
        if others:
            following = change.base.next(
                operation="o", message="", shards=change.base.shards, labels=()
            )
            assert manifests.publish(store, following, change.folder)
        change.commit(draft(change), labelled)
    assert len(count) == reads
    assert card_commit(store) == 2 + others


def test_the_caller_learns_of_the_commit_before_the_card_can_fail(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    made: list[int] = []
    monkeypatch.setattr(card, "write", broken)
    with (
        pytest.raises(CommitError, match=r"commit 2 of .* is made, but its README"),
        Transaction(store) as change,
    ):
        change.commit(draft(change), labelled, then=lambda manifest: made.append(manifest.number))
    assert made == manifests.numbers(store)[1:] == [2]
    assert (store / NAME).exists()


def test_a_caller_with_a_card_of_its_own_gets_none(store: Path) -> None:
    with Transaction(store, cards=False) as change:
        change.commit({}, lambda latest: latest.next(operation="o", message="", shards=()))
    assert card_commit(store) == 1


def test_without_a_commit_a_new_store_is_not_left_behind(tmp_path: Path) -> None:
    with Transaction(tmp_path / "s") as change:
        assert (tmp_path / "s" / layout.STAGING).is_dir()
        draft(change)
    assert not (tmp_path / "s").exists()
    change.close()


def test_a_number_that_was_given_out_and_pruned_is_not_given_out_again(store: Path) -> None:
    overtaken: list[int | None] = []

    def build(latest: Manifest) -> Manifest:
        if not overtaken:  # commits 2 and 3, and 2 is gone by the time that this one is made
            overtaken.extend([write(store, batch(3, 1)), write(store, batch(4, 1))])
            assert pruning.erase(store).commits == (2,)
        return latest.next(operation="o", message="")

    with Transaction(store) as change:
        made = change.commit({}, build)
    assert overtaken == [2, 3]
    assert made is not None
    assert made.number == 4
    assert manifests.load(store) == made
    assert content(store) == expected(batch(0, 5))


def test_a_commit_that_was_just_made_is_not_pruned_before_its_writer_has_read_it(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = Staging.done

    def overtaken(staging: Staging) -> None:
        monkeypatch.setattr(Staging, "done", done)
        done(staging)
        write(store, batch(4, 1, layer=4))
        compact(store)
        assert pruning.erase(store).held == (2,)

    monkeypatch.setattr(Staging, "done", overtaken)
    with Transaction(store) as change:
        made = change.commit({}, lambda latest: latest.next(operation="o", message=""))
        assert made is not None
        assert made.number == 2
    assert content(store) == expected(batch(0, 3), batch(4, 1, layer=4))
