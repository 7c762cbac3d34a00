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
    waiting: int = 0
    """How many of the last ones it has not begun."""
    committed: int = 0


class Pieces:
    """Pieces that are left to do."""

    def __init__(self, upcoming: Iterator[Piece]) -> None:
        self._upcoming = upcoming
        self._again: deque[Piece] = deque()
        self._lost: Counter[int] = Counter()
        self._exhausted = False

    def next(self) -> Piece | None:
        """Return a piece that nobody has; None where there is none now."""
        if self._again:
            return self._again.popleft()
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
        begun = hand.pieces[hand.committed : len(hand.pieces) - hand.waiting] or left[:1]
        for piece in begun:
            self._lost[piece.number] += 1
        # The first of those that were begun may only have waited for its commit.
        worst = max(begun, key=lambda piece: self._lost[piece.number], default=None)
        if worst is not None and self._lost[worst.number] >= TRIES:
            raise ModelError(
                f"{worst}: {TRIES} workers were lost while they were at it, the last one by "
                f"{reason}; look into it, or leave these examples out, and run the same command "
                "again"
            )
        self._again += [replace(piece, again=True) for piece in left]
        return len(left)
