"""Pieces are handed out once, and again only where their worker was lost before it stored them."""

from __future__ import annotations

import pytest

from actstore.capturing.prompts.example import Example
from actstore.capturing.run.pieces import Piece, cut
from actstore.errors import ModelError
from actstore.workers.handing import TRIES, Hand, Pieces


def pieces(count: int) -> Pieces[Piece]:
    examples = [Example(id=str(number), question="x") for number in range(2 * count)]
    return Pieces(cut(iter(examples), 2), ModelError, "examples")


def taken(left: Pieces[Piece], count: int) -> list[Piece]:
    """Take pieces as a worker does that is idle each time."""
    found = [left.next(Hand()) for _ in range(count)]
    return [piece for piece in found if piece is not None]


def test_every_piece_comes_once() -> None:
    left = pieces(3)
    assert not left.none_left
    assert [piece.number for piece in taken(left, 5)] == [0, 1, 2]
    assert left.none_left


def test_what_a_lost_worker_had_not_stored_comes_again() -> None:
    left = pieces(5)
    assert left.back(Hand(taken(left, 4), through=2, committed=1), "a kill") == 3
    assert not left.none_left
    again = taken(left, 9)
    assert [(piece.number, piece.again) for piece in again] == [
        (1, True), (2, True), (3, True), (4, False),
    ]  # fmt: skip
    assert left.none_left


def test_a_piece_that_came_back_is_given_alone() -> None:
    left = pieces(4)
    left.back(Hand(taken(left, 1)), "a kill")
    busy = Hand(taken(pieces(9), 9)[8:])
    assert left.next(busy) is None
    idle: Hand[Piece] = Hand()
    piece = left.next(idle)
    assert piece is not None
    assert piece.again
    idle.pieces.append(piece)
    assert left.next(idle) is None
    assert not left.none_left
    idle.through = 1
    following = left.next(idle)
    assert following is not None
    assert following.number == 1


def test_what_comes_again_comes_in_the_order_of_the_source() -> None:
    left = pieces(4)
    ones, others = taken(left, 2), taken(left, 2)
    left.back(Hand(others), "a kill")
    left.back(Hand(ones), "a kill")
    assert left.first_again == 0
    assert [piece.number for piece in taken(left, 9)] == [0, 1, 2, 3]
    assert left.first_again is None


def test_a_piece_that_ends_its_workers_ends_the_capture_and_is_named() -> None:
    left = pieces(3)
    first, second = taken(left, 2)
    assert left.back(Hand([first, second]), "a kill") == 2  # the second one did it
    for _ in range(TRIES - 1):
        first, second = taken(left, 2)
        assert left.back(Hand([first, second], through=1), "a kill") == 2
    first, second = taken(left, 2)
    with pytest.raises(ModelError, match=r"piece 1 \(examples 3 to 4, from example '2' on\): 3 wo"):
        left.back(Hand([first, second], through=1), "a kill")


def test_a_worker_that_is_lost_while_it_is_idle_is_nobodys_fault() -> None:
    left = pieces(1)
    for _ in range(TRIES + 1):
        assert left.back(Hand(taken(left, 1), through=1), "a kill") == 1
