"""Numbers between NumPy and Arrow without pandas, whose import takes a third of a second.

`pa.array`, `to_numpy` and whatever else looks at an object of Python's asks first whether it is one
of pandas'. A process that opens a store to ask one question should not wait for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


def array(values: np.ndarray) -> pa.Array:
    """Return numbers as an Arrow array of the same type, which shares their memory.

    Args:
        values: integers or floats ``[n]``.
    """
    import pyarrow as pa

    whole = np.ascontiguousarray(values)
    kind = pa.from_numpy_dtype(whole.dtype)
    return pa.Array.from_buffers(kind, len(whole), [None, pa.py_buffer(whole)])


def values(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of numbers as ``[n]``, of the same type; null is NaN."""
    if column.null_count or not column.num_chunks:
        found: np.ndarray = column.to_numpy()
        return found
    if column.num_chunks == 1:
        one: np.ndarray = np.from_dlpack(column.chunk(0))
        return one
    return np.concatenate([np.from_dlpack(chunk) for chunk in column.chunks])
