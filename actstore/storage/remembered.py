"""What this process knows of files that never change, until newer knowledge needs the room."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Remembered(Generic[Key, Value]):
    """Values by key, for all threads; those that were not asked for the longest are forgotten.

    It stays until the process ends, as what it registers for forks does: one for a module.

    Args:
        most: what all values may weigh together.
        weigh: says what one weighs; without it each is one.
    """

    def __init__(self, most: int, weigh: Callable[[Value], int] = lambda value: 1) -> None:
        self._most = most
        self._weigh = weigh
        self._found: OrderedDict[Key, Value] = OrderedDict()
        self._weight = 0
        self._renew()
        # Another thread of the parent may hold the lock at that moment, and never give it back.
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = Lock()

    def get(self, key: Key) -> Value | None:
        """Return what is known under a key."""
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
            return found

    def put(self, key: Key, value: Value) -> None:
        """Remember this, whatever was known under the key."""
        with self._lock:
            self._put(key, value)

    def shared(self, key: Key, value: Value) -> Value:
        """Return what is known under a key; if nothing is, remember and return ``value``."""
        with self._lock:
            found = self._found.get(key)
            if found is None:
                self._put(key, value)
            return value if found is None else found

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._found.clear()
            self._weight = 0

    def _put(self, key: Key, value: Value) -> None:
        before = self._found.pop(key, None)
        self._found[key] = value
        self._weight += self._weigh(value) - (0 if before is None else self._weigh(before))
        while self._found and self._weight > self._most:
            self._weight -= self._weigh(self._found.popitem(last=False)[1])
        if not self._found:  # an interrupt may have come between two of these
            self._weight = 0
