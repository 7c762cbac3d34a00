"""Batches of a selection as a data set for torch's loaders, with any number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch.utils.data import IterableDataset, get_worker_info

from actstore import schema
from actstore.errors import UsageError
from actstore.querying.metadata import ROW_ID
from actstore.querying.reader import OpenStore
from actstore.training import state as states
from actstore.training.batches import Batch, Batches, BatchOptions, BatchSettings
from actstore.training.state import Lane

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows

Item = dict[str, Any]
_PLACE = "place"  # the schema has no such column


class SelectionDataset(IterableDataset[Item]):
    """Batches for ``DataLoader(dataset, batch_size=None, num_workers=…)``.

    Each item is a batch: ``activation`` is a tensor ``[size, width]``, ``row_id`` int64
    ``[size]``, asked-for columns are tensors where they hold a number in every row of the
    selection and lists otherwise; ``place`` is what :meth:`state_after` makes a state of.

    Workers take turns, and a loader gives their batches in turn, so the batches are the same
    ones in the same order for any number of them. Each worker opens the store anew. Call
    :meth:`set_epoch` before each pass, as for torch's ``DistributedSampler``: a pass is
    always the same for one seed and epoch.

    Args:
        selection: whose rows.
        size: rows per batch.
        state: where to go on; it is used in the pass it was saved in.
        options: as :meth:`Selection.batches` takes them; no columns when missing.

    Raises:
        UsageError, MixedVectorsError, TooFewRowsError, MismatchError: as there.
    """

    def __init__(
        self,
        selection: SelectedRows,
        size: int,
        *,
        state: Mapping[str, Any] | None = None,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__()
        columns = options.get("columns") or []
        names = [ROW_ID, *(name for name in columns if name != ROW_ID)]
        given: BatchOptions = {**options, "columns": names}
        try:
            self._settings = BatchSettings(size=size, **given)
        except TypeError as error:
            raise UsageError(f"{error}: see help(SelectedRows.batches)") from error
        self._store = OpenStore.of(selection.snapshot)
        self._rows = selection.rows
        self._selection: SelectedRows | None = selection
        # Shared, so that workers that outlive a pass hear of the next one, and of states: the
        # number of the pass, where to go on (its first pass, pass and position), how many
        # states were loaded.
        shared = torch.tensor([options.get("epoch") or 0, -1, -1, -1, 0])
        self._shared = shared.share_memory_()  # type: ignore[no-untyped-call]  # torch's
        self._own_state: tuple[int, dict[str, Any]] | None = None
        self._live: Batches | None = None
        whole = Batches(selection, replace(self._settings, pin_memory=False))
        # Computed and looked at here once, and not by each worker, which takes rows by number.
        self._settings = replace(self._settings, normalise=whole.normalisation, mixed=True)
        self._origin = whole.state()
        self._plan = whole.plan
        self._length = None if self._settings.epochs is None else len(whole)
        if state is not None:
            self.load_state_dict(state)

    def __getstate__(self) -> dict[str, Any]:
        # What a spawned worker gets; it opens the store itself.
        return {**self.__dict__, "_selection": None, "_live": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shared.share_memory_()  # a copy has memory of its own, which is to be shared again

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError("endless batches (epochs=None) have no length")
        return self._length

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        epoch = self._epoch
        settings = replace(self._settings, epoch=epoch)
        lane = Lane()
        if worker is not None:
            lane = Lane(worker.id, worker.num_workers, worker.id)
            # A GPU is not to be touched in a worker: the loader pins what comes from them.
            settings = replace(settings, pin_memory=False)
        state = self._loaded()
        if state is not None and state.get("first_epoch") != epoch:
            state = None
        # Now and not at the first item: loaders ask for the state before that.
        self._live = Batches(self._own(worker is not None), settings, state, lane)
        return self._items(self._live)

    def set_epoch(self, epoch: int) -> None:
        """Say which pass comes next; each is in another order."""
        if epoch < 0:
            raise UsageError(f"epochs are counted from 0, got {epoch}")
        self._shared[0] = epoch

    def state_dict(self) -> dict[str, Any]:
        """Return where the iteration in this process stands.

        That is the whole state where there are no workers; with workers, torchdata's
        ``StatefulDataLoader`` collects each one's, and :meth:`state_after` needs none.
        """
        if self._live is not None:
            return self._live.state()
        return dict(self._loaded() or {**self._origin, "first_epoch": self._epoch})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state when next iterated; it also sets the pass.

        Workers that are there already hear of it too. Where nothing is left of the state's
        pass and a later one was set, that one is next: torchdata's loader hands its states
        on only when it is iterated, after :meth:`set_epoch`.

        Raises:
            UsageError: it is no state.
            MismatchError: it belongs to other rows or to another order.
        """
        found = states.unpack(
            state, self._plan, rows_hash=self._origin["fingerprint"], commit=self._store.commit
        )
        plan = replace(self._plan, first_epoch=found.first_epoch)
        left = plan.left(found.place)
        _, workers, skip = found.lane or Lane()
        over = left is not None and not len(range(skip, left, workers))
        if not over or self._epoch < found.first_epoch + (self._settings.epochs or 0):
            self._shared[0] = found.first_epoch
        if get_worker_info() is None and found.lane is None:
            self._shared[1:4] = torch.tensor([found.first_epoch, *found.place])
            self._shared[4] += 1
        self._own_state, self._live = (int(self._shared[4]), dict(state)), None

    def state_after(self, item: Item) -> dict[str, Any]:
        """Return the state in which the given batch, and all before it, are done.

        Right for any number of workers, however far these are ahead.
        """
        first, epoch, position = item[_PLACE]
        return {**self._origin, "first_epoch": first, "epoch": epoch, "position": position}

    @property
    def _epoch(self) -> int:
        """Number of the next pass."""
        return int(self._shared[0])

    def _loaded(self) -> dict[str, Any] | None:
        """Return the state to go on from: the one loaded here, or later ones for all workers."""
        _, first, epoch, position, loads = self._shared.tolist()
        if self._own_state is not None and self._own_state[0] == loads:
            return self._own_state[1]
        if first < 0:
            return None
        return {**self._origin, "first_epoch": first, "epoch": epoch, "position": position}

    def _items(self, batches: Batches) -> Iterator[Item]:
        for batch in batches:
            yield _item(batch, batches)

    def _own(self, in_worker: bool) -> SelectedRows:
        """Return the selection, in a worker over files and threads of its own."""
        if not in_worker and self._selection is not None:
            return self._selection
        self._selection = self._store.open().rows_at(self._rows)
        return self._selection


def _item(batch: Batch, batches: Batches) -> Item:
    item: Item = {schema.VECTOR: batch.tensor()}
    for field, column in zip(batch.table.schema, batch.table.columns, strict=True):
        # By the whole selection, or a column would be a tensor in one batch and a list in another.
        number = field.type != "string" and not batches.has_nulls(field.name)
        # Copied, because Arrow's memory must not be written to.
        item[field.name] = torch.tensor(column.to_numpy()) if number else column.to_pylist()
    item[_PLACE] = (batches.plan.first_epoch, *batches.place)
    return item
