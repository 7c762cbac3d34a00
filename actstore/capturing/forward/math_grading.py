"""Grades mathematics through math-verify: is an answer the oracle, however it is written?"""

from __future__ import annotations

import threading
from typing import Any

from actstore.errors import MissingExtraError

_SECONDS = 5


def check_installed() -> None:
    """Refuse to grade where the package is missing.

    Raises:
        MissingExtraError: says how to install it.
    """
    try:
        import math_verify  # noqa: F401
    except ImportError:
        raise MissingExtraError("grading mathematics", "math") from None


def same(prediction: str, oracle: str) -> tuple[bool, str] | None:
    """Say whether the answer in a text equals the oracle, and how the text writes it.

    ``1/2``, ``0.5`` and ``\\frac{1}{2}`` are the same, with dollar signs or without. None if one of
    the two holds nothing that can be read as mathematics.
    """
    import math_verify

    # Its time limit is a signal's, which only the main thread may set.
    limit = _SECONDS if threading.current_thread() is threading.main_thread() else None

    def read(text: str) -> list[Any]:
        found: list[Any] = math_verify.parse(text, parsing_timeout=limit)
        return found

    # A bare `{1,2}` is read as LaTeX only between dollar signs.
    wanted = read(f"${oracle.strip().strip('$')}$") or read(oracle)
    found = read(prediction)
    if not wanted or not found:
        return None
    return bool(math_verify.verify(wanted, found, timeout_seconds=limit)), _written(found)


def _written(found: list[Any]) -> str:
    """Return the text that was read: math-verify gives it last."""
    return found[-1] if isinstance(found[-1], str) else ""
