"""Rows as scikit-learn takes them: X, y and groups, and a split that keeps groups together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from actstore.analysis.examples import classes
from actstore.analysis.examples.example_groups import groups_of
from actstore.errors import NotInStoreError, TooFewRowsError, UsageError

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows

Rows = TypeVar("Rows", bound="SelectedRows")
_LISTED = 8


class XY(NamedTuple):
    """What an estimator is fitted to."""

    X: np.ndarray
    """Vectors, ``[rows, width]``."""
    y: np.ndarray
    """Labels, or 1 for the positive ones and 0 for the others, ``[rows]``."""
    groups: np.ndarray
    """Which rows belong together, int64 ``[rows]``: for ``GroupKFold`` and the like."""


def xy(
    rows: SelectedRows,
    label: str,
    positive: str | float | Sequence[str | float] | None,
    groups: str | None,
    *,
    dtype: str | None,
    mixed: bool,
) -> XY:
    """Return vectors, labels and groups of rows; see ``Selection.xy``."""
    column = rows.table([label])[label]
    labelled = np.flatnonzero(column.is_valid().to_numpy())
    if not len(labelled):
        raise TooFewRowsError(f"no row of {rows!r} has a value in {label}, so there is no y")
    kept = rows.take(labelled)
    y = column.take(labelled).to_numpy(zero_copy_only=False)
    if positive is not None:
        wanted = classes.listed(positive)
        if not wanted:
            raise UsageError("positive names no class: give a value, or leave it out")
        named = {value: classes.text(value) for value in set(y.tolist())}
        for value in wanted:
            if value not in named.values():
                there = ", ".join(map(repr, sorted(named, key=str)[:_LISTED]))
                raise NotInStoreError(f"no row here has {label} {value!r}; there are {there}")
        y = np.array([named[value] in wanted for value in y.tolist()], np.int64)
    X = kept.numpy(mixed=mixed)
    if dtype is not None:
        X = X.astype(dtype, copy=False)
    return XY(X, y, groups_of(kept, groups).groups)


def split(
    rows: Rows, by: str | None = None, *, test: float = 0.25, seed: int = 0
) -> tuple[Rows, Rows]:
    """Return training and test rows, no group in both; see ``Selection.split``."""
    if by is not None and not isinstance(by, str):
        raise UsageError(f"by names what stays together, got {by!r}: give a share as test=0.25")
    if not 0 < test < 1:
        raise UsageError(f"test is the share of rows to test on, between 0 and 1, got {test}")
    groups = groups_of(rows, by).groups
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) < 2:
        raise TooFewRowsError(
            f"{rows!r} is one group by {by or 'question and example'}, which cannot be split: "
            "name another column with by="
        )
    order = np.random.default_rng(seed).permutation(len(names))
    before = np.concatenate([[0], np.cumsum(sizes[order])])
    # As many groups as come nearest to the share, at least one on either side.
    count = int(np.abs(before - test * len(rows))[1:-1].argmin()) + 1
    tested = np.isin(groups, names[order[:count]])
    return rows.take(np.flatnonzero(~tested)), rows.take(np.flatnonzero(tested))
