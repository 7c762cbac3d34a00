"""Whether two vectors are the same: bit for bit, and across the types that they are stored in."""

from __future__ import annotations

import numpy as np

from actstore.storage import floats, quantised


def same(
    left: np.ndarray, right: np.ndarray, left_quantised: bool, right_quantised: bool
) -> np.ndarray:
    """Compare rows as they are handed out: bool ``[rows]``.

    Where one side is stored as int8 and the other is not, that is the same which would be the
    same if both were: a store that was made smaller still knows the rows that it was made of.
    """
    equal = floats.same_bits(left, right)
    if left_quantised == right_quantised or left.shape[1] != right.shape[1] or equal.all():
        return equal
    whole, other = (left, right) if left_quantised else (right, left)
    rest = np.flatnonzero(~equal)
    equal[rest] = floats.same_bits(whole[rest], quantised.rounded(other[rest]))
    return equal
