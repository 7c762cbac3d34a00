"""A draft's parts are one commit of the store that it goes on from, or nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from actstore.errors import CommitError, ConflictError
from actstore.storage import manifest as manifests
from actstore.storage.compaction import compact
from actstore.storage.drafting import AlreadyThereError, parts_of
from tests.storage.drafts import drafting
from tests.storage.stores import assert_sound, batch, content, expected, write


@pytest.fixture
def store(tmp_path: Path) -> Path:
    root = tmp_path / "s"
    write(root, batch(0, 5, layer=1))
    write(root, batch(5, 4, layer=1), batch(0, 3, layer=2))
    return root


def test_parts_are_one_commit(store: Path) -> None:
    before = content(store)
    with drafting(store) as drafted:
        assert drafted.add("one", batch(3, 7, layer=1))[0][:2] == (1, 6)
        assert drafted.add("two", batch(9, 3, layer=1), batch(0, 2, layer=7))[0][:4] == (2, 1, 0, 1)
        assert content(store) == before
        made, overtaken = drafted.take_over()
    assert made is not None
    assert (made.number, overtaken) == (3, 0)
    assert content(store) == before | expected(batch(9, 3, layer=1), batch(0, 2, layer=7))
    assert [run.run_id for run in made.runs] == ["run"]
    assert {entry.since for entry in made.shards if entry.layer == 7} == {3}
    assert_sound(store)


def test_a_draft_may_go_on_from_nothing(tmp_path: Path) -> None:
    with drafting(tmp_path / "s") as drafted:
        drafted.add("none")
        drafted.add("some", batch(0, 2))
        assert list(parts_of(manifests.latest(drafted.draft))) == ["none", "some"]
        drafted.take_over()
    assert content(tmp_path / "s") == expected(batch(0, 2))


def test_nothing_new_is_no_commit(store: Path) -> None:
    with drafting(store) as drafted:
        assert drafted.add("one", batch(0, 5, layer=1))[0][:2] == (0, 5)
        assert drafted.take_over() == (None, 0)
    assert manifests.latest(store).number == 2


def test_a_part_is_there_once(store: Path) -> None:
    with drafting(store) as drafted, drafted.writer() as late:
        late.add(batch(20, 3))
        drafted.add("one", batch(20, 3))
        for rows in (late, drafted.writer()):  # with rows, and without
            with rows, pytest.raises(AlreadyThereError):
                drafted.commit(rows, "one", drafted.base + 1)
        found = parts_of(manifests.latest(drafted.draft))
        assert list(found) == ["one"]
        assert len(found["one"].shards) == 1
        drafted.take_over()
    assert_sound(store)


def test_rows_of_parts_that_were_made_side_by_side(store: Path) -> None:
    with drafting(store) as drafted, drafted.writer() as one, drafted.writer() as two:
        one.add(batch(20, 3))
        two.add(batch(21, 5))
        drafted.commit(one, "one")
        drafted.commit(two, "two")
        # Of float16, 8 wide.
        assert two.left_out == (2, 2, 32)
        two.add(batch(20, 1, seed=1, layer=9))
        drafted.commit(two, "three")
        drafted.take_over()
    assert_sound(store)
    assert len(content(store)) == 12 + 6 + 1


def test_rows_that_contradict_each_other(store: Path) -> None:
    before = content(store)
    with drafting(store) as drafted, drafted.writer(replace=True) as late:
        late.add(batch(4, 1, layer=1, seed=2))
        drafted.add("one", batch(3, 2, layer=1, seed=1), replace=True)
        with pytest.raises(ConflictError, match="another writer has just"):
            drafted.commit(late, "two")
        late.add(batch(4, 1, layer=1, seed=1))
        with pytest.raises(ConflictError, match="two rows have this key"):
            late.add(batch(3, 1, layer=1, seed=2))
        with pytest.raises(ConflictError, match="two rows have this key"):
            late.add(batch(3, 1, layer=1))  # the stored one, whose place is taken
        drafted.commit(late, "two")
        drafted.take_over()
    assert content(store) == before | expected(batch(3, 2, layer=1, seed=1))
    assert_sound(store)


def test_stored_rows_are_replaced(store: Path) -> None:
    before = content(store)
    new = batch(3, 4, layer=1, seed=1)
    with drafting(store) as drafted:
        drafted.add("one", batch(0, 1, layer=2), replace=True)
        drafted.add("two", new, replace=True)
        assert content(store) == before
        assert sum(len(each.rows) for each in drafted.going()) == 4
        drafted.take_over()
    assert content(store) == before | expected(new)
    assert content(store, at=2) == before
    assert_sound(store)


def test_what_others_bring_meanwhile_is_left_out(store: Path) -> None:
    with drafting(store) as drafted:
        drafted.add("one", batch(20, 3))
        drafted.add("two", batch(23, 3))
        write(store, batch(22, 2))
        made, overtaken = drafted.take_over()
    assert made is not None
    assert (made.number, overtaken) == (4, 2)
    assert len(content(store)) == 12 + 6
    assert_sound(store)


@pytest.mark.parametrize("change", ["conflict", "compaction"])
def test_what_others_change_meanwhile_ends_it(store: Path, change: str) -> None:
    with drafting(store) as drafted:
        drafted.add("one", batch(20, 3), batch(0, 1, layer=1, seed=1), replace=True)
        if change == "conflict":
            write(store, batch(21, 1, seed=3))
        else:
            compact(store)
        before = content(store)
        error = ConflictError if change == "conflict" else CommitError
        with pytest.raises(error):
            drafted.take_over()
    assert content(store) == before
    assert_sound(store)


def test_rows_stand_as_one_writer_leaves_them(tmp_path: Path) -> None:
    parts = [[batch(4 * part, 2, dtype="float32"), batch(4 * part + 2, 2)] for part in range(3)]
    write(tmp_path / "one", *(each for part in parts for each in part))
    with drafting(tmp_path / "s") as drafted:
        for number, part in enumerate(parts):
            drafted.add(str(number), *part)
        drafted.take_over()
    assert list(content(tmp_path / "s")) == list(content(tmp_path / "one"))
    assert_sound(tmp_path / "s")


def test_many_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("segments", "manifest_content"):
        monkeypatch.setattr(f"actstore.storage.{module}.MOST_LISTED", 4)
    root = tmp_path / "s"
    write(root, *(batch(0, 1, layer=layer) for layer in range(8)))
    with drafting(root) as drafted:
        assert drafted.change.base.segments
        with drafted.writer(replace=True) as writer:
            for part in range(12):
                writer.add(batch(part % 2, 1, layer=part, seed=1))
                drafted.commit(writer, str(part))
        assert [*parts_of(manifests.latest(drafted.draft))] == [str(n) for n in range(12)]
        drafted.take_over()
    assert len(content(root)) == 8 + 4 + 4
    assert manifests.newest(root) == 2
    assert_sound(root)
