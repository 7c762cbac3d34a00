"""Who has which pieces of the work: hands them out, takes those of lost workers back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from actstore.errors import ActstoreError

TRIES = 3
"""Workers that may be lost over one piece before the work is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered:
    """A piece of the work; as text it says what is in it."""

    number: int
    again: bool = False
    """Whether another process was at it before and was lost: some of it may be stored."""


P = TypeVar("P", bound=Numbered)


@dataclass(slots=True)
class Hand(Generic[P]):
    """The pieces of one worker."""

    pieces: list[P] = field(default_factory=list)
    """In the order in which it got them; those before ``committed`` are in the store."""
    through: int = 0
    """How many of the first ones it has gone through."""
    committed: int = 0

    @property
    def idle(self) -> bool:
        """Whether the worker has nothing to do."""
        return self.through == len(self.pieces)


class Pieces(Generic[P]):
    """Pieces that are left to do.

    Args:
        upcoming: all of them, by ascending number.
        error: what is raised where workers are lost over one again and again.
        items: what a piece consists of, in words.
    """

    def __init__(self, upcoming: Iterator[P], error: type[ActstoreError], items: str) -> None:
        self._upcoming = upcoming
        self._error = error
        self._items = items
        self._again: list[P] = []
        self._lost: Counter[int] = Counter()
        self._exhausted = False

    def next(self, hand: Hand[P]) -> P | None:
        """Return a piece for a worker; None where there is none for it now.

        A piece over which a worker was lost goes to one that has nothing else to do, which gets
        no other one meanwhile: if that is lost too, it is clear over what.
        """
        if not hand.idle and any(piece.again for piece in hand.pieces[hand.through :]):
            return None
        if self._again:
            return self._again.pop(0) if hand.idle else None
        if not self._exhausted:
            piece = next(self._upcoming, None)
            if piece is not None:
                return piece
            self._exhausted = True
        return None

    @property
    def none_left(self) -> bool:
        """Whether every piece was handed out, and none has come back."""
        return self._exhausted and not self._again

    @property
    def first_again(self) -> int | None:
        """Number of the first piece that has come back and that nobody has."""
        return self._again[0].number if self._again else None

    def back(self, hand: Hand[P], reason: str) -> int:
        """Take back what a lost worker had not committed; return how many pieces these are.

        Raises:
            ActstoreError: workers were lost over one of them again and again; names it.
        """
        left = hand.pieces[hand.committed :]
        for piece in hand.pieces[hand.through : hand.through + 1]:  # none where it was idle
            self._lost[piece.number] += 1
            if self._lost[piece.number] >= TRIES:
                raise self._error(
                    f"{piece}: {TRIES} workers were lost while they were at it, the last one by "
                    f"{reason}; look into it, or leave these {self._items} out, and run the same "
                    "command again"
                )
        again = [*self._again, *(replace(piece, again=True) for piece in left)]
        self._again = sorted(again, key=lambda piece: piece.number)
        return len(left)
