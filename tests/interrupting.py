"""Ctrl-C in tests: heeded by them and by their child processes, whatever started the tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ctrl_c_heeded() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt here, and in every Python that is started meanwhile.

    A shell starts what runs behind it (`nohup make test &`) with SIGINT ignored. Children
    inherit that, and Python then installs no handler: they could not be interrupted at all.
    A handler, unlike that, is not inherited: a child starts with the system's default.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
