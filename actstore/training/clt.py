"""Batches for cross-layer transcoders: an MLP's input and the outputs of the MLPs after it."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from actstore.errors import MismatchError, NotInStoreError, UsageError
from actstore.querying import mixture
from actstore.querying.column_filters import ColumnFilters
from actstore.training import state as states
from actstore.training.batches import (
    BatchOptions,
    BatchSettings,
    check_dtype,
    ordering,
    use_pinned,
    whole,
)
from actstore.training.joining import Joined, JoinedSite, join, split
from actstore.training.normalisation import Normalisation, normalisation
from actstore.training.plan import Place, Plan, Step
from actstore.training.prefetch import Ahead
from actstore.training.reading import MatrixMaker, stored_type

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows

INPUT, OUTPUT = "mlp_in", "mlp_out"
SITES = (INPUT, OUTPUT)
_PREFETCH = 2
_RUNS = 16
"""Runs of neighbouring tokens that make up a batch from a store on the Hub."""


class CltBatch(NamedTuple):
    """Some tokens at one layer."""

    layer: int
    x: np.ndarray
    """What the layer's MLP was given, ``[tokens, width]``."""
    targets: tuple[np.ndarray, ...]
    """What the MLPs of :attr:`target_layers` gave, ``[tokens, width]`` each. Read-only by
    agreement: the batches of neighbouring layers share them."""
    target_layers: tuple[int, ...]
    """``layer + 1`` and those after it, as many as were asked for or as there are."""
    rows: np.ndarray
    """``row_id`` of each ``x``, int64: ``store.rows_at(rows).table()`` says what they are."""


class Moment(NamedTuple):
    """Where the iteration stands."""

    place: Place
    done: int
    """Layers that the tokens after :attr:`place` have been given out for."""


class _Prepared(NamedTuple):
    batch: CltBatch
    after: Moment


