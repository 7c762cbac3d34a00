"""Who has which pieces of a capture: hands them out, takes those of lost workers back."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from actstore.capturing.run.pieces import Piece
from actstore.errors import ModelError

TRIES = 3
"""Workers that may be lost over one piece before the capture gives up."""


@dataclass(slots=True)
class Hand:
    """The pieces of one worker."""

    pieces: list[Piece] = field(default_factory=list)
    """In the order in which it got them; those before ``committed`` are in the store."""
    through: int = 0
    """How many of the first ones it has gone through."""
    committed: int = 0

    @property
    def idle(self) -> bool:
        """Whether the worker has nothing to do."""
        return self.through == len(self.pieces)


class Pieces:
    """Pieces that are left to do."""

    def __init__(self, upcoming: Iterator[Piece]) -> None:
        self._upcoming = upcoming
        self._again: deque[Piece] = deque()
        self._lost: Counter[int] = Counter()
        self._exhausted = False

    def next(self, hand: Hand) -> Piece | None:
        """Return a piece for a worker; None where there is none for it now.

        A piece over which a worker was lost goes to one that has nothing else to do, which gets
        no other one meanwhile: if that is lost too, it is clear over what.
        """
        if not hand.idle and any(piece.again for piece in hand.pieces[hand.through :]):
            return None
        if self._again:
            return self._again.popleft() if hand.idle else None
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

    def back(self, hand: Hand, reason: str) -> int:
        """Take back what a lost worker had not committed; return how many pieces these are.

        Raises:
            ModelError: workers were lost over one of them again and again; names it.
        """
        left = hand.pieces[hand.committed :]
        for piece in hand.pieces[hand.through : hand.through + 1]:  # none where it was idle
            self._lost[piece.number] += 1
            if self._lost[piece.number] >= TRIES:
                raise ModelError(
                    f"{piece}: {TRIES} workers were lost while they were at it, the last one by "
                    f"{reason}; look into it, or leave these examples out, and run the same "
                    "command again"
                )
        self._again += [replace(piece, again=True) for piece in left]
        return len(left)
