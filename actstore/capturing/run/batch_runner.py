"""Runs a window batch by batch, in smaller batches where memory runs out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from actstore.capturing.forward.engine import Captured, Engine, out_of_memory
from actstore.capturing.run.batching import SERVED_TOKENS, TOKENS, BatchSize, Window, form
from actstore.capturing.run.summary import Refused
from actstore.capturing.run.tables import StorageType, settle_values
from actstore.capturing.selfcheck.pad_leaks import Padding, measure
from actstore.errors import ExampleError, ModelError

if TYPE_CHECKING:
    from actstore.capturing.serving.engine import ServingEngine


class Runner:
    """Forms batches and gets them through the engine."""

    def __init__(
        self,
        engine: Engine | ServingEngine,
        *,
        batch_size: BatchSize,
        max_new_tokens: int,
        strict: bool,
        refused: list[Refused],
    ) -> None:
        """Take the list that refused examples are put into."""
        self.engine = engine
        self.batch_size = batch_size
        self.refused = refused
        self.budget: int | None = None
        """Tokens of a batch after memory ran out."""
        self.padding: Padding | None = None
        """What pads do to the model's states; measured on the first window that has examples."""
        self._room = max_new_tokens
        self._strict = strict

    def run(self, window: Window) -> Iterator[Captured]:
        """Run the window's batches; halve them where memory runs out."""
        waiting = deque(self.groups(window))
        while waiting:
            group = waiting.popleft()
            if len(group) > 1 and self.budget and self.padded(window, group) > self.budget:
                waiting.extendleft(reversed(halves(group)))
                continue
            examples = [window.examples[at] for at in group]
            positions = [window.positions[at] for at in group]
            try:
                yield self.engine.run(examples, positions)
            except ExampleError as error:
                if self._strict:
                    raise
                waiting.extendleft(self._without_bad(window, group, error))
                continue
            except Exception as error:
                if not out_of_memory(error):
                    raise
                self._shrink(window, group, error)
                if len(group) > 1:
                    waiting.extendleft(reversed(halves(group)))
                continue

    def timed(
        self, window: Window, group: list[int], dtype: StorageType | None
    ) -> tuple[Captured, float, list[int]]:
        """Run one batch, a smaller one where memory runs out; return it, its seconds, its places.

        Raises:
            ModelError: not even one example fits.
        """
        began = time.monotonic()
        try:
            captured = self.engine.run(
                [window.examples[at] for at in group], [window.positions[at] for at in group]
            )
        except Exception as error:
            if not out_of_memory(error):
                raise
            self._shrink(window, group, error)
            if len(group) == 1:
                raise ModelError(
                    f"the device's memory does not hold {window.examples[group[0]].where}"
                ) from error
            return self.timed(window, halves(group)[0], dtype)
        settle_values(captured, dtype)
        return captured, time.monotonic() - began, group

    def groups(self, window: Window) -> list[list[int]]:
        """Return the window's batches as places in it, the longest examples first."""
        room = self._lengths(window)
        return form(
            room,
            batch_size=self.batch_size,
            kinds=self._measured(window).alike(room, self._kinds(window)),
            tokens=self.budget or (TOKENS if self.engine.pads else SERVED_TOKENS),
        )

    def comparable(self, window: Window) -> list[int]:
        """Return the places in a window of the examples that can be compared in one batch.

        Those with images, if there are any: no batch has some with and some without.
        """
        kinds = self._kinds(window)
        places = self._measured(window).together(self._lengths(window), kinds)
        return [at for at in places if kinds[at]] or places

    def _lengths(self, window: Window) -> list[int]:
        """Return how long each example's text may become."""
        return [length + self._room for length in window.lengths]

    def _kinds(self, window: Window) -> list[bool]:
        return [self.engine.prompter.kind(example) for example in window.examples]

    def _measured(self, window: Window) -> Padding:
        """Return what pads do; measured once, on the shortest example that can be read."""
        if not isinstance(self.engine, Engine):
            return Padding()
        order = sorted(range(len(window.examples)), key=window.lengths.__getitem__)
        for at in order if self.padding is None else ():
            try:
                self.padding = measure(self.engine, window.examples[at])
            except ExampleError:
                continue  # refused when its turn comes
            except Exception as error:
                if not out_of_memory(error):
                    raise
            break
        return self.padding or Padding()

    def padded(self, window: Window, group: Sequence[int]) -> int:
        """Return the tokens that a batch takes, padding and room for responses included."""
        longest = max(window.lengths[at] for at in group) + self._room
        return longest * len(group)

    def _without_bad(
        self, window: Window, group: list[int], error: ExampleError
    ) -> list[list[int]]:
        """Refuse the examples whose input cannot be made, and return the others."""
        bad: dict[int, Refused] = {}
        for at in group:
            try:
                self.engine.prompter.batch([window.examples[at]], self.engine.padding_side)
            except ExampleError as reason:
                bad[at] = Refused.by(window.examples[at], reason)
        if not bad:  # only together: each goes alone
            if len(group) == 1:
                raise error
            return [[at] for at in reversed(group)]
        self.refused += bad.values()
        good = [at for at in group if at not in bad]
        return [good] if good else []

    def _shrink(self, window: Window, group: Sequence[int], error: Exception) -> None:
        """Note that memory did not hold a batch: the next ones are smaller, or this is the end.

        Raises:
            ModelError: the batch size is fixed.
        """
        padded = self.padded(window, group)
        if self.batch_size != "auto":
            raise ModelError(
                f"the device's memory does not hold a batch of {len(group)} examples of up to "
                f"{padded // len(group):,} tokens: use --batch-size auto, or a smaller one than "
                f"{self.batch_size}"
            ) from error
        if len(group) == 1:
            self.refused.append(
                Refused(
                    window.examples[group[0]].where,
                    f"the device's memory does not hold its {padded:,} tokens",
                )
            )
        else:
            self.budget = max(1, padded // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def halves(group: list[int]) -> list[list[int]]:
    """Cut a batch in two, the first not smaller."""
    middle = (len(group) + 1) // 2
    return [group[:middle], group[middle:]]
