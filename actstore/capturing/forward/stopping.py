"""Where each response of a batch ends, by the rules of the loop that generates it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class Stops:
    """What ``generate`` decided so far: which rows are over, and with how many tokens.

    An id alone does not say it: a model may generate the pad's id in the middle of a response,
    and rows that were stopped by a text go on with whatever comes next.
    """

    def __init__(self) -> None:
        self.over: torch.Tensor | None = None
        """Rows that have ended, bool ``[B]``; None where nothing was heard of them."""
        self._counts: torch.Tensor | None = None

    def add(self, done: torch.Tensor) -> None:
        """Take in which rows end with the token that was generated just now, bool ``[B]``."""
        done = done.detach().bool()
        if self.over is None or self._counts is None:
            self.over = torch.zeros_like(done)
            self._counts = torch.zeros(len(done), dtype=torch.int64, device=done.device)
        self._counts = self._counts + ~self.over
        self.over = self.over | done

    @property
    def lengths(self) -> list[int] | None:
        """How many tokens each row was given, the one that ended it included."""
        return None if self._counts is None else [int(count) for count in self._counts.tolist()]


@contextmanager
def watched(model: Any, stops: Stops) -> Iterator[None]:
    """Let ``stops`` hear what the model's ``generate`` asks after each token, within the block.

    The criteria that ``generate`` puts together (end tokens, lengths, texts, times, the
    caller's own) are asked once per token, and their answer is passed on as it is. Where a
    model generates in another way, nothing is heard.
    """
    original = getattr(model, "_get_stopping_criteria", None)
    if original is None or "_get_stopping_criteria" in model.__dict__:
        yield
        return

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        criteria = original(*args, **kwargs)
        kind: Any = type(criteria)

        class Watched(kind):  # type: ignore[misc]  # whatever list of criteria it is
            def __call__(self, *asked: Any, **named: Any) -> Any:
                done = super().__call__(*asked, **named)
                stops.add(done)
                return done

        return Watched(criteria)

    # Not setattr(): a function among the model's own attributes hides the method.
    model.__dict__["_get_stopping_criteria"] = wrapped
    try:
        yield
    finally:
        del model.__dict__["_get_stopping_criteria"]


def response_of(row: Sequence[int], length: int | None, eos_ids: Collection[int]) -> list[int]:
    """Return a row of generated ids up to its end, without the end token.

    Args:
        row: what was generated for one example, and what fills it up.
        length: of :attr:`Stops.lengths`; None where nobody knows: then the first end token counts.
        eos_ids: the end tokens.
    """
    if length is None:
        length = next((at + 1 for at, number in enumerate(row) if number in eos_ids), len(row))
    kept = list(row[:length])
    return kept[:-1] if kept and kept[-1] in eos_ids else kept


def going_on(
    fed: np.ndarray,
    masked: np.ndarray,
    eos_ids: Collection[int],
    pad_ids: Collection[int],
) -> np.ndarray:
    """Return which tokens of somebody's own loop are of a response, bool ``[steps, B]``.

    A row is over with its first end token, or where the attention mask leaves it out. Where
    several rows run together, pads that nothing follows fill a row up; one that something
    follows was generated.

    Args:
        fed: ids that were fed, ``[steps, B]``.
        masked: where the attention mask said so, bool ``[steps, B]``.
        eos_ids: the end tokens.
        pad_ids: what rows are filled up with.
    """
    over = np.logical_or.accumulate(np.isin(fed, list(eos_ids)) | masked, axis=0)
    if fed.shape[1] > 1 and pad_ids:
        pads = np.isin(fed, list(pad_ids)) | over
        over |= np.logical_and.accumulate(pads[::-1], axis=0)[::-1]
    return ~over
