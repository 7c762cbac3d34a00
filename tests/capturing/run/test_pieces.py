"""A capture that several processes divide among them is the capture of one."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore.capturing.prompts.example import Example
from actstore.capturing.run import batching
from actstore.capturing.run.finalize import Finalized, finalize
from actstore.capturing.run.options import CaptureSettings, Source
from actstore.capturing.run.pieces import Part, Piece, cut, done_of, short
from actstore.capturing.run.provenance import Identity
from actstore.capturing.run.resume import Chain
from actstore.errors import NotInStoreError, UsageError
from actstore.storage import manifest as manifests
from actstore.storage.dropping import drop_rows
from actstore.storage.snapshot import open_snapshot
from tests.capturing import crashing, families

EXAMPLES = 150
"""Three pieces: of 64, 64 and 22 examples."""
OPTIONS: dict[str, Any] = {
    "model_name": "tiny/llama",
    "dataset": "numbers",
    "layers": "0,-1",
    "pool": ("prompt.last", "response.mean", "prompt.tokens"),
    "max_new_tokens": 2,
    "generation": {"do_sample": True},
    "batch_size": 4,  # windows of 64
    "self_check": False,
}


@pytest.fixture(scope="module")
def model() -> Any:
    return families.build("llama")


@pytest.fixture(scope="module")
def alone(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The capture of one process."""
    return capture(model, tmp_path_factory.mktemp("alone") / "s")


def given() -> list[dict[str, Any]]:
    """Examples, one of them too long for the model."""
    found = crashing.examples(EXAMPLES)
    found[70] = {**found[70], "question": "1 2 3 " * 200}
    return found


def capture(model: Any, store: Path, examples: Any = None, **options: Any) -> Any:
    return actstore.capture(
        model,
        families.tokenizer(),
        given() if examples is None else examples,
        store=store,
        **{**OPTIONS, **options},
    )


def finalized(store: Path, examples: Any = None, **options: Any) -> Finalized:
    return finalize(
        Source(given() if examples is None else examples),
        store=store,
        options=CaptureSettings(**{**OPTIONS, **options}),
        identity=Identity("tiny/llama", None),
    )


def windows_of_few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let windows end after some ten examples, as those of large vectors do."""
    defaults = {**(batching.windows.__kwdefaults__ or {}), "most_bytes": 100_000}
    monkeypatch.setattr(batching.windows, "__kwdefaults__", defaults)


def same(found: Any, alone: Any) -> bool:
    """Whether two captures have the same rows of the same examples, bit for bit."""
    ours, theirs = found.selection(), alone.selection()
    left_out = {"run_id", "captured_at", "row_id"}
    names = [name for name in ours.table().column_names if name not in left_out]
    return bool(
        ours.table(names).equals(theirs.table(names))
        and np.array_equal(ours.numpy(mixed=True), theirs.numpy(mixed=True))
    )


def test_every_piece_belongs_to_one_process() -> None:
    for world_size in (1, 3, 8):
        parts = [Part(rank=rank, world_size=world_size, size=64) for rank in range(world_size)]
        assert all(sum(part.has(number) for part in parts) == 1 for number in range(20))
        for total in (0, 1, 64, 65, 300, 1024):
            assert sum(part.share(total) for part in parts) == total


def test_a_part_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="the ranks are 0 to 3"):
        CaptureSettings(rank=4, world_size=4)
    with pytest.raises(UsageError, match="rank without world_size"):
        CaptureSettings(rank=1)
    with pytest.raises(UsageError, match="piece 0"):
        CaptureSettings(rank=0, world_size=2, piece=0)


def test_the_parts_together_are_the_capture_of_one_process_bit_for_bit(
    tmp_path: Path, model: Any, alone: Any
) -> None:
    store = tmp_path / "s"
    parts = [capture(model, store, rank=rank, world_size=2) for rank in (1, 0)]
    assert [part.examples + len(part.refused) for part in parts] == [64, 86]
    whole = capture(None, store)
    assert whole.skipped == EXAMPLES
    assert same(whole, alone)
    found = finalized(store)
    assert found.complete
    assert (found.world_size, found.piece, found.examples) == (2, 64, EXAMPLES)
    assert found.rows == len(alone.row_ids)
    assert ["604 tokens" in reason for _, reason in found.refused] == [True]
    assert found.without_rows["resid_post 2 prompt.last"] == 1


def test_windows_that_end_early_end_where_pieces_do(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many bytes an example: windows of a run in one go do not reach over the end of a piece."""
    windows_of_few_bytes(monkeypatch)
    alone = capture(model, tmp_path / "alone")
    for rank in range(2):
        capture(model, tmp_path / "s", rank=rank, world_size=2)
    assert same(capture(None, tmp_path / "s"), alone)


