"""The standard streams of a process: there, even where who started it has closed them."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import os
import sys
from typing import IO, Any

_kept: list[Any] = []
_ESCAPED = "actstore.escaped"
"""How characters are written that the output's encoding lacks: as JSON escapes them."""
_MODES = {0: ("stdin", "r"), 1: ("stdout", "w"), 2: ("stderr", "w")}


def open_closed() -> None:
    """Let closed streams lead nowhere, and remarks that nobody can take stop no work.

    Where standard output is closed, the next file that is opened would get its number, and what
    is printed would go into that file.
    """
    for number, (name, mode) in _MODES.items():
        if getattr(sys, name) is None:
            setattr(sys, name, _nowhere(number, mode))
    buffer = getattr(sys.stderr, "buffer", None)
    if buffer is not None:
        told = sys.stderr
        _kept.append(told)  # or it would close the stream with itself
        sys.stderr = _Remarks(
            buffer, encoding=told.encoding, errors=told.errors, line_buffering=True
        )


def escape_unwritable() -> None:
    """Let characters that standard output's encoding lacks come out as ``\\uXXXX``, not end work.

    JSON stays JSON of the same text so. ASCII says no more than that no locale was set, and
    ``click`` writes UTF-8 then; what is written without it must not differ.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error(_ESCAPED, _escaped)
        plain = codecs.lookup(sys.stdout.encoding).name == "ascii"
        encoding = "utf-8" if plain else sys.stdout.encoding
        sys.stdout.reconfigure(encoding=encoding, errors=_ESCAPED)


def _escaped(problem: UnicodeError) -> tuple[str, int]:
    if not isinstance(problem, UnicodeEncodeError):
        raise problem
    return json.dumps(problem.object[problem.start : problem.end])[1:-1], problem.end


def close_output() -> None:
    """Let standard output lead nowhere, or Python would try once more to write what it holds."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _nowhere(number: int, mode: str) -> IO[Any]:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere == number:
        os.set_inheritable(number, True)
        return os.fdopen(number, mode, encoding="utf-8", closefd=False)
    try:
        os.fstat(number)
    except OSError:
        os.dup2(nowhere, number)
        os.close(nowhere)
        return os.fdopen(number, mode, encoding="utf-8", closefd=False)
    return os.fdopen(nowhere, mode, encoding="utf-8", closefd=False)  # a file has its number


class _Remarks(io.TextIOWrapper):
    """Standard error, whose reader may go, or whose disk may be full, while work goes on."""

    def write(self, text: str) -> int:
        """Write a text if that can be done."""
        with contextlib.suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        """Flush if that can be done."""
        with contextlib.suppress(OSError):
            super().flush()

    def close(self) -> Any:
        """Close, whatever that says."""
        with contextlib.suppress(OSError):
            super().close()
