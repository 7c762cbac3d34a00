"""Which rows of an order each rank and worker gets in each step, from any place on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from actstore.errors import TooFewRowsError, UsageError
from actstore.training.order import Ordering


class Place(NamedTuple):
    """Where a pass stands."""

    epoch: int
    """Number of the pass, from 0."""
    position: int
    """Rows of it that are done: by all ranks together; by each where blocks are shuffled."""


class Step(NamedTuple):
    """One batch of one rank."""

    epoch: int
    start: int
    """First of its rows, as a number in the order of the pass."""
    stop: int
    after: Place
    """Where the pass stands when the batch is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the rows of each pass are dealt out.

    A step takes the next ``size * world_size`` rows of the order and gives each rank ``size``
    of them, so what all ranks get together is one and the same for any number of them. Fewer
    rows are left for the last step of a pass: the ranks share them, their shares differing
    by one row at most. Where fewer rows than ranks are left, some ranks get no last batch.
    With ``drop_last`` every rank gets the same number of full batches, and the rows that are
    left over are not used in this pass.

    Where blocks are shuffled, each rank instead has one run of the order to itself, the
    runs differing by one row at most: blocks travel to one rank only.
    """

    rows: int
    size: int
    ordering: Ordering
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False
    first_epoch: int = 0
    epochs: int | None = 1
    """How many passes; None for passes without end."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(f"a batch holds at least one row, got size={self.size}")
        if self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise UsageError(
                f"ranks go from 0 to world_size - 1, got rank={self.rank} of "
                f"world_size={self.world_size}"
            )
        if self.first_epoch < 0 or (self.epochs is not None and self.epochs < 0):
            raise UsageError(
                f"passes are counted from 0, got epoch={self.first_epoch} and epochs={self.epochs}"
            )
        if self.epochs == 0 or (not self.rows and self._plain):
            return
        if not self.rows:
            raise TooFewRowsError("there are no rows to make batches of: nothing was selected")
        if self.drop_last and not self._count():
            raise TooFewRowsError(
                f"{self.rows} rows make no full batch of {self.size} for each of "
                f"{self.world_size} ranks, and drop_last leaves out all others: use a size of at "
                f"most {self.rows // self.world_size}, or drop_last=False"
            )
        if self.epochs is None and not self._count():
            raise TooFewRowsError(
                f"{self.rows} rows give rank {self.rank} of {self.world_size} nothing, however "
                "often they are passed through: use fewer ranks"
            )

    @property
    def _plain(self) -> bool:
        """Whether this is one pass over rows as they stand, in which none may well be right."""
        return self.ordering.shuffle == "none" and self.epochs == 1 and self.world_size == 1

    @property
    def start(self) -> Place:
        """Where everything begins."""
        return Place(self.first_epoch, 0)

    def steps(self, place: Place, lane: int = 0, lanes: int = 1) -> Iterator[Step]:
        """Yield this rank's steps from a place on.

        Args:
            place: where to begin.
            lane: number of the worker that makes them; it takes every ``lanes``-th step.
            lanes: how many workers share them.
        """
        epochs = count(place.epoch) if self.epochs is None else range(place.epoch, self._end)
        number = 0
        position = place.position
        for epoch in epochs:
            limit = self._limit(position)
            last = self._last_limit(limit)
            while position < limit:
                over = position + self._all >= last
                start, stop, position = self._take(position, limit)
                after = Place(epoch + 1, 0) if over else Place(epoch, position)
                if start < stop:
                    if number % lanes == lane:
                        yield Step(epoch, start, stop, after)
                    number += 1
            position = 0

    def left(self, place: Place) -> int | None:
        """Return how many batches this rank still gets from a place on; None without end."""
        if self.epochs is None:
            return None
        if place.epoch >= self._end:
            return 0
        return self._count(place.position) + (self._end - place.epoch - 1) * self._count()

    @property
    def end(self) -> int:
        """Number in a pass's order from which on this rank gets nothing."""
        return self._run(self.rank)[1] if self._apart else self.rows

    @property
    def _end(self) -> int:
        return self.first_epoch + (self.epochs or 0)

    @property
    def _all(self) -> int:
        """Rows that one step takes, as positions count them."""
        return self.size if self._apart else self.size * self.world_size

    @property
    def _apart(self) -> bool:
        return self.ordering.shuffle == "blocks"

    def _limit(self, position: int) -> int:
        """Return the position at which a pass ends that goes on from the given one."""
        rows = self.rows
        if self._apart:
            low, high = self._run(self.rank)
            # All runs are cut to the shortest: as many full batches for every rank.
            rows = self.rows // self.world_size if self.drop_last else high - low
        if not self.drop_last:
            return rows
        # Counted from here: a state may come from batches of another size.
        return position + max(0, rows - position) // self._all * self._all

    def _last_limit(self, limit: int) -> int:
        """Return the position at which a pass ends for all ranks, this one's being ``limit``.

        A rank whose run is a row shorter than others may be through while they have a batch left:
        the pass goes on then, for whoever goes on from its state.
        """
        if self.drop_last or not self._apart:
            return limit
        return -(-self.rows // self.world_size)

    def _run(self, rank: int) -> tuple[int, int]:
        return rank * self.rows // self.world_size, (rank + 1) * self.rows // self.world_size

    def _take(self, position: int, limit: int) -> tuple[int, int, int]:
        """Return this rank's next rows and the position after them."""
        taken = min(self._all, limit - position)
        if self._apart:
            first = self._run(self.rank)[0] + position
            return first, first + taken, position + taken
        # Of a full step this is `size` for each rank.
        start = position + taken * self.rank // self.world_size
        stop = position + taken * (self.rank + 1) // self.world_size
        return start, stop, position + taken

    def _count(self, position: int = 0) -> int:
        """Return how many batches this rank gets in one pass from a position on."""
        limit = self._limit(position)
        full, rest = divmod(max(0, limit - position), self._all)
        if not rest:
            return full
        start, stop, _ = self._take(position + full * self._all, limit)
        return full + (start < stop)
