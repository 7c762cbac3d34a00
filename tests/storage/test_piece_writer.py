"""Writers of one run tell rows of each other from rows of strangers."""

from __future__ import annotations

from pathlib import Path

import pytest

from actstore.errors import ConflictError
from actstore.storage import manifest as manifests
from actstore.storage.piece_writer import PieceWriter
from tests.storage.stores import RUN, assert_sound, batch, content, expected, write


def test_what_came_meanwhile_is_a_repeat_where_the_run_has_brought_it(tmp_path: Path) -> None:
    root = tmp_path / "s"
    with PieceWriter(root, run=RUN) as writer:
        writer.add(batch(0, 9))
        write(root, batch(0, 2))
        own = {entry.path for entry in manifests.latest(root).shards}
        write(root, batch(5, 3))
        writer.own |= own
        writer.commit(operation="ingest", message="")
        assert writer.left_out == (5, 2, 2 * 8 * 2)
        before = writer.left_out
        writer.add(batch(20, 1))
        writer.commit(operation="ingest", message="")
        assert writer.left_out.since(before) == (0, 0, 0)
    assert content(root) == expected(batch(0, 9), batch(20, 1))
    assert_sound(root)


def test_a_label_that_differs_within_a_run_is_the_source_s_own_matter(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write(root, batch(0, 3, label="yes"))
    for own, expected_counts in ((False, (0, 2, 2, 0)), (True, (0, 2, 0, 2))):
        with PieceWriter(root, run=RUN) as writer:
            if own:
                writer.own |= {entry.path for entry in manifests.latest(root).shards}
            assert writer.add(batch(0, 2, label="no"))[:4] == expected_counts


def test_rows_that_were_rounded_are_to_be_read_again(tmp_path: Path) -> None:
    root = tmp_path / "s"
    with PieceWriter(root, run=RUN, narrow="int8") as writer:
        writer.add(batch(0, 9, dtype="float32"))
        write(root, batch(0, 2, dtype="float32"), narrow="int8")
        writer.own |= {entry.path for entry in manifests.latest(root).shards}
        with pytest.raises(ConflictError, match="rows of another piece"):
            writer.commit(operation="ingest", message="")
        assert writer.add(batch(0, 9, dtype="float32")).repeated == 2
        writer.commit(operation="ingest", message="")
    assert len(content(root)) == 9
    assert_sound(root)
