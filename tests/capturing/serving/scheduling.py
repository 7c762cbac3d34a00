"""A serving engine's scheduler in few lines: steps of texts in pieces, with preemptions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st


class ScheduledStep(NamedTuple):
    """One step: which texts, and their tokens as the model sees them."""

    scheduled: list[tuple[int, int]]
    ids: np.ndarray
    positions: np.ndarray


@dataclass
class Text:
    """A prompt and what it will be answered with; all but the answer's last token are fed."""

    prompt: list[int]
    answer: list[int]
    computed: int = 0
    """Tokens in the cache."""
    written: int = 0
    """Tokens that were generated."""

    @property
    def tokens(self) -> list[int]:
        """What may be fed now."""
        return self.prompt + self.answer[: self.written]

    @property
    def over(self) -> bool:
        """Whether everything was generated."""
        return self.written == len(self.answer)


@dataclass
class Scheduler:
    """Draws steps until every text is answered."""

    texts: list[Text]
    draw: st.DrawFn
    preempted: int = 0
    steps: list[ScheduledStep] = field(default_factory=list)

    def run(self) -> Iterator[ScheduledStep]:
        """Yield the steps."""
        while waiting := [row for row, text in enumerate(self.texts) if not text.over]:
            if len(self.steps) < 40:
                for row in waiting:
                    if self.texts[row].computed and self.draw(st.integers(0, 9)) == 0:
                        self.texts[row].computed = 0
                        self.preempted += 1
                order = self.draw(st.permutations(waiting))
                chosen = order[: self.draw(st.integers(1, len(order)))]
                most = self.draw(st.sampled_from((1, 2, 3, 5, 100)))
            else:  # to an end
                chosen, most = waiting, 100
            step = self._step(chosen, most)
            self.steps.append(step)
            yield step

    def _step(self, rows: list[int], most: int) -> ScheduledStep:
        scheduled: list[tuple[int, int]] = []
        ids: list[int] = []
        positions: list[int] = []
        for row in rows:
            text = self.texts[row]
            fed = text.tokens[text.computed :][:most]
            scheduled.append((row, len(fed)))
            ids += fed
            positions += range(text.computed, text.computed + len(fed))
            text.computed += len(fed)
            if text.computed == len(text.tokens):
                text.written += 1
        padding = [0] * self.draw(st.integers(0, 2))
        return ScheduledStep(
            scheduled, np.array(ids + padding, np.int64), np.array(positions + padding, np.int64)
        )


@st.composite
def schedulers(draw: st.DrawFn, least: int = 1) -> Scheduler:
    """A few texts, some of them the same, and the steps that are drawn for them."""
    tokens = st.integers(3, 9)
    texts = [
        Text(
            draw(st.lists(tokens, min_size=1, max_size=9)),
            draw(st.lists(tokens, min_size=1, max_size=6)),
        )
        for _ in range(draw(st.integers(least, 4)))
    ]
    if draw(st.booleans()):
        texts.append(Text(list(texts[0].prompt), list(texts[0].answer)))
    return Scheduler(texts, draw)
