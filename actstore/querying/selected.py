"""Selected rows: chosen rows that hand over their vectors, as a matrix or a tensor."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from actstore.errors import UsageError
from actstore.querying import mixture
from actstore.querying.chosen import ChosenRows
from actstore.storage import floats

if TYPE_CHECKING:
    import torch

    from actstore import schema


class SelectedRows(ChosenRows):
    """Rows of a store at one commit, in a fixed order, with their vectors.

    The order is the store's row order (by model, site, layer, then as rows came in), unless
    :meth:`take` made another. Vectors are read from the memory map when asked for. This is
    what statistics, probes, training and exports take.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width of :meth:`numpy`.

        Raises:
            MixedVectorsError: the vectors differ in width.
        """
        return len(self), self._vector_shape()[0]

    @property
    def dtype(self) -> schema.VectorType:
        """Type of :meth:`numpy`: ``float16`` or ``float32``."""
        return self._vector_shape()[1]

    def numpy(
        self, *, copy: bool | None = True, out: np.ndarray | None = None, mixed: bool = False
    ) -> np.ndarray:
        """Return the vectors as a matrix ``[rows, width]`` in the stored type.

        Args:
            copy: True for memory of your own; None for a read-only view of the map where
                the rows are one run there, else a copy; False for the view or an error.
            out: C-contiguous matrix to fill, float16 or float32. Filling memory that was
                used before is about twice as fast as filling fresh memory.
            mixed: take rows that differ in model, site, pooling, region or layer, though no
                condition of :meth:`Store.select` listed the values.

        Raises:
            MixedVectorsError: the vectors differ in where they were taken, or in width.
            UsageError: ``copy=False`` and the rows are not one run, or ``out`` does not fit.
        """
        mixture.refuse(self, mixed=mixed)
        if out is not None:
            if not copy:
                raise UsageError("out= is filled by copying: leave copy= out")
            if out.dtype == np.float32 and self.dtype == "float16":
                return self._widened(out)
            return self._snapshot.gather(self.rows, out)
        if copy:
            return self._gather()
        view = self._view()
        if view is None and copy is False:
            raise UsageError(
                f"the {len(self)} rows are not one run in one row group, so there is no view of "
                "them: use copy=None to copy only where needed"
            )
        return self._gather() if view is None else view

    def tensor(
        self,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        *,
        copy: bool | None = True,
        mixed: bool = False,
    ) -> torch.Tensor:
        """Return the vectors as a tensor ``[rows, width]``.

        Args:
            dtype: a torch dtype or its name; the stored type when missing.
            device: where to put it; the CPU when missing.
            copy: as in :meth:`numpy`. A view is read-only memory: writing to it ends the
                process.
            mixed: as in :meth:`numpy`.

        Raises:
            MixedVectorsError: the vectors differ in where they were taken, or in width.
            UsageError: there is no such dtype, or ``copy=False`` and no view.
        """
        import torch

        wanted = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if dtype is not None and not isinstance(wanted, torch.dtype):
            raise UsageError(f"torch has no dtype {dtype!r}: use one such as 'float32'")
        mixture.refuse(self, mixed=mixed)
        if wanted is torch.float32 and copy and self.dtype == "float16":
            matrix = self._widened(np.empty(self.shape, np.float32))
        else:
            matrix = self.numpy(copy=copy, mixed=True)  # looked at above
        if matrix.flags.writeable:
            tensor = torch.from_numpy(matrix)
        else:
            with warnings.catch_warnings():
                # "not writable": said above, and the caller asked for it.
                warnings.simplefilter("ignore", UserWarning)
                tensor = torch.from_numpy(matrix)
        return tensor.to(device=device, dtype=wanted)

    def _gather(self) -> np.ndarray:
        if not len(self):
            return np.empty(self.shape, self.dtype)
        return self._snapshot.gather(self.rows)

    def _widened(self, out: np.ndarray) -> np.ndarray:
        """Fill float32 ``out`` from float16 rows, block by block."""
        if out.shape != self.shape or not out.flags.c_contiguous:
            return self._snapshot.gather(self.rows, out)  # says what does not fit
        step = max(1, (1 << 20) // max(1, out.shape[1]))
        for start in range(0, len(self), step):
            part = self._snapshot.gather(self.rows[start : start + step])
            floats.widen(part, out[start : start + step])
        return out

    def _view(self) -> np.ndarray | None:
        if not len(self):
            return self._gather()
        first, last = int(self.rows[0]), int(self.rows[-1])
        if last - first != len(self) - 1 or not bool((np.diff(self.rows) == 1).all()):
            return None
        return self._snapshot.view(first, last + 1)

    def _vector_shape(self) -> tuple[int, schema.VectorType]:
        return self._snapshot.shape(self._snapshot.offsets[self._touched()])
