"""Which examples run together: windows of the source, batches of like length in a window."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple

from actstore.capturing.prompts.example import Example
from actstore.capturing.run.summary import Refused
from actstore.errors import ExampleError, UsageError

BatchSize = int | Literal["auto"]

TOKENS = 4096
"""Tokens of a batch, padding included, that ``auto`` aims for."""
SERVED_TOKENS = 1 << 18
"""The same where a serving engine forms its own steps of them: only what is pooled is in memory."""
MOST = 256
"""Examples of a batch that ``auto`` does not go beyond."""
WINDOW = 512
"""Examples that are looked at together."""


def parse_batch_size(text: str | int) -> BatchSize:
    """Return a batch size as a number or ``auto``.

    Raises:
        UsageError: it is neither ``auto`` nor a number of at least 1.
    """
    if text == "auto":
        return "auto"
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise UsageError(f"batch size {text!r}: expected 'auto' or a number of at least 1")
    return number


def form(
    lengths: Sequence[int],
    *,
    batch_size: BatchSize = "auto",
    kinds: Sequence[Hashable] | None = None,
    tokens: int = TOKENS,
    most: int = MOST,
) -> list[list[int]]:
    """Put the examples of a window into batches of about equal length.

    Args:
        lengths: tokens of each example (the room for a response included, if any).
        batch_size: examples per batch, or ``auto``: as many as stay within ``tokens`` once
            padded to the longest, and within ``most``.
        kinds: examples of different kinds (with and without images) never share a batch.

    Returns:
        Positions into ``lengths``, each once. Longest batches come first: a run that does not
        fit into memory fails at once and not in its last hour. The same input gives the
        same batches; equal lengths keep the source's order.
    """
    order = sorted(range(len(lengths)), key=lambda at: (-lengths[at], at))
    open_batches: dict[Hashable, list[int]] = {}
    formed: list[list[int]] = []
    for at in order:
        kind = kinds[at] if kinds is not None else None
        batch = open_batches.get(kind)
        if batch is not None and not _full(batch, lengths, batch_size, tokens, most):
            batch.append(at)
        else:
            batch = open_batches[kind] = [at]
            formed.append(batch)
    return formed


def _full(
    batch: Sequence[int], lengths: Sequence[int], size: BatchSize, tokens: int, most: int
) -> bool:
    if size != "auto":
        return len(batch) >= size
    longest = max(1, lengths[batch[0]])  # they come in longest first
    return len(batch) >= most or (len(batch) + 1) * longest > tokens


WINDOW_BYTES = 192 << 20
"""Vector bytes of a window, of which a few are in memory at once."""
_PER_BATCH = 16
_LEAST = 64

Lengths = Callable[[Sequence[Example]], Sequence[int]]
_Length = int | Refused | None
"""Tokens, why it is refused, or None: it is left out."""


class Reached(NamedTuple):
    """How far a piece is done, in the run's own words: its record keeps them."""

    examples: int
    """How many of the piece are done."""
    digest: str
    """Of these examples."""
    whole: bool
    """Whether they are all of the piece."""
    own: bool
    """Whether the run has done all of them itself: only then does its record name them."""


@dataclass(slots=True, kw_only=True)
class Window:
    """Examples that are batched together and stored together."""

    start: int
    """Place of the first in the source."""
    examples: list[Example] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    """Place of each in the source."""
    lengths: list[int] = field(default_factory=list)
    """Tokens of each prompt."""
    refused: list[Refused] = field(default_factory=list)
    skipped: int = 0
    """Examples that the store has."""
    taken: list[Example] = field(default_factory=list)
    """All examples that the window covers, refused and skipped ones included."""
    reached: Reached | None = None
    """Of a capture in pieces: how far the piece is done with this window."""

    @property
    def stop(self) -> int:
        """Place after the last example."""
        return self.start + len(self.taken)


def window_size(batch_size: BatchSize) -> int:
    """Return how many examples a window has at most: enough batches to sort by length."""
    if batch_size == "auto":
        return WINDOW
    return max(_LEAST, min(WINDOW, batch_size * _PER_BATCH), batch_size)


def windows(
    source: Iterator[Example],
    lengths: Lengths,
    *,
    start: int,
    size: int,
    bytes_of: Callable[[int], int],
    most_bytes: int = WINDOW_BYTES,
    refuse: bool = True,
    skip: Callable[[Example], bool] = lambda example: False,
) -> Iterator[Window]:
    """Yield windows; where one ends depends on its place and the examples since then alone.

    A run that goes on at the end of a window therefore forms the windows that an unbroken
    run would have formed. None goes beyond a multiple of ``size``: a run that begins at one
    forms the windows of a run from the source's beginning on.

    Args:
        source: examples from place ``start`` on.
        lengths: returns the tokens of prompts.
        start: place of the first example in the source.
        size: examples of a window at most.
        bytes_of: returns the bytes of an example's rows, given its prompt's tokens.
        most_bytes: of a window; a single example may exceed it.
        refuse: put examples whose prompts cannot be made among the refused; else raise.
        skip: says which examples are left out, as the store has them.

    Raises:
        ExampleError: a prompt cannot be made, and ``refuse`` is off.
    """
    ahead: deque[tuple[Example, _Length]] = deque()
    while True:
        more = list(islice(source, size - len(ahead)))
        new = [example for example in more if not skip(example)]
        measured = iter(_measured(new, lengths, refuse))
        kept = {id(example) for example in new}
        ahead.extend(next(measured) if id(each) in kept else (each, None) for each in more)
        if not ahead:
            return
        window = Window(start=start)
        total = 0
        room = size - start % size
        while ahead and len(window.taken) < room:
            example, length = ahead[0]
            if isinstance(length, Refused):
                window.refused.append(length)
            elif length is None:
                window.skipped += 1
            else:
                needed = bytes_of(length)
                if window.examples and total + needed > most_bytes:
                    break
                total += needed
                window.positions.append(start + len(window.taken))
                window.examples.append(example)
                window.lengths.append(length)
            window.taken.append(example)
            ahead.popleft()
        start = window.stop
        yield window


def _measured(
    examples: Sequence[Example], lengths: Lengths, refuse: bool
) -> list[tuple[Example, _Length]]:
    if not examples:
        return []
    try:
        return list(zip(examples, lengths(examples), strict=True))
    except ExampleError:
        if not refuse:
            raise
    found: list[tuple[Example, _Length]] = []
    for example in examples:
        try:
            found.append((example, lengths([example])[0]))
        except ExampleError as error:
            found.append((example, Refused.by(example, error)))
    return found
