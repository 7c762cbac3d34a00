"""The draft of an ingest is gone on with only where its pieces are what they would be now."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore.errors import CommitError, ConflictError
from actstore.ingestion.reading import Outcome
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.workers import draft as drafts
from actstore.ingestion.workers.answers import Kept, Read, Stored
from actstore.ingestion.workers.draft import Draft, stored_of
from actstore.remote.bucket import Bucket
from actstore.remote.bucket_address import parse_bucket
from actstore.remote.bucket_pruning import prune_bucket
from actstore.remote.working import working
from actstore.storage import layout
from actstore.storage import manifest as manifests
from actstore.storage.drafting import DraftWriter
from actstore.storage.manifest import Run, now
from actstore.storage.transaction import Transaction
from tests.remote.bucket_fixtures import *  # noqa: F403
from tests.storage.stores import assert_sound, batch, content, expected, write

NAMES = ["0-a", "1-b", "2-c"]


@contextmanager
def held(
    root: Path,
    *,
    place: Path | str | None = None,
    source: str = "/in",
    of: str = "mark",
    names: Sequence[str] = NAMES,
) -> Iterator[Draft]:
    """Hold the draft of an ingest of some source into a store, of which ``root`` is the folder."""
    pattern: Any = None  # nobody looks at it
    path = Path(source)
    file = SourceFile(
        path=path, relative="a.pt", parts={}, pattern=pattern, root=path, folder=path, size=1
    )
    run = Run(run_id=layout.new_transaction(), kind="ingest", started_at=now(), settings={"a": 1})
    with (
        Transaction(root) as change,
        drafts.held(
            place or root, root, change.base, run=run, files=[file], fingerprint=of, names=names
        ) as draft,
    ):
        yield draft


def add(draft: Draft, name: str, first: int, root: Path) -> Stored:
    """Store a piece as a worker does."""
    read = Read(outcome=Outcome(read=first))
    record = draft.place.keep(name, Kept(read, {}))
    note = {"record": record, "left_out": [0, 0, 0]}
    with (
        draft.place.opened(root) as folder,
        DraftWriter(folder, base=draft.place.base, run=draft.run) as writer,
    ):
        writer.add(batch(first, 2))
        number = manifests.newest(folder) + 1
        part = writer.commit_part(name, lambda: note, number=number, operation="ingest", message="")
    return stored_of(part, {})


def left(store: Path) -> list[Path]:
    return list((store / layout.CACHE).glob("ingest-*"))


def test_it_is_gone_on_with_and_taken_over(tmp_path: Path) -> None:
    store = tmp_path / "s"
    write(store, batch(50, 1))
    with held(store) as draft:
        assert draft.done == {}
        stored = [add(draft, name, 10 * n, store) for n, name in enumerate(NAMES[:2])]
        first = draft.run
    assert len(content(store)) == 1
    with held(store) as draft:
        assert draft.run == first
        assert list(draft.done) == NAMES[:2]
        for n, (read, known) in enumerate(draft.done.values()):
            assert (read.outcome.read, known) == (10 * n, stored[n])
        add(draft, "2-c", 20, store)
        with Transaction(store) as change:
            shards = {path for each in stored for path in each.shards}
            made, _ = draft.take_over(change, shards, [], "all")
    assert made is not None
    assert made.runs[-1] == dataclasses.replace(first, settings={"a": 1})
    # Of what somebody has stored there who is not counted on, nothing is taken.
    assert content(store) == expected(batch(50, 1), batch(0, 2), batch(10, 2))
    assert left(store) == []


def test_what_comes_to_nothing_is_not_kept(tmp_path: Path) -> None:
    """Somebody else has changed the store: the draft would not be gone on with."""
    store = tmp_path / "s"
    write(store, batch(50, 1))
    with held(store) as draft:
        shards = set(add(draft, "0-a", 0, store).shards)
        with Transaction(store) as change:
            write(store, batch(1, 1, seed=1))
            with pytest.raises(ConflictError):
                draft.take_over(change, shards, [], "all")
        assert left(store)[0].joinpath("lock").exists()
        assert not Path(draft.place.place).exists()
    assert left(store) == []


def test_who_has_it_is_alone(tmp_path: Path) -> None:
    with held(tmp_path / "s") as draft:
        add(draft, "0-a", 0, tmp_path / "s")
        with (
            pytest.raises(CommitError, match="another ingest of these files into"),
            held(tmp_path / "s"),
        ):
            pass
        with held(tmp_path / "s", source="/elsewhere") as other:
            other.clear()
        draft.clear()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "change", ["options", "pieces", "order", "store", "shard", "record", "manifest", "two"]
)
def test_it_is_begun_anew_where_that_would_not_be_right(tmp_path: Path, change: str) -> None:
    store = tmp_path / "s"
    write(store, batch(50, 1))
    given: dict[str, Any] = {}
    with held(store) as draft:
        for number, name in enumerate(NAMES):
            add(draft, name, number, store)
        first = draft.run.run_id
        folder = Path(draft.place.place)
    if change == "options":
        given["of"] = "another mark"
    elif change == "pieces":
        given["names"] = ["0-a", "1-other", "2-c"]
    elif change == "order":
        given["names"] = ["1-b", "0-a", "2-c"]
    elif change == "store":
        write(store, batch(60, 1))
    elif change == "shard":
        next(folder.glob("activations/**/*.parquet")).unlink()
    elif change == "record":
        next(folder.glob("records/*")).write_bytes(b"{}")
    elif change == "manifest":
        layout.manifest_path(folder, manifests.newest(folder)).write_bytes(b"{}")
    else:
        folder.with_name("another").mkdir()
    with held(store, **given) as draft:
        assert draft.done == {}
        assert draft.run.run_id != first
        assert not folder.exists()
        draft.clear()
    assert left(store) == []


def test_what_is_left_of_it_is_no_hindrance(tmp_path: Path) -> None:
    """Whoever deletes derived files deletes it too; reading does not see it."""
    store = tmp_path / "s"
    write(store, batch(50, 1))
    with held(store) as draft:
        add(draft, "0-a", 0, store)
    opened = actstore.open(store)
    assert np.array_equal(opened.select().numpy(), batch(50, 1).vectors)
    assert_sound(store)
    opened.drop("example_id = 'e50'", prune=True)  # no copy of what is gone is left either
    assert [path.name for path in (store / layout.CACHE).glob("ingest-*/*")] == ["lock"]


def test_in_a_bucket(bucket: str) -> None:
    place = f"{bucket}/runs"
    objects = Bucket(parse_bucket(place)).objects
    with working(place) as root:
        write(root, batch(50, 1))
        with held(root, place=place) as draft:
            add(draft, "0-a", 0, root)
            first = draft.run
        with held(root, place=place) as draft:
            assert (draft.run, list(draft.done)) == (first, ["0-a"])
            shards = set(draft.done["0-a"][1].shards) | add(draft, "1-b", 10, root).shards
            with Transaction(root) as change:
                made, _ = draft.take_over(change, shards, [], "all")
        assert made is not None
        assert made.number == 2
        assert objects(layout.CACHE) == []
        with held(root, place=place) as draft:
            add(draft, "0-a", 20, root)
    bits = actstore.open(place).select().numpy().view(np.uint16)
    together = np.concatenate([batch(*each).vectors for each in ((50, 1), (0, 2), (10, 2))])
    assert np.array_equal(bits, together.view(np.uint16))
    assert objects(layout.CACHE)
    prune_bucket(Bucket(parse_bucket(place)), keep=2, grace=timedelta(0))
    assert objects(layout.CACHE) == []
    assert len(actstore.open(place).select()) == 5
