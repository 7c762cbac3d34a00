"""Which examples run together: windows by source position, batches by length within a window."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal, TypeVar

from actstore.errors import UsageError

BatchSize = int | Literal["auto"]
Item = TypeVar("Item")

TOKENS = 4096
"""Tokens of a batch, padding included, that ``auto`` aims for."""
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


def window(items: Iterable[Item], size: int = WINDOW) -> Iterator[list[Item]]:
    """Cut a stream into runs of ``size``, the last one shorter.

    Where a window begins depends on the source alone, so a run that is taken up again
    forms the same windows.
    """
    if size < 1:
        raise UsageError(f"a window of {size} examples: at least 1")
    stream = iter(items)
    while run := list(islice(stream, size)):
        yield run


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


def padding(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Return the share of a window's positions that are padding (0 to 1)."""
    real = sum(lengths[at] for batch in batches for at in batch)
    all_positions = sum(len(batch) * max(lengths[at] for at in batch) for batch in batches)
    return 1 - real / all_positions if all_positions else 0.0
