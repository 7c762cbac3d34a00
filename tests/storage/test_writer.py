"""Writing sessions: what is kept, skipped, refused and rolled back, against plain dictionaries."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore.errors import (
    CommitError,
    ConflictError,
    CorruptStoreError,
    LayoutError,
    PathError,
    StoreError,
    StoreNotFoundError,
    UsageError,
)
from actstore.storage import key_hashes, partition, shard, writer
from actstore.storage.manifest import Run
from actstore.storage.remembered import Remembered
from actstore.storage.rows import Added, RowBatch
from actstore.storage.snapshot import open_snapshot
from actstore.storage.writer import StoreWriter
from tests.storage.stores import (
    RUN,
    assert_sound,
    batch,
    card_files,
    content,
    expected,
    live_files,
    write,
)
from tests.torture.effort import examples


class Refused(Exception):
    """Stands for what a reader of source files raises."""


def test_rows_become_visible_at_the_commit(tmp_path: Path) -> None:
    root = tmp_path / "s"
    with StoreWriter(root, run=RUN) as session:
        assert session.add(batch(0, 5))[:4] == Added(5, 0)[:4]
        assert (session.pending_rows, session.pending_bytes) == (5, 80)
        with pytest.raises(StoreNotFoundError, match="no commit yet"):
            open_snapshot(root)
        assert session.commit(operation="ingest", message="first") == 1
        assert session.pending_rows == 0
        session.add(batch(5, 5, layer=None))
        assert content(root) == expected(batch(0, 5))
        assert session.commit(operation="capture", message="second") == 2
        assert session.commit(operation="capture", message="nothing") is None
        assert session.commits == [1, 2]
        session.add(batch(90, 5))
    assert content(root) == expected(batch(0, 5), batch(5, 5, layer=None))
    assert_sound(root)
    manifest = open_snapshot(root).manifest
    assert (manifest.operation, manifest.message, manifest.runs) == ("capture", "second", (RUN,))
    assert list((root / ".staging").iterdir()) == []


def test_the_same_rows_again_add_nothing(tmp_path: Path) -> None:
    root = tmp_path / "s"
    batches = [batch(0, 5), batch(0, 5, layer=None), batch(0, 3, dtype="float32", site="x")]
    assert write(root, *batches) == 1
    files = sorted(root.rglob("*"))
    assert write(root, *batches, run=Run(run_id="again", kind="ingest", started_at="")) is None
    with StoreWriter(root, run=RUN) as session:
        for one in batches:
            assert session.add(one) == Added(0, len(one))
        assert session.add(batch(3, 4))[:4] == Added(2, 2)[:4]
        assert session.add(batch(3, 4))[:4] == Added(0, 4, repeated=2)[:4]
    assert sorted(root.rglob("*")) == files


def test_a_key_with_another_vector_is_named_and_refused(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write(root, batch(0, 5))
    message = r"already stored with a different vector: model=org/model, .*example_id=e3, layer=3"
    with StoreWriter(root, run=RUN) as session:
        with pytest.raises(ConflictError, match=message):
            session.add(batch(3, 1, seed=1))
        session.add(batch(7, 1))
        with pytest.raises(ConflictError, match="example_id=e7"):
            session.add(batch(7, 1, seed=1))
        both = batch(0, 2)
        twice = RowBatch(
            vectors=both.vectors, constants=both.constants, columns={"example_id": ["x", "x"]}
        )
        with pytest.raises(ConflictError, match="example_id=x"):
            session.add(twice)
        session.commit(operation="ingest", message="")
    assert content(root) == expected(batch(0, 5), batch(7, 1))


def test_a_row_that_comes_a_thousand_times_in_one_batch(tmp_path: Path) -> None:
    one = batch(0, 1)
    again = RowBatch(
        vectors=np.repeat(one.vectors, 3000, axis=0),
        constants={**one.constants, "example_id": "e0"},
    )
    with StoreWriter(tmp_path / "s", run=RUN) as session:
        assert session.add(again)[:4] == Added(1, 2999, repeated=2999)[:4]
        session.commit(operation="ingest", message="")
    assert content(tmp_path / "s") == expected(one)


def test_float32_that_holds_the_same_values_is_the_same_row(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write(root, batch(0, 3))
    one = batch(0, 3)
    wide = RowBatch(
        vectors=one.vectors.astype(np.float32), constants=one.constants, columns=one.columns
    )
    with StoreWriter(root, run=RUN) as session:
        assert session.add(wide)[:4] == Added(0, 3)[:4]
        finer = wide.vectors + np.float32(1e-6)
        with pytest.raises(ConflictError):
            session.add(RowBatch(vectors=finer, constants=one.constants, columns=one.columns))


def test_labels_that_differ_are_counted_and_not_a_conflict(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write(root, batch(0, 3, label="a"))
    with StoreWriter(root, run=RUN) as session:
        assert session.add(batch(0, 3, label="b"))[:4] == Added(0, 3, 3)[:4]
        assert session.add(batch(0, 3))[:4] == Added(0, 3, 0)[:4]


@pytest.mark.parametrize("stored", [True, False])
def test_another_width_is_refused(tmp_path: Path, stored: bool) -> None:
    with StoreWriter(tmp_path / "s", run=RUN) as session:
        session.add(batch(0, 3))
        if stored:
            session.commit(operation="ingest", message="")
        message = r"org/model, resid_post, layer 3 have width 9, the store holds width 8 there"
        with pytest.raises(LayoutError, match=message):
            session.add(batch(3, 3, width=9))
        assert session.add(batch(3, 3, width=9, layer=4))[:4] == Added(3, 0)[:4]


def test_a_width_that_was_rolled_back_does_not_count(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", run=RUN) as session:
        with suppress(Refused), session.file():
            session.add(batch(0, 3))
            raise Refused
        assert session.add(batch(0, 3, width=9))[:4] == Added(3, 0)[:4]


def test_a_disk_that_fails_while_rows_are_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stays of a block is read back from the file: where that fails, nothing is pending."""
    monkeypatch.setattr(shard, "_CHUNK", 64)
    root = tmp_path / "s"
    write(root, batch(90, 1))
    with StoreWriter(root, run=RUN) as session:
        session.add(batch(0, 6))
        (growing,) = session._open.values()

        def add_and_lose_the_file() -> None:
            with session.file():
                session.add(batch(6, 6))
                unreadable = os.open(growing.path, os.O_WRONLY)
                os.dup2(unreadable, growing._descriptor)
                os.close(unreadable)
                raise Refused

        with pytest.raises(CommitError, match=rf"Bad file descriptor: '{growing.path}'"):
            add_and_lose_the_file()
        assert session.pending_rows == 0
        session.add(batch(0, 6))
        session.commit(operation="ingest", message="again")
    assert content(root) == expected(batch(90, 1), batch(0, 6))


