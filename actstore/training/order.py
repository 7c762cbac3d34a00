"""Shuffled orders that can be entered anywhere: computed from a key, never stored."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt
from typing import Any, Literal, Protocol

import numpy as np

from actstore.errors import UsageError

Shuffle = Literal["none", "exact", "blocks"]
_ROUNDS = 8
_FEW = 1 << 14
"""Numbers whose order is kept as a table: 128 KiB."""
_CHUNK = 1 << 14
"""Positions permuted at a time: the intermediate numbers stay in the processor's cache."""
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)


class Permutation:
    """A random order of ``0`` to ``count - 1`` that takes no memory: a keyed bijection.

    A Feistel network over pairs of numbers whose product is just above ``count``; what falls
    outside goes through it again. Any part of the order is computed without the rest, and
    the same key gives the same order with every version of NumPy, whose own generators
    promise no such thing. Of few numbers, where such a network is not quite fair, the order
    is that of their keyed hashes.

    Args:
        count: how many numbers; at most 2**62.
        key: what the order is drawn from.
    """

    def __init__(self, count: int, key: str) -> None:
        self._count = count
        self._left = isqrt(max(count - 1, 0)) + 1
        self._right = max(1, -(-count // self._left))
        digest = hashlib.shake_256(key.encode()).digest(8 * _ROUNDS)
        self._keys = np.frombuffer(digest, "<u8").astype(np.uint64)
        self._table: np.ndarray | None = None
        if count <= _FEW:
            hashes = np.arange(count, dtype=np.uint64)
            for one in self._keys[:4]:
                hashes += one
                hashes *= _FIRST
                hashes ^= hashes >> _HALF
            self._table = np.argsort(hashes, kind="stable")

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return what stands at the given positions: int64, as many as were given."""
        if self._table is not None:
            return np.asarray(self._table[positions])
        out = np.empty(len(positions), np.int64)
        for start in range(0, len(positions), _CHUNK):
            chunk = self._scatter(positions[start : start + _CHUNK].astype(np.uint64))
            outside = np.flatnonzero(chunk >= self._count)
            while len(outside):
                again = self._scatter(chunk[outside])
                chunk[outside] = again
                outside = outside[again >= self._count]
            out[start : start + _CHUNK] = chunk
        return out

    def _scatter(self, numbers: np.ndarray) -> np.ndarray:
        right_size = np.uint64(self._right)
        left = numbers // right_size
        right = numbers - left * right_size
        for number, key in enumerate(self._keys):
            if number % 2:
                _add(right, left, key, self._right)
            else:
                _add(left, right, key, self._left)
        return np.asarray(left * right_size + right)


def _add(to: np.ndarray, of: np.ndarray, key: np.uint64, size: int) -> None:
    """Add a keyed hash of ``of`` to ``to``, modulo ``size``."""
    mixed = of + key
    mixed *= _FIRST
    mixed ^= mixed >> _HALF
    mixed *= _SECOND
    mixed >>= _HALF
    mixed *= np.uint64(size)  # 32 random bits become a number below size: no division
    mixed >>= _HALF
    to += mixed
    mixed = to - np.uint64(size)  # wraps around to something huge where `to` is below size
    np.minimum(to, mixed, out=to)


class Order(Protocol):
    """One pass over some rows."""

    def at(self, start: int, stop: int) -> np.ndarray:
        """Return which rows come as number ``start`` to ``stop``: int64, counted from 0."""


class InOrder:
    """Rows as they stand."""

    def at(self, start: int, stop: int) -> np.ndarray:
        return np.arange(start, stop)


class Exact:
    """All rows in one random order: any row may come anywhere."""

    def __init__(self, rows: int, key: str) -> None:
        self._permutation = Permutation(rows, key)

    def at(self, start: int, stop: int) -> np.ndarray:
        return self._permutation(np.arange(start, stop))


class Blocks:
    """Blocks of neighbouring rows in random order, and rows mixed within some blocks at a time.

    The rows form a ring that begins at a random row, so that each pass cuts the blocks
    elsewhere; the block that is left over comes last. A *window* is some blocks that follow
    one another in the random order: their rows are mixed with one another.

    Args:
        rows: how many rows.
        key: what the order is drawn from.
        block: rows in a block.
        window: rows in a window, a multiple of ``block``.
    """

    def __init__(self, rows: int, key: str, *, block: int, window: int) -> None:
        self._rows, self._key, self._block = rows, key, block
        self.window = window
        """Rows that are mixed with one another."""
        self._whole = rows // block
        self._order = Permutation(self._whole, f"{key}/blocks")
        digest = hashlib.sha256(f"{key}/first".encode()).digest()
        self._first = int.from_bytes(digest[:8], "little") % max(rows, 1)

    def at(self, start: int, stop: int) -> np.ndarray:
        parts = [np.empty(0, np.int64)]
        for number in range(start // self.window, -(-stop // self.window)):
            low = max(start, number * self.window)
            high = min(stop, (number + 1) * self.window)
            parts.append(self.members(number)[self.mixed(number, low, high)])
        return np.concatenate(parts)

    def members(self, number: int) -> np.ndarray:
        """Return the rows of a window, neighbours side by side."""
        places = np.arange(*self._bounds(number))
        block, inside = np.divmod(places, self._block)
        whole = np.flatnonzero(block < self._whole)
        block[whole] = self._order(block[whole])
        return np.asarray((block * self._block + inside + self._first) % self._rows)

    def mixed(self, number: int, start: int, stop: int) -> np.ndarray:
        """Return which of a window's members come as number ``start`` to ``stop`` of the pass."""
        low, high = self._bounds(number)
        mix = Permutation(high - low, f"{self._key}/window/{number}")
        return mix(np.arange(start - low, stop - low))

    def _bounds(self, number: int) -> tuple[int, int]:
        return number * self.window, min(self._rows, (number + 1) * self.window)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordering:
    """How rows are ordered in each pass; with the number of rows it says all."""

    shuffle: Shuffle = "none"
    seed: int = 0
    block: int = 0
    """Rows in a block, where blocks are shuffled."""
    window: int = 0
    """Rows that are mixed with one another, where blocks are shuffled."""

    def __post_init__(self) -> None:
        if self.shuffle == "blocks" and not 0 < self.block <= self.window:
            raise UsageError(
                f"blocks of {self.block} rows, mixed within {self.window}: a block holds at least "
                "one row, and a window at least one block"
            )

    def of(self, rows: int, epoch: int) -> Order:
        """Return the order of one pass over ``rows`` rows."""
        return _order(self, rows, epoch)

    def as_dict(self) -> dict[str, Any]:
        """Return what matters as plain values, for a state."""
        found: dict[str, Any] = {"shuffle": self.shuffle}
        if self.shuffle != "none":
            found["seed"] = self.seed
        if self.shuffle == "blocks":
            found |= {"block": self.block, "window": self.window}
        return found


@lru_cache(maxsize=8)
def _order(ordering: Ordering, rows: int, epoch: int) -> Order:
    key = f"actstore/1/{ordering.seed}/{epoch}"
    if ordering.shuffle == "none":
        return InOrder()
    if ordering.shuffle == "exact":
        return Exact(rows, key)
    window = ordering.window - ordering.window % ordering.block
    return Blocks(rows, key, block=ordering.block, window=window)
