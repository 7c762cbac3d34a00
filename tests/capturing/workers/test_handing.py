"""Pieces are handed out once, and again only where their worker was lost before it stored them."""

from __future__ import annotations

import pytest

from actstore.capturing.prompts.example import Example
from actstore.capturing.run.pieces import Piece, cut
from actstore.capturing.workers.handing import TRIES, Hand, Pieces
from actstore.errors import ModelError


def pieces(count: int) -> Pieces:
    examples = [Example(id=str(number), question="x") for number in range(2 * count)]
    return Pieces(cut(iter(examples), 2))


def taken(left: Pieces, count: int) -> list[Piece]:
    found = [left.next() for _ in range(count)]
    return [piece for piece in found if piece is not None]


def test_every_piece_comes_once() -> None:
    left = pieces(3)
    assert not left.none_left
    assert [piece.number for piece in taken(left, 5)] == [0, 1, 2]
    assert left.none_left


def test_what_a_lost_worker_had_not_stored_comes_again() -> None:
    left = pieces(5)
    hand = Hand(taken(left, 4), waiting=1, committed=1)
    assert left.back(hand, "a kill") == 3
    again = taken(left, 9)
    assert [(piece.number, piece.again) for piece in again] == [
        (1, True), (2, True), (3, True), (4, False),
    ]  # fmt: skip
    assert left.none_left


def test_a_piece_that_ends_its_workers_ends_the_capture_and_is_named() -> None:
    left = pieces(3)
    for _ in range(TRIES - 1):
        assert left.back(Hand(taken(left, 2)), "a kill") == 2
    with pytest.raises(ModelError, match=r"piece 0 \(examples 1 to 2, from example '0' on\): 3 wo"):
        left.back(Hand(taken(left, 2)), "a kill")


def test_pieces_that_only_waited_are_not_to_blame() -> None:
    left = pieces(TRIES + 1)
    last = taken(left, TRIES + 1)[TRIES:]
    for piece in taken(pieces(TRIES), TRIES):  # each time another one was begun
        assert left.back(Hand([piece, *last], waiting=1), "a kill") == 2
    assert left.back(Hand(last, waiting=0), "a kill") == 1


def test_a_piece_that_ends_workers_before_they_begin_it_is_to_blame() -> None:
    left = pieces(1)
    for _ in range(TRIES - 1):
        assert left.back(Hand(taken(left, 1), waiting=1), "a kill") == 1
    with pytest.raises(ModelError, match="piece 0"):
        left.back(Hand(taken(left, 1), waiting=1), "a kill")
