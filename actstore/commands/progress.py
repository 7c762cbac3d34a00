"""A progress bar on standard error: bytes, rows per second, time left. Silent off a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

Report = Callable[[int, int], None]
"""Takes the bytes and rows done so far."""


@contextlib.contextmanager
def bar(title: str, total_bytes: int | None = None, *, hidden: bool = False) -> Iterator[Report]:
    """Show a bar while the block runs; the block calls what it is given as work gets done."""
    if hidden or not sys.stderr.isatty():
        yield lambda done, rows: None
        return
    progress = _progress()
    with progress:
        task = progress.add_task(title, total=total_bytes, rows="")
        began = time.monotonic()

        def report(done: int, rows: int) -> None:
            seconds = time.monotonic() - began
            speed = f"{rows:,} rows, {rows / seconds:,.0f} rows/s" if rows and seconds else ""
            progress.update(task, completed=done, rows=speed)

        yield report


def _progress() -> Progress:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TextColumn("{task.fields[rows]}"),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        # The result follows on standard output; a finished bar would only stand in its way.
        transient=True,
    )
