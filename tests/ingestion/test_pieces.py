"""Pieces of one file become batches: constants stay constants, columns line up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from actstore.errors import LayoutError, UsageError
from actstore.ingestion import pieces
from actstore.ingestion.pieces import Piece, Pile

BASE: dict[str, Any] = {"model": "m", "site": "s", "pooling": "last", "example_id": "a"}


def vectors(rows: int, width: int = 3, value: float = 1.0) -> np.ndarray:
    return np.full((rows, width), value, np.float32)


def batch(*members: Piece) -> Any:
    pile = Pile()
    for piece in members:
        assert pile.takes(piece)
        pile.add(piece)
    return pile.batch()


def test_one_piece_is_not_copied() -> None:
    values = vectors(2)
    found = batch(Piece(BASE, values, {"site": "t"}, {"example_id": ["x", "y"]}))
    assert found.vectors is values
    assert dict(found.constants) == {"model": "m", "site": "t", "pooling": "last"}
    assert dict(found.columns) == {"example_id": ["x", "y"]}


def test_single_vectors_line_up() -> None:
    found = batch(
        Piece(BASE, vectors(1, value=1), {"layer": 0}),
        Piece(BASE, vectors(1, value=2), {"layer": 1, "site": "t"}),
    )
    assert found.vectors[:, 0].tolist() == [1, 2]
    assert dict(found.constants) == {"model": "m", "pooling": "last", "example_id": "a"}
    assert dict(found.columns) == {"layer": [0, 1], "site": ["s", "t"]}


def test_columns_and_constants_line_up() -> None:
    found = batch(
        Piece(BASE, vectors(2), {"layer": 0}, {"position": [0, 1]}),
        Piece(BASE, vectors(1), {"layer": 1, "token_count": 3}),
    )
    assert dict(found.columns) == {
        "layer": [0, 0, 1],
        "position": [0, 1, None],
        "token_count": [None, None, 3],
    }


def test_what_does_not_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    pile = Pile()
    pile.add(Piece(BASE, vectors(2), {}))
    assert not pile.takes(Piece(dict(BASE), vectors(2), {}))
    assert not pile.takes(Piece(BASE, vectors(2, width=4), {}))
    assert not pile.takes(Piece(BASE, vectors(2).astype(np.float16), {}))
    assert pile.takes(Piece(BASE, vectors(2), {}))
    monkeypatch.setattr(pieces, "CHUNK_BYTES", 40)
    assert not pile.takes(Piece(BASE, vectors(2), {}))
    pile.batch()
    assert pile.takes(Piece(dict(BASE), vectors(9), {}))


@pytest.mark.parametrize("name", ["model", "site", "pooling", "example_id"])
def test_every_row_needs_some_columns(name: str) -> None:
    error = UsageError if name == "model" else LayoutError
    with pytest.raises(error, match=name):
        batch(Piece({**BASE, name: None}, vectors(1), {}))
    with pytest.raises(error, match=name):
        batch(Piece(BASE, vectors(2), {}, {name: ["x", None]}))