def test_a_part_that_was_broken_off_goes_on_alone(
    tmp_path: Path, model: Any, alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows_of_few_bytes(monkeypatch)
    store = tmp_path / "s"
    whole = capture(model, tmp_path / "alone")
    capture(model, store, rank=1, world_size=2)
    stopped = 0

    def stop(done: Any) -> None:
        nonlocal stopped
        stopped = done.examples
        if stopped >= 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture(model, store, rank=0, world_size=2, progress=stop)
    found = finalized(store)
    assert not found.complete
    assert set(found.missing_by_rank) == {0}
    rest = capture(model, store, rank=0, world_size=2)
    assert rest.resumed
    assert 22 < rest.examples < 86  # some of its first piece was there
    assert finalized(store).complete
    assert same(capture(None, store), whole)
    assert len(manifests.latest(store).runs) == 2


def test_another_number_of_processes_leaves_out_what_is_there(
    tmp_path: Path, model: Any, alone: Any
) -> None:
    store = tmp_path / "s"
    capture(model, store, rank=0, world_size=3)
    parts = [capture(model, store, rank=rank, world_size=2) for rank in range(2)]
    assert sum(part.skipped for part in parts) == 64
    assert finalized(store).complete
    assert same(capture(None, store), alone)


def test_engines_that_load_models_are_not_for_loaded_ones(tmp_path: Path, model: Any) -> None:
    with pytest.raises(UsageError, match=r"actstore capture --engine\s+ray"):
        capture(model, tmp_path / "s", engine="ray")


def test_more_processes_than_pieces(tmp_path: Path, model: Any) -> None:
    summary = capture(model, tmp_path / "s", rank=3, world_size=4)
    assert (summary.examples, summary.rows, summary.commit) == (0, 0, None)
    assert any("smaller pieces (--piece)" in note for note in summary.notes)


def test_what_a_process_has_not_captured_is_missing_by_rank(tmp_path: Path, model: Any) -> None:
    store = tmp_path / "s"
    with pytest.raises(NotInStoreError):
        finalized(store)
    capture(model, store, rank=1, world_size=3)
    found = finalized(store)
    assert not found.complete
    assert found.missing_by_rank == {0: 64, 2: 22}
    assert len(found.missing) == 86
    assert finalized(store, world_size=2, rank=0).missing_by_rank == {0: 86}


def test_rows_that_were_dropped_are_missing(tmp_path: Path, model: Any) -> None:
    store = tmp_path / "s"
    for rank in range(2):
        capture(model, store, rank=rank, world_size=2)
    assert finalized(store).complete
    snapshot = open_snapshot(store)
    gone = actstore.open(store).select(example_id="q5").rows
    drop_rows(snapshot, gone)
    snapshot.close()
    found = finalized(store)
    assert "q5" in " ".join(each.where for each in found.missing)
    assert set(found.missing_by_rank) == {0}


def test_the_same_part_twice_at_once_is_there_once(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run has the rows that it really stored: what the other brought is not missed."""
    from actstore.storage.writer import StoreWriter

    store = tmp_path / "s"
    commit = StoreWriter.commit
    again = False

    def first(self: StoreWriter, **options: Any) -> Any:
        nonlocal again
        if not again:
            again = True
            capture(model, store, rank=0, world_size=1)
        return commit(self, **options)

    monkeypatch.setattr(StoreWriter, "commit", first)
    capture(model, store, given()[:64], rank=0, world_size=1)
    monkeypatch.undo()
    assert finalized(store).complete


def test_the_digest_of_a_piece_tells_its_examples_and_their_order() -> None:
    examples = [Example(id=str(number), question="x") for number in range(10)]
    pieces = list(cut(iter(examples), 4))
    assert [(each.number, each.start, each.stop) for each in pieces] == [
        (0, 0, 4), (1, 4, 8), (2, 8, 10),
    ]  # fmt: skip
    again = Piece(number=9, start=36, examples=examples[4:8])
    assert again.digest() == pieces[1].digest()
    turned = Piece(number=1, start=4, examples=examples[7:3:-1])
    assert turned.digest() != pieces[1].digest()
    assert "examples 5 to 8" in str(pieces[1])


def test_how_much_of_a_piece_is_done() -> None:
    examples = [Example(id=str(number), question="x") for number in range(10)]
    (piece,) = cut(iter(examples), 10)
    chain = Chain()
    for example in examples[:6]:
        chain.add(example)
    begun = frozenset({(chain.count, short(chain))})
    assert done_of(piece, frozenset(), frozenset()) == 0
    assert done_of(piece, frozenset(), begun) == 6
    assert done_of(piece, frozenset(), frozenset({(5, short(chain))})) == 0
    assert done_of(piece, frozenset({piece.digest()}), begun) == 10
    with contextlib.suppress(StopIteration):
        next(cut(iter([]), 3))
        pytest.fail("a piece of nothing")
