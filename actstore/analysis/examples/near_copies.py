"""Questions that are nearly the same, though nothing keeps them together.

Folds keep equal questions together; a question with one word changed is another one to them,
and what is learned from it is found again. Two questions are near copies here if they share
four of five of all their words, and if the words that are theirs and not everyone's outweigh
those that differ: questions made by one template share words that tell nothing.

Candidates come from an index of rare words: sets that share four of five words share one of
each one's rarest fifth (prefix filtering: Bayardo, Ma and Srikant 2007), so nothing is missed
until the comparisons run out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from actstore.wording import counted, shorten

SHARED = 0.8
"""Part of all words of both that near copies share."""
_RARE = 0.5
"""The same with each word weighed by how rare it is."""
_MOST = 2_000_000
"""Comparisons beyond which words that many questions share are not followed."""
_AT_ONCE = 200_000
_ROUNDING = 1e-9
_WORDS = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)
"""Words; where writing knows no blanks between them, characters."""
_SHOWN = 90


class NearCopies(NamedTuple):
    """Questions of which another group has a near copy."""

    copies: int
    questions: int
    """Of how many different ones."""
    example: tuple[str, str] | None
    whole: bool
    """Whether all were compared; else there may be more."""


def find(texts: Sequence[str], text_of: np.ndarray, groups: np.ndarray) -> NearCopies:
    """Count questions that have a near copy in another group.

    Args:
        texts: the different questions; empty ones do not count.
        text_of: which of them each row has, int64 ``[rows]``.
        groups: number of each row's group, int64 ``[rows]``.
    """
    own: dict[int, set[int]] = defaultdict(set)
    for text, group in np.unique(np.column_stack([text_of, groups]), axis=0).tolist():
        own[text].add(group)
    bags: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, text in enumerate(texts):
        words = sorted(set(_WORDS.findall(text.casefold())))
        if words and number in own:
            bags[tuple(words)].append(number)
    sets = list(bags)
    copies: set[int] = set()
    example: tuple[int, int] | None = None
    for bag in sets:  # the same words, in another order or with other signs
        numbers = bags[bag]
        held = set().union(*(own[number] for number in numbers))
        if len(held) > 1:
            copies.update(numbers)
            example = example or _pair(numbers, numbers, own)
    pairs, whole = _similar(sets)
    for one, other in pairs:
        first, second = bags[sets[one]], bags[sets[other]]
        a = set().union(*(own[number] for number in first))
        b = set().union(*(own[number] for number in second))
        if len(a | b) > 1:
            copies.update(number for number in first if b - own[number] or len(b) > 1)
            copies.update(number for number in second if a - own[number] or len(a) > 1)
            example = example or _pair(first, second, own)
    shown = None if example is None else (texts[example[0]], texts[example[1]])
    return NearCopies(len(copies), sum(map(len, bags.values())), shown, whole)


def note(found: NearCopies, grouped_by: str) -> str | None:
    """Return what should be said of near copies; None where there are none."""
    if not found.copies or found.example is None:
        return None
    one, other = (shorten(" ".join(text.split()), _SHOWN) for text in found.example)
    least = "" if found.whole else "at least "
    pair = f"such as {one!r} and {other!r}" if one != other else f"such as {one!r}, twice"
    return (
        f"{least}{counted(found.copies, 'question')} of {found.questions:,} share almost all words "
        f"with one of another group ({pair}), and {grouped_by} does not keep them on one side: if "
        "they ask the same, keep them together with --group-by"
    )


def _pair(
    one: Sequence[int], other: Sequence[int], own: dict[int, set[int]]
) -> tuple[int, int] | None:
    """Return the first two questions of different groups."""
    for a in one:
        for b in other:
            if own[a] != own[b] or (a == b and len(own[a]) > 1):
                return a, b
    return None


def _similar(sets: Sequence[tuple[str, ...]]) -> tuple[list[tuple[int, int]], bool]:
    """Return pairs of sets of words that are near copies, and whether all were compared."""
    if not sets:
        return [], True
    from scipy.sparse import csr_matrix

    frequency = Counter(word for words in sets for word in words)
    rarest = sorted(frequency, key=lambda word: (frequency[word], word))
    rank = {word: place for place, word in enumerate(rarest)}
    weight = np.log((len(sets) + 1) / np.array([frequency[word] for word in rarest], float))
    sizes = np.array([len(words) for words in sets])
    places = np.array([rank[word] for words in sets for word in words])
    owners = np.repeat(np.arange(len(sets)), sizes)
    places = places[np.lexsort([places, owners])]
    heavy = csr_matrix(
        (weight[places], places, np.concatenate([[0], np.cumsum(sizes)])),
        (len(sets), len(rank)),
    )
    plain = heavy.copy()
    plain.data[:] = 1
    totals = np.asarray(heavy.sum(1)).ravel()
    one, other, whole = _candidates(sizes, places, owners, weight, totals)
    found = []
    for start in range(0, len(one), _AT_ONCE):
        a, b = one[start : start + _AT_ONCE], other[start : start + _AT_ONCE]
        shared = np.asarray(plain[a].multiply(plain[b]).sum(1)).ravel()
        rare = np.asarray(heavy[a].multiply(plain[b]).sum(1)).ravel()
        near = shared >= SHARED * (sizes[a] + sizes[b] - shared) - _ROUNDING
        near &= rare >= _RARE * (totals[a] + totals[b] - rare) - _ROUNDING
        found += list(zip(a[near].tolist(), b[near].tolist(), strict=True))
    return found, whole


def _candidates(
    sizes: np.ndarray,
    places: np.ndarray,
    owners: np.ndarray,
    weight: np.ndarray,
    totals: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return pairs that share one of each one's rarest words, and whether these are all.

    The rarest of the words that near copies share is among as many of each one's rarest as
    leave too few, or too little weight, behind them.
    """
    starts = np.cumsum(sizes) - sizes
    position = np.arange(len(places)) - starts[owners]
    before = np.cumsum(weight[places]) - weight[places]
    behind = totals[owners] - (before - before[starts[owners]])
    needed = np.ceil(SHARED * sizes - _ROUNDING)[owners]
    kept = (sizes[owners] - position >= needed) & (behind >= _RARE * totals[owners] - _ROUNDING)
    order = np.lexsort([owners[kept], places[kept]])
    words, holders = places[kept][order], owners[kept][order]
    _, first, counts = np.unique(words, return_index=True, return_counts=True)
    left = _MOST
    pairs = [np.zeros(0, np.int64)]
    whole = True
    for start, count in zip(first.tolist(), counts.tolist(), strict=True):
        number = count * (count - 1) // 2
        if not number:
            continue
        if number > left:
            whole = False
            continue
        left -= number
        own = holders[start : start + count]
        a, b = np.triu_indices(count, 1)
        a, b = own[a], own[b]
        close = (
            np.minimum(sizes[a], sizes[b]) >= SHARED * np.maximum(sizes[a], sizes[b]) - _ROUNDING
        )
        pairs.append(a[close] * len(sizes) + b[close])
    both = np.unique(np.concatenate(pairs))
    return both // len(sizes), both % len(sizes), whole
