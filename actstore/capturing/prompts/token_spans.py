"""Finds the tokens that cover given characters of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from actstore.capturing.prompts.rendering import Span

TextPlace = tuple[Sequence[Span], Sequence[Mapping[str, Any]]]
"""Characters of each token, and which placeholders were replaced by longer texts."""


class ByOffsets:
    """Finds tokens by the characters they stand for."""

    def __init__(
        self, offsets: Sequence[Span], replaced: Sequence[Mapping[str, Any]], real: np.ndarray
    ) -> None:
        """Take the offsets of the real tokens, or of the padded row."""
        self._replaced = replaced
        given = np.array(offsets, np.int64).reshape(-1, 2)
        self._table = given
        if len(given) != len(real):
            self._table = np.zeros((len(real), 2), np.int64)
            self._table[real] = given

    def tokens(self, span: Span, text: str) -> np.ndarray:
        """Return which tokens overlap the characters ``span`` of the prompt, bool ``[T]``."""
        start, end = (self._moved(character) for character in span)
        first, last = self._table[:, 0], self._table[:, 1]
        overlapping = (first < end) & (last > start) & (last > first)
        # Where a tokenizer trims its offsets, a token of nothing but spaces has no width and stands
        # where these end.
        within: np.ndarray = overlapping | ((first == last) & (first > start) & (first <= end))
        return within

    def _moved(self, character: int) -> int:
        """Return where a character of the prompt stands once images are expanded."""
        gained = 0
        for each in self._replaced:
            if each["span"][1] <= character:
                gained = each["new_span"][1] - each["span"][1]
        return character + gained


class BySearch:
    """Finds tokens by decoding, from the back, where the tokenizer tells no offsets."""

    def __init__(self, decode: Any, ids: np.ndarray, real: np.ndarray) -> None:
        self._decode = decode
        self._ids = ids
        self._at = np.flatnonzero(real)

    def tokens(self, span: Span, text: str) -> np.ndarray:
        """Return the shortest, last run of tokens whose text holds ``text[span]``."""
        found = np.zeros(len(self._ids), bool)
        wanted = bare(text[slice(*span)])
        if not wanted:
            return found
        # How often it is said again further on tells which of several places is meant.
        again = bare(text[span[1] :]).count(wanted)
        low, high = 0, len(self._at)
        while low < high:  # the last start from which it is still held often enough
            middle = (low + high + 1) // 2
            if self._count(middle, len(self._at), wanted) > again:
                low = middle
            else:
                high = middle - 1
        start = low
        if self._count(start, len(self._at), wanted) <= again:
            return found
        low, high = start + 1, len(self._at)
        while low < high:  # the first end that holds it
            middle = (low + high) // 2
            if self._count(start, middle, wanted):
                high = middle
            else:
                low = middle + 1
        found[self._at[start:low]] = True
        return found

    def _count(self, start: int, stop: int, wanted: str) -> int:
        return bare(self._decode(self._ids[self._at[start:stop]])).count(wanted)


def bare(text: str) -> str:
    """Return a text without white space, which decoding may add or lose."""
    return "".join(text.split())
