"""Vectors of one tensor on their way into a batch, together with others of their file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actstore.errors import LayoutError
from actstore.ingestion.axes import CHUNK_BYTES
from actstore.ingestion.options import model_unknown
from actstore.storage.rows import RowBatch

_NEEDED = ("model", "example_id", "site", "pooling")


@dataclass(slots=True)
class Piece:
    """Vectors with what sets them apart from the rest of their file."""

    base: Mapping[str, Any]
    """Columns with one value for the whole file."""
    vectors: np.ndarray
    constants: Mapping[str, Any]
    """Columns with one value for these vectors; they stand above ``base``."""
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Columns with one value per vector; they stand above both."""


@dataclass(slots=True)
class Pile:
    """Pieces that will be one batch."""

    pieces: list[Piece] = field(default_factory=list)
    size: int = 0

    def takes(self, piece: Piece) -> bool:
        """Say whether the piece can go into the same batch."""
        if not self.pieces:
            return True
        first = self.pieces[0]
        return (
            first.base is piece.base
            and first.vectors.dtype == piece.vectors.dtype
            and first.vectors.shape[1] == piece.vectors.shape[1]
            and self.size + piece.vectors.nbytes <= CHUNK_BYTES
        )

    def add(self, piece: Piece) -> None:
        """Put a piece on the pile."""
        self.pieces.append(piece)
        self.size += piece.vectors.nbytes

    def batch(self) -> RowBatch:
        """Return all pieces as one batch and begin anew.

        Raises:
            UsageError: the model is not known.
            LayoutError: another column that every row needs has no value.
        """
        pieces, self.pieces, self.size = self.pieces, [], 0
        batch = _single(pieces[0]) if len(pieces) == 1 else _merged(pieces)
        for name in _NEEDED:
            column = batch.columns.get(name)
            if (batch.constants.get(name) is None) if column is None else (None in column):
                if name == "model":
                    raise model_unknown()
                empty = [value is None for value in column] if column is not None else [True]
                count = sum(empty) if column is not None else len(batch.vectors)
                raise LayoutError(
                    f"no value for column {name}, which every row needs, in {count:,} of "
                    f"{len(batch.vectors):,} rows, the first of them number {empty.index(True)}: "
                    "the key that it is taken from is missing there, or the table that is joined "
                    "has no such row"
                )
        return batch


def _single(piece: Piece) -> RowBatch:
    constants = {**piece.base, **piece.constants}
    for name in piece.columns:
        constants.pop(name, None)
    return RowBatch(vectors=piece.vectors, constants=constants, columns=piece.columns)


def _merged(pieces: list[Piece]) -> RowBatch:
    base = pieces[0].base
    constants = dict(base)
    columns: dict[str, Sequence[Any]] = {}
    plain = all(len(piece.vectors) == 1 and not piece.columns for piece in pieces)
    for name in {name for piece in pieces for name in (*piece.constants, *piece.columns)}:
        default = constants.pop(name, None)
        if plain:
            values = [piece.constants.get(name, default) for piece in pieces]
        else:
            values = [value for piece in pieces for value in _values(piece, name, default)]
        columns[name] = values
    vectors = np.concatenate([piece.vectors for piece in pieces])
    return RowBatch(vectors=vectors, constants=constants, columns=columns)


def _values(piece: Piece, name: str, default: Any) -> Sequence[Any]:
    column = piece.columns.get(name)
    if column is not None:
        return column
    return [piece.constants.get(name, default)] * len(piece.vectors)
