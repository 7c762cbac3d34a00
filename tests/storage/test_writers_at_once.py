"""Several processes work on one store at once, and every reader sees whole commits meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from actstore.errors import CommitError, ConflictError
from actstore.storage import manifest as manifests
from actstore.storage.compaction import compact
from actstore.storage.labels import set_labels
from actstore.storage.manifest import Run
from actstore.storage.snapshot import open_snapshot
from actstore.storage.writer import StoreWriter
from tests.children import children
from tests.storage.stores import (
    assert_sound,
    batch,
    card_commit,
    card_files,
    content,
    expected,
    live_files,
    write,
)

CONFLICT, FAILED = 5, 6


def add(root: Path, name: str, firsts: list[int], seed: int, start: float) -> None:
    """Add files of three rows in two layers each, a commit after every other one."""
    _wait(start)
    try:
        with StoreWriter(root, run=Run(run_id=name, kind="ingest", started_at="")) as session:
            for number, first in enumerate(firsts):
                with session.file():
                    session.add(batch(first, 3, layer=0, seed=seed))
                    session.add(batch(first, 3, layer=1, seed=seed))
                if number % 2:
                    session.commit(operation="ingest", message=name)
            session.commit(operation="ingest", message=name)
    except ConflictError as error:
        raise SystemExit(CONFLICT if "example_id=" in str(error) else FAILED) from error


def label_often(root: Path, times: int, start: float) -> None:
    """Set all labels again and again; being overtaken by a compaction is no failure."""
    _wait(start)
    for number in range(times):
        snapshot = open_snapshot(root)
        try:
            labels = [f"label {number}"] * snapshot.rows
            set_labels(snapshot, np.arange(snapshot.rows), labels, message="")
        except CommitError as error:
            if "was compacted" not in str(error):
                raise
        finally:
            snapshot.close()


def compact_often(root: Path, times: int, start: float) -> None:
    """Compact again and again."""
    _wait(start)
    for _ in range(times):
        try:
            compact(root)
        except CommitError as error:
            if "changed by others" not in str(error):
                raise


def read_often(root: Path, seconds: float, start: float) -> None:
    """Read whatever is the latest commit: each is whole, and none goes backwards."""
    _wait(start)
    rows = 0
    while time.time() < start + seconds:
        snapshot = open_snapshot(root)
        found = content(snapshot)
        assert len(found) == snapshot.rows >= rows
        assert len(found) % 2 == 0  # both layers of a file come together
        rows = snapshot.rows
        snapshot.close()


def _wait(start: float) -> None:
    time.sleep(max(0.0, start - time.time()))


def together(*works: tuple[Callable[..., None], tuple[object, ...]]) -> list[int]:
    """Run functions in processes that begin at the same moment; return their exit codes."""
    start = time.time() + 0.3
    running = [children.Process(target=work, args=(*given, start)) for work, given in works]
    for process in running:
        process.start()
    for process in running:
        process.join(120)
    codes = [process.exitcode for process in running]
    assert None not in codes
    return [code for code in codes if code is not None]


def assert_clean(root: Path) -> None:
    """Check the latest commit, its card, and that nobody left anything behind."""
    assert_sound(root)
    assert card_commit(root) == manifests.numbers(root)[-1]
    assert card_files(root)["metadata"] == live_files(root)
    assert list((root / ".staging").iterdir()) == []
    named: set[str] = set()
    for number in manifests.numbers(root):
        named |= {entry.path for entry in manifests.load(root, number).shards}
    found = {file.relative_to(root).as_posix() for file in (root / "activations").rglob("*.*")}
    assert found == named


def rows_of(*firsts: int) -> dict[object, object]:
    """Return the content of a store of those files."""
    return dict(
        expected(*(batch(first, 3, layer=layer) for first in firsts for layer in (0, 1))).items()
    )


@pytest.mark.parametrize("writers", [2, 4])
def test_disjoint_sources(tmp_path: Path, writers: int) -> None:
    root = tmp_path / "s"
    shares = [list(range(30 * number, 30 * number + 30, 3)) for number in range(writers)]
    works = [(add, (root, f"w{number}", share, 0)) for number, share in enumerate(shares)]
    assert together(*works) == [0] * writers
    assert content(root) == rows_of(*range(0, 30 * writers, 3))
    assert_clean(root)
    runs = {run.run_id for run in open_snapshot(root).manifest.runs}
    assert runs == {f"w{number}" for number in range(writers)}


@pytest.mark.parametrize("writers", [2, 4])
def test_the_same_source(tmp_path: Path, writers: int) -> None:
    """Some begin at its end, so that all sorts of overlap come up."""
    root = tmp_path / "s"
    firsts = list(range(0, 36, 3))
    works = [
        (add, (root, f"w{number}", firsts[::-1] if number % 2 else firsts, 0))
        for number in range(writers)
    ]
    assert together(*works) == [0] * writers
    assert content(root) == rows_of(*firsts)
    assert_clean(root)


def test_rows_that_contradict(tmp_path: Path) -> None:
    """Whoever comes second learns which row it is; the first one's rows stand."""
    root = tmp_path / "s"
    codes = together(
        (add, (root, "a", [0, 3, 6, 9], 0)),
        (add, (root, "b", [9, 30, 33, 36], 1)),
    )
    assert sorted(codes) in ([0, CONFLICT], [CONFLICT, CONFLICT])
    assert_clean(root)
    found = content(root)
    first, second = (
        expected(*(batch(9, 3, layer=layer, seed=seed) for layer in (0, 1))) for seed in (0, 1)
    )
    stored = {key: found[key] for key in first if key in found}
    assert stored in (first, second)


def test_writers_labels_compaction_and_readers(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write(root, batch(900, 3, layer=0), batch(900, 3, layer=1))
    shares = [list(range(30 * number, 30 * number + 30, 3)) for number in range(2)]
    codes = together(
        (add, (root, "a", shares[0], 0)),
        (add, (root, "b", shares[1], 0)),
        (label_often, (root, 8)),
        (compact_often, (root, 5)),
        (read_often, (root, 1.5)),
    )
    assert codes == [0] * 5
    found = content(root)
    wanted = rows_of(*range(0, 60, 3), 900)
    assert found.keys() == wanted.keys()
    without_labels = {key: (*row[:2], None) for key, row in found.items()}
    assert without_labels == wanted
    assert any(label is not None for _, _, label in found.values())
    assert_clean_but_pruned(root)


def assert_clean_but_pruned(root: Path) -> None:
    """Check as :func:`assert_clean`, and that compaction and labels left nothing either."""
    assert_clean(root)
    named: set[str] = set()
    for number in manifests.numbers(root):
        named |= {entry.path for entry in manifests.load(root, number).labels}
    found = {file.relative_to(root).as_posix() for file in (root / "labels").rglob("*.*")}
    assert found == named
