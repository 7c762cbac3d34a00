"""What the vectors of a selection look like, group by group: one pass, bounded memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore.analysis.statistics import group_by
from actstore.analysis.statistics.moments import Moments, measure
from actstore.querying.mixture import differing, refuse
from actstore.schema import PLACE

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows

OUTLIER_RATIO = 6.0
"""A dimension is an outlier when its root mean square is so many times the median one's."""
_LISTED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class NormSummary:
    """How the L2 norms of some vectors are spread; norms that are not finite are left out."""

    mean: float
    std: float
    minimum: float
    q05: float
    median: float
    q95: float
    maximum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierDimension:
    """A dimension that is much larger than the others."""

    dimension: int
    mean: float
    rms: float
    """Root mean square."""
    ratio: float
    """Its root mean square over that of the median dimension."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """One group of rows. Mean, std, minimum and maximum are over all finite values."""

    group: dict[str, Any]
    """The values of the columns that the rows were grouped by."""
    rows: int
    widths: tuple[int, ...]
    mean: float | None
    """None where no value is finite; so are the next three."""
    std: float | None
    """Divided by n."""
    minimum: float | None
    maximum: float | None
    zeros: float
    """Share of values that are zero."""
    nonfinite: int
    """Values that are NaN or infinite."""
    norm: NormSummary | None
    outlier_count: int
    """Outlier dimensions; see :data:`OUTLIER_RATIO`."""
    outliers: tuple[OutlierDimension, ...]
    """The largest ten of them."""

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return dataclasses.asdict(self)


def describe(
    selection: SelectedRows,
    by: Sequence[str] = PLACE,
    *,
    mixed: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Statistics]:
    """Return statistics of the vectors of ``selection``, by the values of some columns.

    Every vector is read once, in blocks of about a megabyte; sums are kept in float64 and
    merged so that large means do not hide small spreads. Also for stores on the Hub.

    Args:
        selection: which rows.
        by: metadata columns; without any, all rows are one group.
        mixed: let a group hold rows of several models, sites, poolings, regions or layers,
            though nobody listed them.
        progress: called with the bytes and rows read since the last call.

    Raises:
        NotInStoreError: there is no such column.
        MixedVectorsError: a group has rows of several places, and nobody asked for that.
    """
    groups = group_by.group(selection, by)
    others = [name for name in PLACE if name not in by]
    # Where all rows are of one place, there is no group to look at.
    if not mixed and differing(selection, others):
        advice = f"group by it too (--by {','.join([*by, '{columns}'])})"
        for found in groups:
            part = selection.take(found.places)
            refuse(part, columns=others, instead=advice, any_width=True)
    norms = selection.table(["norm"])["norm"].to_numpy()
    return [
        _summarize(
            found.key,
            measure(selection.snapshot, selection.rows[found.places], progress),
            norms[found.places],
        )
        for found in groups
    ]


def _summarize(key: dict[str, Any], parts: list[Moments], norms: np.ndarray) -> Statistics:
    count, mean, squares = 0.0, 0.0, 0.0
    for part in parts:
        n, its_mean, its_squares = part.pooled()
        if n:
            apart = its_mean - mean
            squares += its_squares + apart * apart * count * n / (count + n)
            mean += apart * n / (count + n)
            count += n
    values = sum(part.rows * part.width for part in parts)
    outliers = outlier_dimensions(parts[0]) if len(parts) == 1 else []
    return Statistics(
        group=key,
        rows=len(norms),
        widths=tuple(part.width for part in parts),
        mean=mean if count else None,
        std=math.sqrt(squares / count) if count else None,
        minimum=min(part.minimum for part in parts) if count else None,
        maximum=max(part.maximum for part in parts) if count else None,
        zeros=sum(part.zeros for part in parts) / values,
        nonfinite=sum(part.nonfinite for part in parts),
        norm=summarize_norms(norms),
        outlier_count=len(outliers),
        outliers=tuple(outliers[:_LISTED]),
    )


def outlier_dimensions(moments: Moments) -> list[OutlierDimension]:
    """Return the dimensions that stand out, the largest first."""
    rms = moments.rms
    usual = float(np.median(rms))
    if not usual:
        return []
    ratios = rms / usual
    found = np.flatnonzero(ratios >= OUTLIER_RATIO)
    return [
        OutlierDimension(
            dimension=number,
            mean=float(moments.mean[number]),
            rms=float(rms[number]),
            ratio=float(ratios[number]),
        )
        for number in found[np.argsort(-ratios[found], kind="stable")].tolist()
    ]


def summarize_norms(norms: np.ndarray) -> NormSummary | None:
    """Return the spread of float ``[rows]`` norms; None where none is finite."""
    known = np.asarray(norms, np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return None
    q05, median, q95 = np.quantile(known, (0.05, 0.5, 0.95)).tolist()
    return NormSummary(
        mean=float(known.mean()),
        std=float(known.std()),
        minimum=float(known.min()),
        q05=q05,
        median=median,
        q95=q95,
        maximum=float(known.max()),
    )
