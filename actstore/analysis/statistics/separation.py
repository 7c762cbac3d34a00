"""How well the difference of two classes' means tells them apart: AUROC, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore.analysis.examples import classes, example_groups
from actstore.analysis.statistics import folds, metrics, sampling
from actstore.errors import TooFewRowsError
from actstore.storage import floats
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows

FOLDS = 5
SAMPLE = 2000
"""Rows of each layer at most."""
_LARGE = 1e12


class Separation(NamedTuple):
    """One layer's result."""

    layer: int | None
    auroc: metrics.IntervalEstimate
    rows: int
    positives: int
    folds: int


class Separations(NamedTuple):
    """All layers' results, and of which classes they are."""

    positive: str
    negative: str
    layers: tuple[Separation, ...]
    note: str
    """What was done, and with how many rows."""


def by_layer(
    selection: SelectedRows,
    label: str = "label",
    *,
    positive: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    most: int = SAMPLE,
) -> Separations:
    """Return cross-validated AUROCs along the difference of the class means.

    Each row is scored along a direction found without its fold, and rows that share their
    example or question stay in one fold. This is the cheap look; a
    trained probe with its baselines is what ``actstore probe`` is for.

    Args:
        selection: of one model, site and pooling.
        label: column with the classes.
        positive: as for ``actstore probe``; all others are the other class.
        negative: the same.
        most: rows of each layer to look at.

    Raises:
        TooFewRowsError: one class only, or fewer examples of a class than two.
        UsageError: more than two classes and none was named.
    """
    sampling.require_one_place(selection)
    values = selection.table([label])[label].to_pylist()
    found = classes.find(label, values, positive, negative, option="--by")
    named = {value: classes.text(value) for value in set(values) - {None}}
    texts = np.array([named.get(value) for value in values], object)
    used = np.isin(texts, [*found.positive, *found.negative])
    kept, layers = selection.take(used), sampling.layers_of(selection)[used]
    texts = texts[used]
    names = sampling.layer_values(selection)
    results, nonfinite = [], 0
    for number in np.unique(layers).tolist():
        places = np.flatnonzero(layers == number)
        drawn = sampling.draw(kept.take(places), most)
        one = _layer(drawn.selection, np.isin(texts[places][drawn.places], found.positive))
        if one is not None:
            results.append(one._replace(layer=names[number]))
            nonfinite += len(drawn.selection) - one.rows
    if not results:
        raise TooFewRowsError(
            f"no layer has two examples of each class, {found.names[0]} and {found.names[1]}"
        )
    largest = max(result.rows for result in results)
    least, most_folds = (pick(result.folds for result in results) for pick in (min, max))
    told = f"{least} folds" if least == most_folds else f"{least} to {most_folds} folds"
    return Separations(
        *found.names,
        tuple(results),
        f"difference of means, not a trained probe; {told}, up to {counted(largest)} a layer"
        + (f"; {nonfinite:,} not finite" if nonfinite else ""),
    )


def _layer(selection: SelectedRows, positive: np.ndarray) -> Separation | None:
    vectors = floats.widen(selection.numpy())
    finite = np.isfinite(vectors).all(axis=1)
    groups = example_groups.groups_of(selection).groups[finite]
    positive = positive[finite]
    if not finite.all():
        vectors = vectors[finite]
    fewest = min(len(np.unique(groups[positive == side])) for side in (True, False))
    if fewest < 2:
        return None
    divided = folds.grouped(positive, groups, min(FOLDS, fewest), 0)
    # Scale means nothing to an AUROC, and squares of such values leave float32's range.
    largest = float(np.abs(vectors).max(initial=0))
    if largest > _LARGE:
        vectors /= np.float32(largest)
    vectors -= vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    # Each fold's class sums are taken once; a direction needs all but its own fold's.
    belongs = np.zeros((2, len(divided), len(vectors)), np.float32)
    for number, fold in enumerate(divided):
        for side in (0, 1):
            belongs[side, number, fold.test[positive[fold.test] == bool(side)]] = 1
    counts = belongs.sum(axis=2)
    sums = (belongs.reshape(-1, len(vectors)) @ vectors).reshape(2, len(divided), -1)
    scores = np.zeros(len(vectors))
    tested = []
    for number, fold in enumerate(divided):
        left = counts.sum(axis=1) - counts[:, number]
        if not left.all() or not counts[:, number].all():
            continue
        means = (sums.sum(axis=1) - sums[:, number]) / left[:, None]
        scores[fold.test] = vectors[fold.test] @ (means[1] - means[0])
        tested.append(fold)
    if not tested:
        return None
    estimate = metrics.auroc_interval(scores, positive, groups, tested)
    return Separation(None, estimate, len(vectors), int(positive.sum()), len(tested))
