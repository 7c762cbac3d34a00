"""Tells the texts of a serving engine's steps apart: which tokens are whose, and which are new.

A serving engine runs whatever tokens its scheduler chose: a prompt in pieces, one token each of
texts that are being generated, and all tokens of a text once more that lost its cache. A step is
one row of tokens. Which of them belong to which text the scheduler says; where they stand in
it, and what they are, the model's own inputs say, and all three must agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from actstore.errors import HookError


class Piece(NamedTuple):
    """Neighbouring tokens of one prompt in a step, none of which was there before."""

    row: int
    """Which text."""
    start: int
    """Place of the first token in the text."""
    at: int
    """Place of the first token in the step."""
    length: int


class Decoded(NamedTuple):
    """A generated token in a step, fed for the first time."""

    row: int
    at: int
    token: int
    before: int
    """Tokens of the same response that were fed earlier."""


class Step(NamedTuple):
    """What is new in a step."""

    pieces: list[Piece]
    decoded: list[Decoded]


class Ledger:
    """What was fed so far of the texts of one batch.

    Each token's state is taken once, when the token is first fed: what comes again after a
    preemption is the same text, and is passed over.
    """

    def __init__(self, prompts: Sequence[Sequence[int]]) -> None:
        """Take the tokens of each text's prompt."""
        self._lengths = [len(prompt) for prompt in prompts]
        self._known = [list(prompt) for prompt in prompts]
        """Tokens of each text: its prompt, then what was fed of its response."""
        self._seen = [0] * len(self._known)
        """Tokens of each text whose states were taken: always its first ones."""
        self.repeated = 0
        """Tokens that came again."""
        self.pieces = 0
        """Runs of prompt tokens that were new."""

    def take(
        self, scheduled: Sequence[tuple[int, int]], ids: np.ndarray, positions: np.ndarray
    ) -> Step:
        """Return what is new in a step.

        Args:
            scheduled: each text that takes part, and its number of tokens, in the order in which
                they lie in the step.
            ids: the step's tokens; padding may follow.
            positions: the place of each token in its text.

        Raises:
            HookError: the three contradict each other, or tokens were left out.
        """
        total = sum(count for _, count in scheduled)
        if min(len(ids), len(positions)) < total:
            raise HookError(
                f"a step has {min(len(ids), len(positions))} tokens where {total} were scheduled"
            )
        pieces: list[Piece] = []
        decoded: list[Decoded] = []
        at = 0
        for row, count in scheduled:
            if count:
                self._text(row, count, at, ids, positions, pieces, decoded)
            at += count
        self.pieces += len(pieces)
        return Step(pieces, decoded)

    def _text(
        self,
        row: int,
        count: int,
        at: int,
        ids: np.ndarray,
        positions: np.ndarray,
        pieces: list[Piece],
        decoded: list[Decoded],
    ) -> None:
        start, seen, length = int(positions[at]), self._seen[row], self._lengths[row]
        if not np.array_equal(positions[at : at + count], np.arange(start, start + count)):
            raise HookError(
                f"text {row} of the batch has tokens that are no neighbours in one step: whose "
                "they are cannot be told"
            )
        if start > seen:
            raise HookError(
                f"text {row} of the batch goes on at token {start} where {seen} were fed: the "
                "tokens between were never computed here (prefix caching, or states that came "
                "from elsewhere)"
            )
        known = self._known[row]
        again = min(start + count, len(known)) - start
        if ids[at : at + again].tolist() != known[start : start + again]:
            raise HookError(
                f"the tokens of text {row} of the batch are not those of its request: the engine's "
                "order of requests is another than it says"
            )
        stop = start + count
        self.repeated += min(stop, seen) - start
        if seen < min(stop, length):
            pieces.append(Piece(row, seen, at + seen - start, min(stop, length) - seen))
        first = max(seen, length)
        if stop - first > 1:
            raise HookError(
                f"{stop - first} tokens of one response came in one step: speculative decoding "
                "takes some of them back, so it cannot be captured"
            )
        if stop > first:
            token = int(ids[at + first - start])
            decoded.append(Decoded(row, at + first - start, token, first - length))
            known.append(token)
        self._seen[row] = max(seen, stop)

    def fed(self, row: int) -> list[int]:
        """Return the tokens of a response that went through the model."""
        return self._known[row][self._lengths[row] :]

    def finish(self, row: int, generated: Sequence[int]) -> None:
        """Hold a text that is over against what was generated: all but the last token was fed.

        Raises:
            HookError: tokens are missing, or others were fed.
        """
        missing = self._lengths[row] - self._seen[row]
        if missing > 0:
            raise HookError(f"{missing} prompt tokens of text {row} of the batch were never fed")
        if self.fed(row) != list(generated[:-1]):
            raise HookError(
                f"text {row} of the batch was answered with {len(generated)} tokens, and "
                f"{len(self.fed(row))} went through the model, or other ones: states would be "
                "missing or another text's"
            )
