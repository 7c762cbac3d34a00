"""Pieces of a capture: examples that follow one another and go to one of several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from actstore.capturing.forward.pooling import Pool, SiteLayer
from actstore.capturing.prompts.example import Example
from actstore.capturing.run.batching import Reached, Window
from actstore.capturing.run.resume import Chain
from actstore.capturing.run.stored_rows import StoredRows, covers
from actstore.errors import UsageError
from actstore.storage.manifest import Run
from actstore.workers.handing import Numbered


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which pieces are one process's: every ``world_size``-th, from number ``rank`` on.

    Examples are divided by their place in the source and not by a hash of their ids: examples
    that are neighbours there share a batch, so each process forms the batches that one process
    alone would form, and the values are the same, bit for bit.
    """

    rank: int
    world_size: int
    size: int
    """Examples of a piece."""

    def __post_init__(self) -> None:
        if self.world_size < 1:
            raise UsageError(f"world_size {self.world_size}: at least 1")
        if not 0 <= self.rank < self.world_size:
            raise UsageError(
                f"rank {self.rank}: of {self.world_size} processes the ranks are 0 to "
                f"{self.world_size - 1}"
            )
        if self.size < 1:
            raise UsageError(f"piece {self.size}: at least 1 example")

    def has(self, number: int) -> bool:
        """Say whether a piece is this process's."""
        return number % self.world_size == self.rank

    def share(self, total: int) -> int:
        """Return how many of so many examples are this process's."""
        starts = range(self.rank * self.size, total, self.world_size * self.size)
        return sum(min(self.size, total - start) for start in starts)

    def as_dict(self) -> dict[str, int]:
        """Return it as a run's record keeps it."""
        return {"rank": self.rank, "world_size": self.world_size, "piece": self.size}


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece(Numbered):
    """Some examples, and where they stand in the source."""

    start: int
    """Place of the first in the source."""
    examples: Sequence[Example]

    @property
    def stop(self) -> int:
        """Place after the last."""
        return self.start + len(self.examples)

    def digest(self) -> str:
        """Return a hash of what is asked: equal pieces of any source have the same one."""
        chain = Chain()
        for example in self.examples:
            chain.add(example)
        return short(chain)

    def __str__(self) -> str:
        return (
            f"piece {self.number} (examples {self.start + 1:,} to {self.stop:,}, from "
            f"{self.examples[0].where} on)"
        )


def short(chain: Chain) -> str:
    """Return as much of a chain's hash as a run's record keeps of a piece: there are many."""
    return chain.digest[:16]


def cut(examples: Iterable[Example], size: int) -> Iterator[Piece]:
    """Cut a source into pieces of ``size`` examples; the last one has what is left."""
    upcoming = iter(examples)
    number = 0
    while some := tuple(islice(upcoming, size)):
        yield Piece(number=number, start=number * size, examples=some)
        number += 1


def finished(
    runs: Iterable[Run], stored: StoredRows, places: Sequence[SiteLayer], pools: Sequence[Pool]
) -> frozenset[str]:
    """Return the digests of pieces that runs have finished for all these places and pools.

    Refused examples and empty regions have no rows: only the run's record says that it looked
    at them. It counts as long as all rows that the run stored are there.
    """
    return frozenset(
        digest
        for run in runs
        if (digests := run.settings.get("progress", {}).get("pieces"))
        and stored.whole(run)
        and all(covers(run, place, pool) for place in places for pool in pools)
        for digest in digests
    )


def begun_by(runs: Iterable[Run]) -> frozenset[tuple[int, str]]:
    """Return how far runs are with the piece that they are at: count and digest of examples."""
    begun = (run.settings.get("progress", {}).get("begun") for run in runs)
    return frozenset((int(count), str(digest)) for count, digest in filter(None, begun))


def done_of(piece: Piece, done: frozenset[str], begun: frozenset[tuple[int, str]]) -> int:
    """Return how many examples of a piece are done, from its first on.

    Args:
        piece: the piece.
        done: digests of pieces that are done.
        begun: count and digest of examples that a run has done of the piece that it was at.
    """
    there = 0
    chain = Chain()
    for example in piece.examples:
        chain.add(example)
        if any(count == chain.count for count, _ in begun) and (
            (chain.count, short(chain)) in begun
        ):
            there = chain.count
    return chain.count if short(chain) in done else there


def windows_of(
    piece: Piece, there: int, form: Callable[[Iterator[Example], int], Iterator[Window]]
) -> Iterator[Window]:
    """Yield the windows of what is left of a piece, each with how far it goes.

    Args:
        piece: the piece.
        there: how many of its examples are done.
        form: makes windows of examples that begin at a place in the source.
    """
    chain = Chain()
    for example in piece.examples[:there]:
        chain.add(example)
    own = not piece.again
    for window in form(iter(piece.examples[there:]), piece.start + there):
        for example in window.taken:
            chain.add(example)
        own = own and not window.skipped  # of skipped ones it is others that have the rows
        whole = chain.count == len(piece.examples)
        window.reached = Reached(chain.count, short(chain), whole, own)
        yield window