class CltBatches(Iterator[CltBatch]):
    """Batches of tokens, each given out once for every layer, lowest layer first.

    Each matrix is read once for the tokens of a batch, however many layers have it as their
    target. Made by :meth:`Store.clt_batches`.

    Args:
        selection: rows of the sites ``mlp_in`` and ``mlp_out``.
        settings: as :meth:`Selection.batches` takes them; ``size`` counts tokens.
        n_targets: most targets of a layer.
        layers: whose MLP inputs; all that have a target when missing.
        state: where to go on.

    Raises:
        UsageError: an argument that cannot work, several models, or unknown layers.
        NotInStoreError: a layer or one of its targets is not there.
        TooFewRowsError: no token is in all parts, or too few for a batch.
        MixedVectorsError: rows of several poolings or regions, which nobody listed, or the
            vectors of a site differ in width.
        MismatchError: the state belongs to something else.
    """

    def __init__(
        self,
        selection: SelectedRows,
        settings: BatchSettings,
        *,
        n_targets: int = 16,
        layers: Sequence[int] | np.ndarray | int | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        if (n_targets := whole("n_targets", n_targets)) < 1:
            raise UsageError(f"a layer has at least one target, got n_targets={n_targets}")
        # Each site and layer has a matrix of its own here, and keys of different models do not
        # join. Means beside tokens, or a token twice for two regions, would be a mixture still.
        mixture.refuse(selection, mixed=settings.mixed, columns=("pooling", "region"), instead="")
        self._settings = settings
        self._snapshot = selection.snapshot
        rows = split(selection)
        self.targets = _targets(rows, n_targets, layers)
        """The target layers of each layer."""
        inputs = [JoinedSite(INPUT, layer) for layer in self.targets]
        outputs = sorted(
            {JoinedSite(OUTPUT, at) for found in self.targets.values() for at in found}
        )
        self.joined: Joined = join(selection, rows, [*inputs, *outputs])
        """Which tokens are used, and how many rows are not: ``joined.explain()`` says why."""
        self._vectors = {**self._readers(inputs), **self._readers(outputs)}
        self._plan = Plan(
            rows=self.joined.tokens,
            size=settings.size,
            # From afar a batch is made of runs of neighbours, mixed with one another only.
            ordering=ordering(
                settings,
                remote=self._snapshot.files.portion is not None,
                block=max(1, settings.size // _RUNS),
                window=settings.size,
            ),
            rank=settings.rank,
            world_size=settings.world_size,
            drop_last=settings.drop_last,
            first_epoch=settings.epoch or 0,
            epochs=settings.epochs,
        )
        self._moment = Moment(self._plan.start, 0)
        self._hash: str | None = None
        self._ahead: Ahead[_Prepared] | None = None
        if state is not None:
            self.load_state_dict(state)

    def __iter__(self) -> CltBatches:
        return self

    def __next__(self) -> CltBatch:
        if self._ahead is None:
            depth = self._settings.prefetch
            self._ahead = Ahead(self._tasks, _PREFETCH if depth is None else depth)
        batch, self._moment = next(self._ahead)
        return batch

    def __len__(self) -> int:
        left = self._plan.left(self._moment.place)
        if left is None:
            raise TypeError("endless batches (epochs=None) have no length")
        return left * len(self.targets) - self._moment.done

    def __repr__(self) -> str:
        return f"CltBatches({len(self.targets)} layers, {self.joined.explain()})"

    @property
    def normalisations(self) -> dict[JoinedSite, Normalisation]:
        """What is done to the vectors of each site and layer; empty where nothing is."""
        return {
            part: vectors.normalisation
            for part, vectors in self._vectors.items()
            if vectors.normalisation is not None
        }

    def state(self) -> dict[str, Any]:
        """Return where the iteration stands, as :meth:`Batches.state` does."""
        found = states.pack(
            self._plan,
            self._moment.place,
            rows_hash=self._fingerprint(),
            commit=self._snapshot.manifest.number,
        )
        return {
            **found,
            "layers": self._layers(),
            "layers_done": self._moment.done,
            "size": self._settings.size,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return :meth:`state`, under the name that torch uses."""
        return self.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            UsageError: it is no state of such batches.
            MismatchError: it belongs to other rows, layers, targets or another order.
        """
        found = states.unpack(
            state,
            self._plan,
            rows_hash=self._fingerprint(),
            commit=self._snapshot.manifest.number,
            epoch=self._settings.epoch,
        )
        if state.get("layers") != self._layers():
            raise MismatchError(
                f"the state belongs to other layers or targets, {state.get('layers')} (layer, its "
                f"last target), these are {self._layers()}: use the same layers= and n_targets="
            )
        moment = Moment(found.place, int(state["layers_done"]))
        theirs = (state.get("size"), state["world_size"])
        if moment.done and theirs != (self._settings.size, self._settings.world_size):
            raise MismatchError(
                f"the state stands between two layers of a batch of size={theirs[0]} with "
                f"world_size={theirs[1]}: finish that batch with these before changing them"
            )
        self.close()
        if self._settings.epoch is None:
            self._plan = replace(self._plan, first_epoch=found.first_epoch)
        self._moment, self._ahead = moment, None

    def close(self) -> None:
        """Begin no further batches ahead of time."""
        if self._ahead is not None:
            self._ahead.close()

    def _tasks(self) -> Iterator[Callable[[], _Prepared]]:
        place, done = self._moment
        for step in self._plan.steps(place):
            yield from self._tasks_of(step, place, done)
            place, done = step.after, 0

    def _tasks_of(self, step: Step, before: Place, done: int) -> Iterator[Callable[[], _Prepared]]:
        order = self._plan.ordering.of(self.joined.tokens, step.epoch)
        tokens = order.at(step.start, step.stop)
        held: deque[_Shared] = deque()  # outputs that this layer and later ones need
        for number, (layer, targets) in enumerate(self.targets.items()):
            if number < done:
                continue
            while held and held[0].part.layer < targets[0]:
                held.popleft()
            have = {shared.part.layer for shared in held}
            for at in targets:
                if at not in have:
                    part = JoinedSite(OUTPUT, at)
                    held.append(_Shared(part, partial(self._gather, part, tokens)))
            last = number + 1 == len(self.targets)
            after = Moment(step.after, 0) if last else Moment(before, number + 1)
            needed = tuple(shared for shared in held if shared.part.layer in targets)
            yield partial(self._make, layer, tokens, needed, after)

    def _make(
        self, layer: int, tokens: np.ndarray, outputs: tuple[_Shared, ...], after: Moment
    ) -> _Prepared:
        part = JoinedSite(INPUT, layer)
        batch = CltBatch(
            layer=layer,
            x=self._gather(part, tokens),
            targets=tuple(output.get() for output in outputs),
            target_layers=tuple(output.part.layer for output in outputs),
            rows=self.joined.places[part].of(tokens),
        )
        return _Prepared(batch, after)

    def _gather(self, part: JoinedSite, tokens: np.ndarray) -> np.ndarray:
        return self._vectors[part].gather(self.joined.places[part].of(tokens))

    def _readers(self, parts: Sequence[JoinedSite]) -> dict[JoinedSite, MatrixMaker]:
        """Return what reads each part of one site, all in one type."""
        wanted = self._settings.normalise
        if isinstance(wanted, Normalisation):
            raise UsageError(
                "every site and layer has a normalisation of its own: give normalise= the name of "
                "one, 'norm' or 'mean-norm'"
            )
        tokens = np.arange(self.joined.tokens)
        shards: set[int] = set()
        for part in parts:
            rows = self.joined.places[part].of(tokens)
            shards |= set(
                np.unique(np.searchsorted(self._snapshot.offsets, rows, "right") - 1).tolist()
            )
        width, stored = self._snapshot.shape(self._snapshot.offsets[sorted(shards)])
        found = {}
        for part in parts:
            own = None
            if wanted is not None:
                rows = self.joined.places[part].of(tokens)
                own = normalisation(self._snapshot, rows, wanted, name=str(part))
            found[part] = MatrixMaker(
                self._snapshot,
                width=width,
                stored=stored_type(self._snapshot, shards),
                dtype=check_dtype(self._settings.dtype, stored, own),
                normalisation=own,
                pinned=use_pinned(self._settings.pin_memory),
            )
        return found

    def _layers(self) -> list[list[int]]:
        return [[layer, targets[-1]] for layer, targets in self.targets.items()]

    def _fingerprint(self) -> str:
        if self._hash is None:
            tokens = np.arange(self.joined.tokens)
            parts = (places.of(tokens) for places in self.joined.places.values())
            self._hash = states.fingerprint(self._snapshot, parts)
        return self._hash


class _Shared:
    """A matrix that several batches need and whichever comes first reads."""

    def __init__(self, part: JoinedSite, read: Callable[[], np.ndarray]) -> None:
        self.part = part
        self._read = read
        self._found: np.ndarray | None = None
        self._lock = Lock()

    def get(self) -> np.ndarray:
        with self._lock:
            if self._found is None:
                self._found = self._read()
            return self._found


class CltOptions(BatchOptions, ColumnFilters, total=False):
    """What :meth:`Store.clt_batches` takes as keywords: settings of batches, and conditions."""


def separate(size: int, options: CltOptions) -> tuple[BatchSettings, ColumnFilters]:
    """Return the settings of batches among some options, and the conditions on rows."""
    names = {field.name for field in dataclasses.fields(BatchSettings)} - {"size", "columns"}
    settings = {name: value for name, value in options.items() if name in names}
    equals = {name: value for name, value in options.items() if name not in names}
    return BatchSettings(size=size, **cast(BatchOptions, settings)), cast(ColumnFilters, equals)


def _targets(
    rows: Mapping[JoinedSite, np.ndarray],
    n_targets: int,
    layers: Sequence[int] | np.ndarray | int | None,
) -> dict[int, tuple[int, ...]]:
    """Return the target layers of each layer: those after it, up to the last there is."""
    inputs = sorted(part.layer for part in rows if part.site == INPUT)
    last = max((part.layer for part in rows if part.site == OUTPUT), default=-1)
    wanted = [layers] if isinstance(layers, int | np.integer) else layers
    chosen = [layer for layer in inputs if layer < last]
    if wanted is not None:
        chosen = sorted({whole("each of layers", layer) for layer in wanted})
    found = {layer: tuple(range(layer + 1, min(layer + n_targets, last) + 1)) for layer in chosen}
    for layer in found:
        if layer not in inputs:
            raise NotInStoreError(
                f"there is no {INPUT} of layer {layer}: there is {_numbers(inputs)}"
            )
        if layer >= last:
            raise NotInStoreError(
                f"layer {layer} has no target: the last {OUTPUT} is of layer {last}"
            )
    if not found:
        raise NotInStoreError(
            f"no {INPUT} has an {OUTPUT} of a later layer as its target: {INPUT} is of layers "
            f"{_numbers(inputs)}, the last {OUTPUT} of layer {last}"
        )
    return found


def _numbers(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers)) or "none"