def test_a_file_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    root = tmp_path / "s"
    with StoreWriter(root, run=RUN) as session:
        with session.file():
            session.add(batch(0, 4))
        with suppress(Refused), session.file():
            session.add(batch(4, 4))
            session.add(batch(0, 4, layer=9))
            raise Refused
        with suppress(ConflictError), session.file():
            session.add(batch(20, 4))
            session.add(batch(0, 4, seed=5))
        with session.file():
            session.add(batch(8, 4))
        session.commit(operation="ingest", message="")
    assert content(root) == expected(batch(0, 4), batch(8, 4))
    assert_sound(root)
    assert list((root / ".staging").iterdir()) == []


def test_no_commit_inside_a_file(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", run=RUN) as session, session.file():
        session.add(batch(0, 4))
        with pytest.raises(UsageError, match="commit between files"):
            session.commit(operation="ingest", message="")


def test_checkpoints_come_between_files_once_enough_is_pending(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", run=RUN, checkpoint_bytes=100) as session:
        session.add(batch(0, 6))
        assert session.checkpoint() is None
        session.add(batch(6, 6))
        assert session.checkpoint() == 1
        assert session.checkpoint() is None
    assert "in progress" in open_snapshot(tmp_path / "s").manifest.message
    with StoreWriter(tmp_path / "s", run=RUN, checkpoint_bytes=None) as session:
        session.add(batch(12, 600))
        assert session.checkpoint() is None


def test_shards_end_when_they_are_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SHARD_BYTES", 100)
    monkeypatch.setattr(shard, "GROUP_BYTES", 48)
    root = tmp_path / "s"
    with StoreWriter(root, run=RUN) as session:
        for first in range(0, 30, 4):
            with session.file():
                session.add(batch(first, 4))
        session.commit(operation="ingest", message="")
    assert [entry.rows for entry in open_snapshot(root).shards] == [8, 8, 8, 8]
    matrix = np.concatenate([batch(first, 4).vectors for first in range(0, 30, 4)])
    opened = open_snapshot(root)
    assert opened.gather(np.arange(32)).tobytes() == matrix.tobytes()
    assert_sound(root)


def test_a_batch_may_hold_several_layers_models_and_sites(tmp_path: Path) -> None:
    root = tmp_path / "s"
    layers: list[int | None] = [1, None, -1, 1, 1000, 1]
    matrix = batch(0, 6).vectors
    mixed = RowBatch(
        vectors=matrix,
        constants={"pooling": "last", "example_id": "e"},
        columns={
            "layer": [np.int64(layer) if layer == 1000 else layer for layer in layers],
            "model": ["a/b", "a/b", "a/b", "c", "a/b", "a/b"],
            "site": ["x", "x", "x", "x", "x", "y"],
        },
    )
    write(root, mixed)
    snapshot = open_snapshot(root)
    assert [entry.partition for entry in snapshot.shards] == [
        ("a/b", "x", -1),
        ("a/b", "x", 1),
        ("a/b", "x", 1000),
        ("a/b", "x", None),
        ("a/b", "y", 1),
        ("c", "x", 1),
    ]
    folders = [entry.path.rpartition("/")[0] for entry in snapshot.shards]
    assert folders == [
        "activations/a--b/x/layer_embed",
        "activations/a--b/x/layer_001",
        "activations/a--b/x/layer_1000",
        "activations/a--b/x/layer_unknown",
        "activations/a--b/y/layer_001",
        "activations/c/x/layer_001",
    ]
    order = [2, 0, 4, 1, 5, 3]
    assert snapshot.gather(np.arange(6)).tobytes() == matrix[order].tobytes()
    assert_sound(root)
    with StoreWriter(root, run=RUN) as session:
        assert session.add(mixed)[:4] == Added(0, 6)[:4]


def test_rows_of_several_layers_may_lie_mixed_up_in_one_batch(tmp_path: Path) -> None:
    root = tmp_path / "s"
    layers = [5, 2, 5, 5, None, 2, 5, None, 9]
    whole = batch(0, len(layers))
    mixed = RowBatch(
        vectors=whole.vectors,
        constants={name: value for name, value in whole.constants.items() if name != "layer"},
        columns={**whole.columns, "layer": layers},
    )
    with StoreWriter(root, run=RUN) as session:
        assert session.add(mixed)[:4] == Added(9, 0)[:4]
        session.commit(operation="ingest", message="")
    assert [entry.rows for entry in open_snapshot(root).shards] == [2, 4, 1, 2]
    assert content(root) == expected(mixed)


@pytest.mark.parametrize(
    "names",
    [
        ("a/b", "a--b"),
        ("模型", "モデル"),
        ("m x", "m?x"),
        ("..", "../.."),
        ("x" * 200, "x" * 201),
        ("metadata", "m.resid_post.layer_003"),
    ],
)
def test_models_whose_names_look_alike_stay_apart(tmp_path: Path, names: tuple[str, str]) -> None:
    root = tmp_path / "s"
    batches = [batch(0, 3, model=name, seed=at) for at, name in enumerate(names)]
    batches.append(batch(0, 2, model="m", seed=7))
    write(root, *batches[:2])
    write(root, batches[2])
    assert content(root) == expected(*batches)
    assert_sound(root)
    files = card_files(root)
    assert files["metadata"] == live_files(root)
    assert sorted({path for name in files if name != "metadata" for path in files[name]}) == (
        live_files(root)
    )
    with StoreWriter(root, run=RUN) as session:
        for one in batches:
            assert session.add(one) == Added(0, len(one))


def test_two_types_of_one_layer(tmp_path: Path) -> None:
    root = tmp_path / "s"
    batches = [batch(0, 3), batch(3, 3, dtype="float32"), batch(6, 3)]
    write(root, *batches)
    opened = open_snapshot(root)
    assert [(entry.dtype, entry.rows) for entry in opened.shards] == [
        ("float16", 6),
        ("float32", 3),
    ]
    assert content(root) == expected(*batches)
    assert_sound(root)


def test_strange_texts_survive(tmp_path: Path) -> None:
    root = tmp_path / "s"
    texts = ["", " ", "\0", "\n\r\u2028", "é", "e\u0301", "🦊", "\U0010ffff", "null", "x" * 100_000]
    matrix = batch(0, len(texts)).vectors
    ids = [f"{text}!" for text in texts]
    odd = RowBatch(
        vectors=matrix,
        constants={"model": "m", "site": "s", "pooling": "last"},
        columns={"example_id": ids, "question": texts, "mode": texts},
    )
    write(root, odd)
    assert content(root) == expected(odd)
    with StoreWriter(root, run=RUN) as session:
        assert session.add(odd) == Added(0, len(texts))


@pytest.fixture
def colliding() -> Iterator[None]:
    """Let every value have the same hash."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_hashes, "_hash", lambda value: key_hashes._NULL)
        # Other tests' shards are equal.
        patch.setattr(partition, "_known", Remembered(1 << 20, partition._weight))
        key_hashes._cell.cache_clear()
        yield
    key_hashes._cell.cache_clear()


@pytest.mark.usefixtures("colliding")
def test_hashes_that_collide_neither_lose_nor_double_rows(tmp_path: Path) -> None:
    root = tmp_path / "s"
    with StoreWriter(root, run=RUN) as session:
        assert session.add(batch(0, 4))[:4] == Added(4, 0)[:4]
        assert session.add(batch(2, 4))[:4] == Added(2, 2, repeated=2)[:4]
        with suppress(Refused), session.file():
            assert session.add(batch(6, 2))[:4] == Added(2, 0)[:4]
            raise Refused
        assert session.add(batch(0, 7))[:4] == Added(1, 6, repeated=6)[:4]
        with pytest.raises(ConflictError, match="example_id=e4"):
            session.add(batch(4, 1, seed=1))
        session.commit(operation="ingest", message="")
        assert session.add(batch(0, 7))[:4] == Added(0, 7, repeated=7)[:4]
        with pytest.raises(ConflictError, match="example_id=e5"):
            session.add(batch(5, 1, seed=1))
        assert session.add(batch(7, 1))[:4] == Added(1, 0)[:4]
        session.commit(operation="ingest", message="")
    assert content(root) == expected(batch(0, 8))
    assert_sound(root)
    with StoreWriter(root, run=RUN) as session:
        assert session.add(batch(0, 9))[:4] == Added(1, 8)[:4]


def test_a_session_after_a_failed_commit_starts_afresh(tmp_path: Path) -> None:
    root = tmp_path / "s"
    with StoreWriter(root, run=RUN) as session:
        session.add(batch(0, 4))
        write(root, batch(2, 1, seed=1))
        with pytest.raises(ConflictError, match=r"another writer .* example_id=e2"):
            session.commit(operation="ingest", message="")
        assert session.pending_rows == 0
        assert session.add(batch(0, 2))[:4] == Added(2, 0)[:4]  # they were given up, and come again
        with pytest.raises(ConflictError, match="example_id=e2"):
            session.add(batch(2, 2))
        session.add(batch(0, 2))
        session.commit(operation="ingest", message="")
    assert content(root) == expected(batch(0, 2), batch(2, 1, seed=1))
    assert_sound(root)


def test_a_folder_with_other_things_is_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StoreError, match=r"not empty \(it holds thesis\.tex\)"):
        StoreWriter(tmp_path, run=RUN)
    with pytest.raises(PathError, match="is a file; a folder is needed here"):
        StoreWriter(tmp_path / "thesis.tex", run=RUN)
    with pytest.raises(PathError, match="cannot be opened: Not a directory"):
        StoreWriter(tmp_path / "thesis.tex" / "s", run=RUN)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_store_is_not_written_to(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write(root, batch(7310, 2))  # whose keys no other test has read: a process reads them once
    shard_file = root / live_files(root)[0]
    shard_file.write_bytes(b"PAR1" + bytes(shard_file.stat().st_size - 4))
    with (
        StoreWriter(root, run=RUN) as session,
        pytest.raises(CorruptStoreError, match="is damaged"),
    ):
        session.add(batch(2, 2))
    (root / "manifests" / "0000000001.json").write_text("{")
    with pytest.raises(CorruptStoreError, match=r"0000000001\.json is damaged"):
        StoreWriter(root, run=RUN)


_options = st.fixed_dictionaries(
    {
        "layer": st.sampled_from([None, -1, 0, 7]),
        "model": st.sampled_from(["m", "n/m"]),
        "dtype": st.sampled_from(["float16", "float32"]),
        "mode": st.sampled_from([None, "vqa"]),
    }
)


@settings(deadline=None, max_examples=examples(15))
@given(st.data())
def test_any_session_against_a_dictionary(data: st.DataObject) -> None:
    """Files of several batches, some refused, commits in between, sessions reopened."""
    committed: dict[Any, Any] = {}
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)  # nobody pulls the plug here
        patch.setattr(shard, "GROUP_BYTES", data.draw(st.sampled_from([16, 100, 1 << 20])))
        patch.setattr(writer, "SHARD_BYTES", data.draw(st.sampled_from([64, 1 << 20])))
        patch.setattr(writer, "_BUFFER_BYTES", data.draw(st.sampled_from([64, 1 << 20])))
        root = Path(folder) / "s"
        for number in range(data.draw(st.integers(1, 3), "sessions")):
            run = Run(run_id=f"run{number}", kind="ingest", started_at="")
            with StoreWriter(root, run=run) as session:
                pending = dict(committed)
                for _ in range(data.draw(st.integers(1, 5), "files")):
                    kept = dict(pending)
                    refuse = data.draw(st.booleans(), "refuse")
                    with suppress(Refused, ConflictError), session.file():
                        for _ in range(data.draw(st.integers(1, 3), "batches")):
                            options: dict[str, Any] = data.draw(_options)
                            first = data.draw(st.integers(0, 12))
                            one = batch(
                                first,
                                data.draw(st.integers(0, 6)),
                                seed=data.draw(st.sampled_from([0, 0, 0, 1])),
                                **options,
                            )
                            rows = expected(one)
                            known = {key: kept[key] for key in rows if key in kept}
                            added = session.add(one)
                            assert all(_equal(rows[key], known[key]) for key in known)
                            assert added[:2] == (len(rows) - len(known), len(known))
                            kept |= {key: rows[key] for key in rows if key not in kept}
                        if refuse:
                            raise Refused
                        pending = kept
                    if data.draw(st.booleans(), "commit"):
                        session.commit(operation="ingest", message="")
                        committed = dict(pending)
                    assert session.pending_rows == len(pending) - len(committed)
            if committed:
                assert content(root) == committed
        if committed:
            assert_sound(root)
            assert card_files(root)["metadata"] == live_files(root)


def _equal(left: tuple[str, bytes, Any], right: tuple[str, bytes, Any]) -> bool:
    """Compare two vectors as the store does: by bits, float16 widened."""
    one, other = (np.frombuffer(found[1], found[0]).astype(np.float32) for found in (left, right))
    return one.tobytes() == other.tobytes()
