"""Progress bars on standard error: what is done, how fast, time left. Silent off a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from actstore.errors import MissingExtraError

if TYPE_CHECKING:
    from rich.progress import Progress


_shown: list[Progress] = []
"""Bars that are on the screen."""


class Report(Protocol):
    """Takes the bytes and rows done so far, and how many bytes there are once that is known."""

    def __call__(self, done: int, rows: int = 0, total: int | None = None) -> None: ...


class Count(Protocol):
    """Takes what is done, of how many, a remark, and something whose speed is shown."""

    def __call__(
        self, done: int, total: int | None, remark: str, speed_of: int, unit: str
    ) -> None: ...


@contextlib.contextmanager
def counting(title: str, expected: int | None = None, *, hidden: bool = False) -> Iterator[Count]:
    """Show a bar of things counted while the block runs, and how many are expected."""
    if hidden or not sys.stderr.isatty():
        yield _uncounted
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[remark]}"),
        progress.TimeRemainingColumn(),
    )
    shown = progress.Progress(*columns, console=Console(stderr=True), transient=True)
    with _on_screen(shown):
        task = shown.add_task(title, total=expected, remark="")
        began = time.monotonic()

        def report(done: int, total: int | None, remark: str, speed_of: int, unit: str) -> None:
            seconds = time.monotonic() - began
            speed = f", {speed_of / seconds:,.0f} {unit}/s" if seconds else ""
            shown.update(task, completed=done, total=total, remark=f"{remark}{speed}")

        yield report


def _uncounted(done: int, total: int | None, remark: str, speed_of: int, unit: str) -> None:
    """Show nothing."""


@contextlib.contextmanager
def bar(title: str, total_bytes: int | None = None, *, hidden: bool = False) -> Iterator[Report]:
    """Show a bar while the block runs; the block calls what it is given as work gets done."""
    if hidden or not sys.stderr.isatty():
        yield _silent
        return
    progress = _progress()
    with _on_screen(progress):
        task = progress.add_task(title, total=total_bytes, rows="")
        began = time.monotonic()

        def report(done: int, rows: int = 0, total: int | None = None) -> None:
            seconds = time.monotonic() - began
            speed = f"{rows:,} rows, {rows / seconds:,.0f} rows/s" if rows and seconds else ""
            progress.update(task, completed=done, total=total or total_bytes, rows=speed)

        yield report


@contextlib.contextmanager
def _on_screen(progress: Progress) -> Iterator[None]:
    with progress:
        _shown.append(progress)
        try:
            yield
        finally:
            _shown.remove(progress)


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Take bars off the screen while something is asked: they would draw over the answer, and
    what is printed above a bar is read as rich's markup, in which `[y/N]` is nothing."""
    for each in _shown:
        each.stop()
    try:
        yield
    finally:
        for each in _shown:
            each.start()


def _silent(done: int, rows: int = 0, total: int | None = None) -> None:
    """Show nothing."""


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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own bars and hints off a screen that is not a terminal."""
    try:
        from transformers.utils import logging
    except ImportError:
        raise MissingExtraError("capturing activations", "capture") from None
    level = logging.get_verbosity()
    shown = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
