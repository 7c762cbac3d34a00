"""A capture that stores nothing: two batches are timed, and say what the whole run will take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from actstore.capturing.forward.engine import Captured
from actstore.capturing.run import estimate as estimates
from actstore.capturing.run.batch_runner import Runner
from actstore.capturing.run.batching import Window
from actstore.capturing.run.estimate import CaptureEstimate
from actstore.capturing.run.tables import StorageType
from actstore.errors import ExampleError
from actstore.models.blocks import HookPoint
from actstore.storage import narrowing
from actstore.storage.rows import RowBatch


def dry_run(
    runner: Runner,
    first: Window,
    upcoming: Iterator[Window],
    *,
    points: Sequence[HookPoint],
    dtype: StorageType | None,
    rows: Callable[[Sequence[Captured]], Iterable[RowBatch]],
    left: int | None,
    store: Path,
) -> tuple[CaptureEstimate, list[str]]:
    """Run two batches of the first window; return an estimate, and notes of what types would do.

    Args:
        runner: gets batches through the model.
        first: the first window that has something to do.
        upcoming: those after it.
        points: where in the model vectors are taken.
        dtype: what they would be stored in.
        rows: makes rows of batches.
        left: examples that are left to do; None where nobody knows before all are read.
        store: where they would be stored.

    Raises:
        ExampleError: none of the first examples can be captured.
        DiskSpaceError: the disk cannot hold the run.
    """
    groups = runner.groups(first)
    if not groups:
        reasons = "; ".join(each.reason for each in first.refused[:3])
        raise ExampleError(f"none of the first examples can be captured: {reasons}")
    with runner.engine:
        watch = estimates.MemoryWatch(runner.engine.device)
        longest, _, _ = runner.timed(first, groups[0], dtype)
        # Batches come longest first: the first one shows the memory, another one the pace.
        middle = groups[len(groups) // 2]
        captured, seconds, group = runner.timed(first, middle, dtype)
    padded = sum(runner.padded(first, each) for each in groups)
    pace = seconds / runner.padded(first, group)
    taken = left
    if taken is None:
        taken = len(first.taken) + sum(len(window.taken) for window in upcoming)
    share = taken / len(first.taken)
    batches, notes = _narrowed(list(rows([longest, captured])), dtype)
    examples = len(longest.examples) + len(captured.examples)
    each_has = sum(map(len, batches)) / examples
    todo = round(len(first.examples) * share)
    needed = int(estimates.bytes_per_example(batches, examples) * todo)
    needed += estimates.shard_overhead(len(points))
    found = CaptureEstimate(
        examples=todo,
        rows=round(each_has * todo),
        bytes=needed,
        free_bytes=estimates.free_bytes(store),
        peak_memory=watch.peak(),
        memory_of=str(runner.engine.device),
        seconds=round(pace * padded * share, 3),
    )
    estimates.check_space(store, found.bytes, found.free_bytes)
    return found, notes


def _narrowed(
    batches: list[RowBatch], dtype: StorageType | None
) -> tuple[list[RowBatch], list[str]]:
    """Return batches in the type that they would be stored in, with a note of what it costs."""
    narrow = narrowing.narrow_of(dtype)
    if narrow is None:
        saving = narrowing.Saving()
        for batch in batches:
            saving.add(batch.vectors)
        note = saving.note()
    else:
        batches = [part for batch in batches for part in narrowing.narrowed(batch, narrow)]
        kinds = [
            narrowing.Part(str(part.vectors.dtype), len(part), part.rounding) for part in batches
        ]
        note = narrowing.note(narrow, kinds)
    return batches, [f"of the two batches that were timed, {note}"] if note else []
