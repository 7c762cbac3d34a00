"""Keeps NumPy's BLAS to one thread while several threads of ours call it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

from actstore.storage.threads import workers


class _Held:
    """How many ask for one thread now, and what undoes it: the setting is the process's."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.count = 0
        self.limit: Any = None


_held = _Held()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let products of matrices use only the thread that calls them, if :func:`is_ours`.

    BLAS has a product done by threads of its own, one product at a time. Where ours prepare the
    next one meanwhile they take each other's processors, and a product waits for its slowest part:
    it took a third longer. What others multiply meanwhile takes longer, and is the same.
    """
    if not is_ours():
        yield
        return
    held = _held
    with held.lock:
        if not held.count:
            held.limit = _controller().limit(limits=1)
        held.count += 1
    try:
        yield
    finally:
        with held.lock:
            held.count -= 1
            if not held.count:
                held.limit.restore_original_limits()
                held.limit = None


def is_ours() -> bool:
    """Say whether that can be, and pays: where our threads are as many as the processors."""
    return (os.cpu_count() or 1) <= workers() and _controller() is not None


@cache
def _controller() -> Any:
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    found = ThreadpoolController().select(user_api="blas")
    return found if len(found) else None


def _renew() -> None:
    """Let a forked process begin anew: the threads that asked are its parent's."""
    global _held
    if _held.limit is not None:
        _held.limit.restore_original_limits()
    _held = _Held()


os.register_at_fork(after_in_child=_renew)
