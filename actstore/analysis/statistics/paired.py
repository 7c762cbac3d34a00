"""How much larger one figure is than another of the same rows, with its interval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class PairedDifference(NamedTuple):
    """A difference of two AUROCs, or of two R², that are paired by row and group."""

    value: float
    low: float
    high: float
    shares: np.ndarray
    """What each group adds to its error, float64 ``[groups]`` by the groups' numbers."""
    error: float
    """Its standard error: what the reach of the interval is a multiple of."""
    freedom: float
    """Degrees of freedom of that error."""
