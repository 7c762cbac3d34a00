"""Steering vectors: the difference of two classes' means at each layer, and how they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore.analysis.examples import classes, lineages, place_rows
from actstore.analysis.examples.classes import Classes
from actstore.analysis.examples.place_rows import ActivationPlace, PlaceRows, RowChoice
from actstore.analysis.statistics.metrics import IntervalEstimate
from actstore.analysis.steering import held_out
from actstore.analysis.steering.held_out import HeldOutSeparation
from actstore.errors import TooFewRowsError, UsageError

if TYPE_CHECKING:
    from actstore.querying.reader import StoreReader


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeringVector:
    """A steering vector: the positive class's mean minus the negative one's."""

    place: ActivationPlace
    vector: np.ndarray
    """Float32 ``[width]``, not normalised."""
    norm: float
    mean_norm: float
    """Mean L2 norm of the vectors it was made of, to judge a scale by."""
    separation: float | None
    """Distance of the classes' means along the vector in standard deviations (Cohen's d),
    on examples that the vector was not made of; None where they are too few."""
    auroc: IntervalEstimate | None
    """Of the projection on the vector, on examples that it was not made of."""
    p_family: float | None
    """Share of runs with shuffled labels whose best layer has at least this AUROC."""
    cosine_next: float | None
    """Cosine with the vector of the next layer that was made."""
    rows: tuple[int, int]
    """Of the positive and the negative class."""
    rows_hash: str
    made_of: np.ndarray
    """Keys of the rows (see :mod:`actstore.analysis.examples.lineages`), uint64 ``[keys]``."""

    @property
    def normalized(self) -> np.ndarray:
        """The vector with norm 1."""
        return (self.vector / self.norm).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeringVectors:
    """The vectors of one site and pooling, by layer."""

    vectors: list[SteeringVector]
    classes: Classes
    lineage: dict[str, Any]
    notes: list[str]


def steer(
    store: StoreReader,
    *,
    positive: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    label: str = "label",
    choice: RowChoice | None = None,
    group_by: str | None = None,
    seed: int = 0,
) -> SteeringVectors:
    """Make a steering vector for each layer: mean of ``positive`` minus mean of ``negative``.

    Tokens of one example are averaged first, so that long examples do not count more. How
    well a vector separates the classes is measured on examples that it was not made of.

    Args:
        store: where the rows are.
        positive: value or values of the class to steer towards.
        negative: of the class to steer away from; all others when missing.
        label: column with the classes.
        choice: which rows; they must be of one model, site and pooling.
        group_by: as for probes, where the separation is measured.
        seed: of the folds in which it is.

    Raises:
        UsageError: rows of several models, sites or poolings.
        TooFewRowsError: a class has no rows in some layer, or vectors are not finite.
        NotInStoreError: there are no such rows or classes.
    """
    chosen = choice or RowChoice()
    notes: list[str] = []
    selection, values = place_rows.rows_and_labels(store, chosen, label)
    sides = classes.find(label, values, positive, negative)
    found = place_rows.by_place(selection, sides, group_by, notes)
    kinds = {rows.place._replace(layer=None) for rows in found}
    if len(kinds) > 1:
        told = ", ".join(sorted(f"{k.site} ({k.pooling}, {k.region})" for k in kinds))
        raise UsageError(
            f"a vector is for one site and pooling, and the rows have {told}: choose with --sites, "
            "--pool or --where"
        )
    parts = [held_out.examples(rows) for rows in found]
    plan = held_out.plan(parts, seed)
    made, held = [], list[HeldOutSeparation | None]()
    for rows, part in zip(found, parts, strict=True):
        _check_classes(rows)
        vectors = rows.vectors()
        means = part.means(vectors)
        made.append(_vector(rows, part.positive, means, vectors))
        held.append(None if plan is None else held_out.measure(means, part, plan))
    made = [
        _judged(one, one_held, p)
        for one, one_held, p in zip(made, held, held_out.family_p(held), strict=True)
    ]
    low = [one for one in made if one.auroc is not None and one.auroc.high < 0.5]
    if low:
        told = ", ".join(f"{one.place.text} {one.auroc.value:.3f}" for one in low if one.auroc)
        notes.append(
            f"AUROCs below what chance gives ({told}): as a rule labels are balanced within a "
            f"hidden group that the folds split; here {found[0].grouping.grouped_by} keeps rows "
            "together: name what belongs together with --group-by"
        )
    lineage = {
        "store": place_rows.store_name(store),
        "commit": store.commit,
        "store_fingerprint": store.fingerprint,
        "query": chosen.text,
        "label": label,
        "positive": list(sides.positive),
        "negative": list(sides.negative),
        "group_by": found[0].grouping.grouped_by,
        "shuffles": held_out.SHUFFLES,
        "seed": seed,
    }
    return SteeringVectors(vectors=_with_cosines(made), classes=sides, lineage=lineage, notes=notes)


def _check_classes(rows: PlaceRows) -> None:
    count = int(rows.positive.sum())
    if not 0 < count < len(rows):
        raise TooFewRowsError(
            f"{rows.place.text}: {count} rows of the positive class among {len(rows)}; both "
            "classes are needed in every layer"
        )


def _vector(
    rows: PlaceRows,
    positive: np.ndarray,
    means: np.ndarray,
    vectors: np.ndarray,
) -> SteeringVector:
    """Return a place's vector, not yet judged; ``positive`` and ``means`` are its examples'."""
    count = int(rows.positive.sum())
    towards, away = (means[positive == side].mean(0, dtype=np.float64) for side in (True, False))
    vector = (towards - away).astype(np.float32)
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if norm == 0:
        raise TooFewRowsError(f"{rows.place.text}: both classes have the same mean, no direction")
    return SteeringVector(
        place=rows.place,
        vector=vector,
        norm=norm,
        mean_norm=float(np.linalg.norm(vectors, axis=1).mean()),
        separation=None,
        auroc=None,
        p_family=None,
        cosine_next=None,
        rows=(count, len(rows) - count),
        rows_hash=place_rows.rows_hash(rows),
        made_of=lineages.keys(rows.selection, rows.grouping.grouped_by),
    )


def _judged(
    one: SteeringVector, held: HeldOutSeparation | None, p_family: float | None
) -> SteeringVector:
    if held is None:
        return one
    return replace(one, separation=held.separation, auroc=held.auroc, p_family=p_family)


def _with_cosines(made: list[SteeringVector]) -> list[SteeringVector]:
    found = []
    for number, one in enumerate(made):
        cosine = None
        if number + 1 < len(made):
            other = made[number + 1]
            if len(other.vector) == len(one.vector):
                cosine = float(one.normalized @ other.normalized)
        found.append(replace(one, cosine_next=cosine))
    return found
