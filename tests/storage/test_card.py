"""The card follows the latest commit, whoever writes and whatever happens."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from actstore.errors import CommitError
from actstore.storage import card, layout
from actstore.storage import manifest as manifests
from tests.storage.stores import batch, card_commit, card_files, content, live_files, write


@pytest.fixture
def store(tmp_path: Path) -> Path:
    root = tmp_path / "s"
    write(root, batch(0, 2))
    return root


def test_it_names_the_commit_and_every_live_shard(store: Path) -> None:
    for number in (2, 3):
        write(store, batch(number, 1))
        assert card_commit(store) == number
        assert card_files(store)["org--model"] == live_files(store)


def test_refreshing_changes_nothing(store: Path) -> None:
    before = card.read(store)
    card.refresh(store)
    card.catch_up(store)
    assert card.read(store) == before


def test_catching_up_writes_only_what_is_behind(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = card.read(store)
    write(store, batch(2, 1))
    card.write(store, old)
    card.catch_up(store)
    assert card_commit(store) == 2
    monkeypatch.setattr(card, "refresh", lambda root: pytest.fail("it was up to date"))
    card.catch_up(store)
    card.catch_up(store, closely=True)
    # The number may stand in the owner's own text: it does not count.
    card.write(store, f"As in commit 2 of last week.\n\n{old}")
    with pytest.raises(pytest.fail.Exception):
        card.catch_up(store)


def test_bytes_that_are_no_text_come_back_as_they_were(store: Path) -> None:
    path = store / "README.md"
    path.write_bytes(path.read_bytes() + b"\n\xff\xfe caf\xe9\n")
    write(store, batch(2, 1))
    assert path.read_bytes().rstrip().endswith(b"\xff\xfe caf\xe9")
    assert card_commit(store) == 2


def test_of_several_the_last_commit_remains(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that is slow to write its card must not cover that of a later commit."""
    replace = layout.replace_durably
    entered = threading.Event()
    go_on = threading.Event()

    def slow(path: Path, data: bytes) -> None:
        if path.name == layout.CARD and not entered.is_set():
            entered.set()
            assert go_on.wait(30)
        replace(path, data)

    monkeypatch.setattr(layout, "replace_durably", slow)
    first = threading.Thread(target=write, args=(store, batch(2, 1)))
    first.start()
    assert entered.wait(30)
    write(store, batch(3, 1))
    assert card_commit(store) == 3
    go_on.set()
    first.join()
    assert card_commit(store) == 3
    assert card_files(store)["metadata"] == live_files(store)


def test_a_card_that_cannot_be_written_does_not_undo_the_commit(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = layout.replace_durably

    def full(path: Path, data: bytes) -> None:
        if path.name == layout.CARD:
            raise OSError(28, "No space left on device")
        replace(path, data)

    monkeypatch.setattr(layout, "replace_durably", full)
    message = r"commit 2 of .* is made, but its README\.md could not be brought up to date: .*No sp"
    with pytest.raises(CommitError, match=message):
        write(store, batch(2, 1))
    assert manifests.numbers(store) == [1, 2]
    assert len(content(store)) == 3
    monkeypatch.undo()
    assert card_commit(store) == 1
    write(store, batch(2, 1))
    assert card_commit(store) == 2


@pytest.mark.parametrize(
    ("rows", "size"),
    [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (31_124, "10K<n<100K"), (10**13, "n>1T")],
)
def test_size_categories(rows: int, size: str) -> None:
    from tests.storage.test_manifest import entry

    manifest = manifests.EMPTY.next(operation="", message="", shards=(entry(rows=rows),))
    assert f'size_categories: ["{size}"]' in card.render(manifest, [])
