"""Shuffled labels, exchanged only between rows that chance could exchange.

What exchanges its labels must be alike but for them, so labels move between things of one
kind within one thing of the kind above: groups of a fold, examples of a group, versions of
an example, tokens of a version. A thing that is of one class passes on its class as a whole
(two tokens of one answer are not two witnesses); within one that has both classes, those
that it is made of exchange theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Shuffled(NamedTuple):
    """Shuffled labels that all places of a run share, and where a place's own are among them."""

    labels: np.ndarray
    """Bool, numbers of classes, or float64 numbers, ``[units, runs]``."""
    units: np.ndarray
    """Which of them each row of the place is, int64 ``[rows]``."""

    @property
    def runs(self) -> int:
        """How often labels were shuffled."""
        return int(self.labels.shape[1])

    def columns(self) -> np.ndarray:
        """Return the place's own shuffled labels, ``[rows, runs]``."""
        found: np.ndarray = self.labels[self.units]
        return found


class LabelledRows(NamedTuple):
    """The rows of a place, for :func:`shared`."""

    labels: np.ndarray
    """Bool, numbers of classes, or float64 numbers, ``[rows]``."""
    part: np.ndarray
    """Among which rows labels are exchanged, int64 ``[rows]``: the tested rows of a fold, or
    the training or tested rows of one division. Of the same meaning in all places."""
    groups: np.ndarray
    """Int64 ``[rows]``."""
    units: np.ndarray
    """Examples, versions and tokens, int64 ``[rows, 3]``, as ``ExampleGroups`` has them."""


def shared(
    labelled: Sequence[LabelledRows], runs: int, seed: int, *, whole: bool = False
) -> list[Shuffled]:
    """Shuffle the labels of a run: an example's are the same in all its places.

    So the places' results on one set of shuffled labels hang together as those on the real
    ones do, also where some places lack some rows.

    Args:
        labelled: the rows of each place.
        runs: how many sets of labels.
        seed: where they come from.
        whole: groups that have several labels exchange them as a whole too, with groups of the
            same make. Classes do not: what differs within a group is what tells them apart there.

    Returns:
        One for each place.
    """
    # Layers of the same examples come with the same arrays: one of them stands for all.
    known: dict[tuple[bytes, ...], int] = {}
    places = [
        known.setdefault(tuple(map(np.ndarray.tobytes, each)), len(known)) for each in labelled
    ]
    first = [labelled[places.index(number)] for number in range(len(known))]
    labels = np.concatenate([each.labels for each in first])
    levels = np.column_stack(
        [
            np.concatenate([each.part for each in first]),
            np.concatenate([each.groups for each in first]),
            np.concatenate([each.units for each in first]),
        ]
    )
    codes = np.zeros(len(labels), np.int64)
    for column in (*levels.T, labels):
        values = np.unique(column, return_inverse=True)[1]
        codes = np.unique(codes * (int(values.max(initial=0)) + 1) + values, return_inverse=True)[1]
    _, chosen, units = np.unique(codes, return_index=True, return_inverse=True)
    drawn = exchanged(labels[chosen], levels[chosen], runs, seed)
    if whole:
        drawn = wholes_exchanged(labels[chosen], drawn, levels[chosen], seed)
    ends = np.cumsum([len(each.labels) for each in first])
    own = np.split(units.astype(np.int64), ends[:-1])
    return [Shuffled(drawn, own[place]) for place in places]


def exchanged(labels: np.ndarray, levels: np.ndarray, runs: int, seed: int) -> np.ndarray:
    """Return labels shuffled within the finest thing that has several of them.

    Args:
        labels: bool, or numbers of classes, ``[units]``.
        levels: int64 ``[units, kinds]``, from the parts that exchange nothing with each other
            down to the finest thing; units that are equal in all are exchanged last of all.
        runs: how many sets of labels.
        seed: where they come from.

    Returns:
        ``[units, runs]``, of the labels' type.
    """
    generator = np.random.default_rng([seed, 1])
    found = np.repeat(labels[:, None], runs, axis=1)
    active = np.arange(len(labels))
    parents = np.unique(levels[:, 0], return_inverse=True)[1]
    for kind in (*levels[:, 1:].T, np.arange(len(labels))):
        if not len(active):
            break
        values = np.unique(kind[active], return_inverse=True)[1]
        children = np.unique(parents * (int(values.max()) + 1) + values, return_inverse=True)[1]
        count = int(children.max()) + 1
        label = np.empty(count, labels.dtype)
        label[children] = labels[active]
        pure = np.ones(count, bool)
        pure[children[label[children] != labels[active]]] = False
        above = np.empty(count, np.int64)
        above[children] = parents
        drawn = np.empty((count, runs), labels.dtype)
        for places in _siblings(np.flatnonzero(pure), above):
            own = np.repeat(label[places][..., None], runs, axis=2)
            drawn[places] = generator.permuted(own, axis=1)
        settled = pure[children]
        found[active[settled]] = drawn[children[settled]]
        active, parents = active[~settled], children[~settled]
    return found


def wholes_exchanged(
    labels: np.ndarray, drawn: np.ndarray, levels: np.ndarray, seed: int
) -> np.ndarray:
    """Return shuffled labels with those of whole groups exchanged, where groups have several.

    Within a group alone, what the groups' means have to do with the vectors would be kept. Only
    groups of the same part change places that are made of as many things in the same way.

    Args:
        labels: the real ones, ``[units]``.
        drawn: as :func:`exchanged` returned them, ``[units, runs]``.
        levels: as it took them: parts, groups, and what these are made of.
        seed: where they come from.
    """
    order = np.lexsort(levels.T[::-1])
    starts = np.flatnonzero(np.diff(levels[order, :2], axis=0, prepend=-2).any(1))
    makes: dict[tuple[object, ...], list[np.ndarray]] = {}
    for rows in np.split(order, starts[1:]):
        if (labels[rows] == labels[rows[0]]).all():
            continue
        inner = [np.unique(column, return_inverse=True)[1] for column in levels[rows, 2:].T]
        make = (int(levels[rows[0], 0]), np.array(inner).tobytes())
        makes.setdefault(make, []).append(rows)
    generator = np.random.default_rng([seed, 3])
    found = drawn.copy()
    for groups in makes.values():
        rows = np.array(groups)
        places = np.repeat(np.arange(len(rows))[:, None], drawn.shape[1], axis=1)
        places = generator.permuted(places, axis=0)
        for run in range(drawn.shape[1]):
            found[rows, run] = drawn[rows[places[:, run]], run]
    return found


def _siblings(children: np.ndarray, above: np.ndarray) -> list[np.ndarray]:
    """Return children of one parent each, parents with as many children together.

    Returns:
        int64 ``[parents, children]`` for each number of children.
    """
    ordered = children[np.argsort(above[children], kind="stable")]
    _, starts, counts = np.unique(above[ordered], return_index=True, return_counts=True)
    return [
        ordered[starts[counts == count][:, None] + np.arange(count)]
        for count in np.unique(counts).tolist()
    ]
