"""Batches of a selection: shuffled, split between ranks, normalised, resumable."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import index
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

import numpy as np

from actstore import schema
from actstore.errors import MismatchError, UsageError
from actstore.querying import mixture
from actstore.querying.metadata import ROW_ID, check_columns
from actstore.training import normalisation as normalising
from actstore.training import state as states
from actstore.training.normalisation import Normalisation
from actstore.training.order import Ordering
from actstore.training.plan import Place, Plan, Step
from actstore.training.prefetch import Ahead
from actstore.training.reading import (
    BLOCK_BYTES,
    WINDOW_BYTES,
    MatrixMaker,
    OrderReader,
    stored_type,
)
from actstore.training.state import Lane

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from actstore.querying.selected import SelectedRows

Shuffled = bool | Literal["exact", "blocks"]
_PREFETCH = 1
_WHOLE = ("size", "seed", "rank", "world_size")
_WHOLE_OR_NONE = ("epoch", "epochs", "block", "prefetch")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """What :meth:`Selection.batches` takes, all but the state."""

    size: int
    shuffle: Shuffled = False
    seed: int = 0
    columns: Sequence[str] | None = None
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False
    epoch: int | None = None
    epochs: int | None = 1
    block: int | None = None
    dtype: schema.VectorType | None = None
    normalise: normalising.Kind | Normalisation | None = None
    prefetch: int | None = None
    pin_memory: bool | None = None
    mixed: bool = False

    def __post_init__(self) -> None:
        for name in (*_WHOLE, *_WHOLE_OR_NONE):
            value = getattr(self, name)
            if value is not None or name in _WHOLE:
                object.__setattr__(self, name, whole(name, value))


class BatchOptions(TypedDict, total=False):
    """The fields of :class:`BatchSettings` but the size, as keywords."""

    shuffle: Shuffled
    seed: int
    columns: Sequence[str] | None
    rank: int
    world_size: int
    drop_last: bool
    epoch: int | None
    epochs: int | None
    block: int | None
    dtype: schema.VectorType | None
    normalise: normalising.Kind | Normalisation | None
    prefetch: int | None
    pin_memory: bool | None
    mixed: bool


class Batch(NamedTuple):
    """Some rows of a selection."""

    vectors: np.ndarray
    """As stored, or as asked for: ``[rows, width]``."""
    table: pa.Table
    """Their metadata, one row each."""

    def tensor(self, device: torch.device | str | None = None) -> torch.Tensor:
        """Return the vectors as a tensor; to a GPU they travel while the program goes on."""
        import torch

        return torch.from_numpy(self.vectors).to(device, non_blocking=True)


class Made(NamedTuple):
    """A batch, and where the pass stands after it."""

    batch: Batch
    after: Place


class Batches(Iterator[Batch]):
    """Batches one after the other; what is left of them can be saved at any point.

    Made by :meth:`Selection.batches`. ``len()`` is how many batches are still to come.

    Args:
        selection: whose rows.
        settings: as :meth:`Selection.batches` takes them.
        state: where to go on.
        lane: the worker that this is, of several that take turns.
    """

    def __init__(
        self,
        selection: SelectedRows,
        settings: BatchSettings,
        state: Mapping[str, Any] | None = None,
        lane: Lane | None = None,
    ) -> None:
        if (settings.prefetch or 0) < 0:
            raise UsageError(f"prefetch is a number of batches, got {settings.prefetch}")
        mixture.refuse(selection, mixed=settings.mixed)
        self._selection = selection
        self._settings = settings
        self._lane = lane or Lane()
        self._names = check_columns(settings.columns)
        self._table: pa.Table | None = None
        self._hash: str | None = None
        self._lock = Lock()
        snapshot = selection.snapshot
        width, stored = selection.shape[1], selection.dtype
        row_bytes = max(1, width * np.dtype(stored).itemsize)
        self._plan = Plan(
            rows=len(selection),
            size=settings.size,
            ordering=ordering(
                settings,
                remote=snapshot.files.portion is not None,
                block=max(1, BLOCK_BYTES // row_bytes),
                window=max(1, WINDOW_BYTES // row_bytes),
            ),
            rank=settings.rank,
            world_size=settings.world_size,
            drop_last=settings.drop_last,
            first_epoch=settings.epoch or 0,
            epochs=settings.epochs,
        )
        self.normalisation = _normalisation(selection, settings.normalise)
        """What was done to each vector; None where nothing was."""
        self._reader = OrderReader(
            snapshot,
            selection.rows,
            self._plan.ordering,
            MatrixMaker(
                snapshot,
                width=width,
                stored=stored_type(snapshot, selection._touched().tolist()),
                dtype=check_dtype(settings.dtype, stored, self.normalisation),
                normalisation=self.normalisation,
                pinned=use_pinned(settings.pin_memory),
            ),
            end=self._plan.end,
        )
        self._place = self._plan.start
        self._ahead: Ahead[Made] | None = None
        if state is not None:
            self.load_state_dict(state)

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        if self._ahead is None:
            depth = self._settings.prefetch
            if depth is None:
                depth = _PREFETCH if self._plan.ordering.shuffle != "none" else 0
            self._ahead = Ahead(self._tasks, depth)
        batch, self._place = next(self._ahead)
        self._lane = self._lane._replace(skip=self._lane.workers - 1)
        return batch

    def __len__(self) -> int:
        left = self._plan.left(self._place)
        if left is None:
            raise TypeError("endless batches (epochs=None) have no length")
        return len(range(self._lane.skip, left, self._lane.workers))

    def __repr__(self) -> str:
        epoch, position = self._place
        return f"Batches(of {self._selection!r}, epoch {epoch}, position {position})"

    @property
    def plan(self) -> Plan:
        """How the rows are dealt out."""
        return self._plan

    @property
    def place(self) -> Place:
        """The pass, and how far it is, after the last batch that was taken."""
        return self._place

    def state(self) -> dict[str, Any]:
        """Return where the iteration stands after the last batch that was taken.

        Plain JSON values, to be saved beside the model. Given to ``state=`` of batches of
        the same rows in the same order, these go on with the next batch, bit for bit as if
        there had been no break. ``size`` may differ then, and ``world_size`` too unless
        blocks are shuffled.
        """
        lane = self._lane if self._lane.workers > 1 else None
        return states.pack(
            self._plan,
            self._place,
            rows_hash=self._fingerprint(),
            commit=self._selection.snapshot.manifest.number,
            lane=lane,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return :meth:`state`, under the name that torch uses."""
        return self.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            UsageError: it is no state.
            MismatchError: it belongs to other rows, another order or another worker.
        """
        found = states.unpack(
            state,
            self._plan,
            rows_hash=self._fingerprint(),
            commit=self._selection.snapshot.manifest.number,
            epoch=self._settings.epoch,
        )
        mine = self._lane
        if found.lane is None:
            lane = Lane(mine.worker, mine.workers, mine.worker)
        elif found.lane[:2] == mine[:2]:
            lane = found.lane
        else:
            raise MismatchError(
                f"the state is of worker {found.lane.worker} of {found.lane.workers}, this is "
                f"worker {mine.worker} of {mine.workers}: use as many workers as when it was saved"
            )
        self.close()
        if self._settings.epoch is None:
            self._plan = replace(self._plan, first_epoch=found.first_epoch)
        self._place, self._lane, self._ahead = found.place, lane, None

    def has_nulls(self, column: str) -> bool:
        """Say whether a metadata column that a batch had is null in some row of the selection."""
        return self._table is not None and bool(self._table[column].null_count)

    def close(self) -> None:
        """Begin no further batches ahead of time."""
        if self._ahead is not None:
            self._ahead.close()

    def _tasks(self) -> Iterator[Callable[[], Made]]:
        for step in self._plan.steps(self._place, self._lane.skip, self._lane.workers):
            yield partial(self._make, step)

    def _make(self, step: Step) -> Made:
        chosen, vectors = self._reader.read(step.epoch, step.start, step.stop)
        return Made(Batch(vectors, self._metadata(chosen)), step.after)

    def _metadata(self, chosen: np.ndarray) -> pa.Table:
        import pyarrow as pa

        if set(self._names) <= {ROW_ID}:
            rows = np.asarray(self._selection.rows[chosen])
            return pa.table({ROW_ID: pa.array(rows)}).select(self._names)
        with self._lock:
            if self._table is None:
                table = self._selection.table(self._names)
                # Rows picked from one piece come much faster than from many.
                in_order = self._plan.ordering.shuffle == "none"
                self._table = table if in_order else table.combine_chunks()
        if self._plan.ordering.shuffle == "none":
            return self._table.slice(int(chosen[0]), len(chosen))
        return self._table.take(pa.array(chosen))

    def _fingerprint(self) -> str:
        if self._hash is None:
            snapshot = self._selection.snapshot
            self._hash = states.fingerprint(snapshot, [self._selection.rows])
        return self._hash


def whole(name: str, value: Any) -> int:
    """Return a whole number, of NumPy's too, as Python's own: it may be part of a state.

    Raises:
        UsageError: it is something else.
    """
    try:
        return index(value)
    except TypeError:
        raise UsageError(f"{name} is a whole number, got {value!r}") from None


def ordering(settings: BatchSettings, *, remote: bool, block: int, window: int) -> Ordering:
    """Return the order that was asked for; by default blocks are shuffled in remote stores.

    Args:
        settings: what was asked for.
        remote: whether the store is on another machine.
        block: rows of a block where none is given.
        window: rows that are mixed with one another, where they make up a block at least.

    Raises:
        UsageError: there is no such way to shuffle, or ``block`` is given for another.
    """
    shuffle, seed = settings.shuffle, settings.seed
    if shuffle is True:
        shuffle = "blocks" if remote or settings.block is not None else "exact"
    if shuffle not in (False, "exact", "blocks"):
        raise UsageError(f"shuffle is True, False, 'exact' or 'blocks', got {shuffle!r}")
    if shuffle != "blocks":
        if settings.block is not None:
            raise UsageError(
                f"block={settings.block} goes with shuffle='blocks', got shuffle={shuffle!r}"
            )
        return Ordering(shuffle=shuffle or "none", seed=seed)
    block = block if settings.block is None else settings.block
    if block < 1:
        raise UsageError(f"a block holds at least one row, got block={block}")
    return Ordering(shuffle="blocks", seed=seed, block=block, window=max(window, block))


def _normalisation(
    selection: SelectedRows, wanted: normalising.Kind | Normalisation | None
) -> Normalisation | None:
    if wanted is None:
        return None
    if not isinstance(wanted, Normalisation):
        return normalising.normalisation(
            selection.snapshot, selection.rows, wanted, name=repr(selection)
        )
    width = selection.shape[1]
    if wanted.mean is not None and wanted.mean.shape != (width,):
        raise MismatchError(
            f"the normalisation is for vectors of width {wanted.mean.shape[-1]}, the selection's "
            f"have {width}: compute it from the rows that are trained on"
        )
    return wanted


def check_dtype(
    wanted: schema.VectorType | None,
    stored: schema.VectorType,
    normalisation: Normalisation | None,
) -> schema.VectorType:
    """Return the type of the batches' vectors.

    Raises:
        UsageError: there is no such type, or it would lose bits.
    """
    if wanted not in (None, "float16", "float32"):
        raise UsageError(f"batches are of float16 or float32, got dtype={wanted!r}")
    made: schema.VectorType = stored if normalisation is None else "float32"
    if wanted == "float16" and made == "float32":
        raise UsageError(
            "these vectors are float32 and would lose bits as float16: leave dtype= out and "
            "convert the tensor where that is wanted"
        )
    return wanted or made


def use_pinned(wanted: bool | None) -> bool:
    """Say whether to use pinned memory: by default where torch is in use and sees a GPU."""
    if wanted is None:
        if "torch" not in sys.modules:
            return False
        import torch

        return torch.cuda.is_available()
    if wanted:
        import torch

        if not torch.cuda.is_available():
            raise UsageError("pin_memory=True needs a GPU that torch sees: leave it out")
    return wanted
