"""Texts of a serving engine's steps: each token's state once, whatever the scheduler does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore.capturing.serving.ledger import Ledger
from actstore.errors import HookError
from tests.capturing.serving.scheduling import Scheduler, schedulers


@given(schedulers())
@settings(max_examples=150, deadline=None)
def test_every_token_that_is_fed_is_taken_once_at_its_place(scheduler: Scheduler) -> None:
    texts = scheduler.texts
    ledger = Ledger([text.prompt for text in texts])
    taken: list[tuple[int, int]] = []
    fed = 0
    for step in scheduler.run():
        new = ledger.take(*step)
        fed += sum(count for _, count in step.scheduled)
        for piece in new.pieces:
            for number in range(piece.length):
                place = piece.start + number
                assert step.ids[piece.at + number] == texts[piece.row].prompt[place]
                assert step.positions[piece.at + number] == place
                taken.append((piece.row, place))
        for each in new.decoded:
            text = texts[each.row]
            assert step.ids[each.at] == each.token == text.answer[each.before]
            taken.append((each.row, len(text.prompt) + each.before))
    expected = [
        (row, place)
        for row, text in enumerate(texts)
        for place in range(len(text.prompt) + len(text.answer) - 1)
    ]
    assert sorted(taken) == expected
    assert ledger.repeated == fed - len(expected)
    for row, text in enumerate(texts):
        ledger.finish(row, text.answer)
        assert ledger.fed(row) == text.answer[:-1]


def step(
    *texts: tuple[int, int, list[int]],
) -> tuple[list[tuple[int, int]], np.ndarray, np.ndarray]:
    """Return a step made of (row, first position, tokens)."""
    ids = np.array([token for _, _, tokens in texts for token in tokens])
    positions = np.array([start + n for _, start, tokens in texts for n in range(len(tokens))])
    return [(row, len(tokens)) for row, _, tokens in texts], ids, positions


def test_tokens_that_came_out_of_a_cache_are_missed() -> None:
    ledger = Ledger([[3, 4, 5, 6]])
    with pytest.raises(HookError, match=r"at token 2 where 0 were fed.*prefix caching"):
        ledger.take(*step((0, 2, [5, 6])))


def test_requests_in_another_order_than_said_are_noticed_by_their_tokens() -> None:
    ledger = Ledger([[3, 4], [5, 6]])
    with pytest.raises(HookError, match="are not those of its request"):
        ledger.take(*step((1, 0, [3, 4]), (0, 0, [5, 6])))


def test_a_response_that_is_computed_again_with_another_token_is_noticed() -> None:
    ledger = Ledger([[3, 4]])
    ledger.take(*step((0, 0, [3, 4])))
    ledger.take(*step((0, 2, [7])))
    with pytest.raises(HookError, match="are not those of its request"):
        ledger.take(*step((0, 0, [3, 4, 8, 9])))


def test_tokens_of_two_texts_in_one_piece_are_noticed_by_their_positions() -> None:
    ledger = Ledger([[3, 4, 5]])
    with pytest.raises(HookError, match="no neighbours"):
        ledger.take([(0, 3)], np.array([3, 4, 5]), np.array([0, 1, 0]))


def test_several_tokens_of_a_response_at_once_are_refused() -> None:
    ledger = Ledger([[3, 4]])
    with pytest.raises(HookError, match="speculative decoding"):
        ledger.take(*step((0, 0, [3, 4, 5, 6])))


def test_a_step_that_is_shorter_than_scheduled_is_refused() -> None:
    with pytest.raises(HookError, match="has 1 tokens where 2 were scheduled"):
        Ledger([[3, 4]]).take([(0, 2)], np.array([3]), np.array([0]))


@given(st.sampled_from(([7], [7, 8, 9, 9], [8, 7, 9], [])))
def test_a_text_whose_fed_tokens_are_not_its_answer_is_refused(generated: list[int]) -> None:
    ledger = Ledger([[3, 4]])
    ledger.take(*step((0, 0, [3, 4])))
    ledger.take(*step((0, 2, [7])))
    ledger.take(*step((0, 3, [8])))
    ledger.finish(0, [7, 8, 9])
    with pytest.raises(HookError, match="went through the model"):
        ledger.finish(0, generated)


def test_a_prompt_that_was_not_fed_to_its_end_is_refused() -> None:
    ledger = Ledger([[3, 4, 5]])
    ledger.take(*step((0, 0, [3, 4])))
    with pytest.raises(HookError, match="1 prompt tokens of text 0"):
        ledger.finish(0, [7])
