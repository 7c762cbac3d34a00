"""Pieces of an ingest: cut by files and bytes alone, known again only while nothing has changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from actstore.ingestion import discovery, recipes
from actstore.ingestion.gate import Gate
from actstore.ingestion.options import checked_options
from actstore.ingestion.provenance import describe
from actstore.ingestion.reading import Reading
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.workers import pieces
from actstore.ingestion.workers.pieces import Finished, cut, fingerprint, finished, recorded
from actstore.storage.manifest import Run
from tests.ingestion.storing import stored_rows
from tests.layouts import amber


def file(number: int, size: int) -> SourceFile:
    path = Path(f"/not/there/{number}.pt")
    plain: Any = _Plain()  # nothing else of a pattern is looked at
    return SourceFile(
        path=path, relative=path.name, parts={}, pattern=plain, root=path, folder=path, size=size
    )


class _Plain:
    folder = False


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([1 << 10] * 20, [15, 5]),  # what opening takes counts
        ([60 << 20, 1 << 10, 1 << 30, 1 << 10], [1, 1, 1, 1]),
        ([1 << 30] * 200, [1] * 200),
        ([100 << 20] * 200, [4] * 50),  # a larger source has larger pieces
    ],
)
def test_pieces_are_cut_by_weight(sizes: list[int], expected: list[int]) -> None:
    files = [file(number, size) for number, size in enumerate(sizes)]
    made = list(cut(files, "x"))
    assert [len(piece.files) for piece in made] == expected
    assert [each for piece in made for each in piece.files] == files
    assert [piece.number for piece in made] == list(range(len(expected)))


def test_what_stands_together_is_in_one_piece() -> None:
    files = [file(number, 40 << 20) for number in range(6)]
    made = list(cut(files, "x", lambda file: int(file.relative[0]) // 3))
    assert [len(piece.files) for piece in made] == [3, 3]
    made = list(cut(files, "x", lambda file: int(file.relative[0]) > 0))
    assert [len(piece.files) for piece in made] == [1, 5]


def known(folder: Path, **options: Any) -> tuple[str, list[str]]:
    """The fingerprint of a source, and its pieces' digests."""
    read = checked_options(model="m", **options)
    found = discovery.discover([folder], recipe=recipes.load("amber"), options=read)
    reading = Reading(found=found, options=read, gate=Gate(), labels=None, contracted=False)
    mark = fingerprint(describe([folder], found.recipe, read), reading, reading.context())
    return mark, [piece.digest for piece in cut(found.files, mark)]


def test_a_piece_is_known_again_only_while_nothing_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "_LEAST", 2 * pieces._FILE + (64 << 10))
    amber.write_samples(tmp_path, samples=4, layers=1)
    mark, digests = known(tmp_path)
    assert len(digests) == 2
    assert known(tmp_path) == (mark, digests)
    assert known(tmp_path, dataset="d")[0] != mark
    assert set(known(tmp_path, dataset="d")[1]).isdisjoint(digests)
    touched = sorted(tmp_path.rglob("*.pt"))[-1]
    os.utime(touched, ns=(1, 1))
    assert known(tmp_path)[0] == mark
    assert known(tmp_path)[1][0] == digests[0]
    assert known(tmp_path)[1][1] != digests[1]
    (tmp_path / "table.csv").write_text("it may be a table")
    assert known(tmp_path)[0] != mark


def test_pieces_count_while_every_row_of_their_run_is_there(tmp_path: Path) -> None:
    from actstore.ingestion.run import ingest

    amber.write_samples(tmp_path / "in", samples=3, layers=2)
    ingest(tmp_path / "in", tmp_path / "s", model="m")
    run_id = stored_rows(tmp_path / "s")[0]["run_id"]
    for rows, there in ((6, True), (7, False)):
        note = recorded("mark", {"digest": Finished(3, 6)}, rows)
        run = Run(run_id=run_id, kind="ingest", started_at="", settings={pieces.SETTING: note})
        _record(tmp_path / "s", run)
        expected = {"digest": (run_id, Finished(3, 6))} if there else {}
        assert finished(tmp_path / "s", "mark") == expected
    assert finished(tmp_path / "s", "another") == {}
    assert finished(tmp_path / "nothing", "mark") == {}


def _record(store: Path, run: Run) -> None:
    """Put a run's record in the place of what is known of it."""
    from actstore.storage.transaction import Transaction

    with Transaction(store) as change:
        others = [each for each in change.base.runs if each.run_id != run.run_id]
        change.commit({}, lambda base: base.next(operation="test", message="", runs=[*others, run]))
