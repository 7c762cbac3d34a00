"""What was asked of a store: examples, places and pools, and the rows that answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from actstore.capturing.forward.pooling import Pool, SiteLayer
from actstore.capturing.prompts.example import ExampleKey
from actstore.capturing.run.stored_rows import StoredRows
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Run


@dataclass(frozen=True, kw_only=True, repr=False)
class Asked:
    """What a capture was asked for, at one commit of the store; rows are looked up when needed."""

    store: str | Path
    commit: int
    model: str
    dataset: str | None
    runs: tuple[Run, ...]
    """All whose values are computed in the way that was asked for."""
    keys: Sequence[ExampleKey]
    places: Sequence[SiteLayer]
    pools: Sequence[Pool]

    @property
    def rows(self) -> np.ndarray:
        """Their ``row_id``, in the order asked."""
        return self._found[0]

    @property
    def without_rows(self) -> tuple[str, ...]:
        """The ids of examples that have no row."""
        answered = np.bincount(self._found[1], minlength=len(self.keys))
        return tuple(self.keys[number].id for number in np.flatnonzero(answered == 0).tolist())

    @cached_property
    def _found(self) -> tuple[np.ndarray, np.ndarray]:
        stored = StoredRows(self.store, self.model, self.dataset, self.runs, at=self.commit)
        return stored.rows(self.keys, self.places, self.pools)


def asked_of(
    store: Path,
    *,
    model: str,
    dataset: str | None,
    fingerprint: str,
    keys: Sequence[ExampleKey],
    places: Sequence[SiteLayer],
    pools: Sequence[Pool],
) -> Asked:
    """Return what was asked of the store as it is now, of all runs with this fingerprint."""
    manifest = manifests.latest(store)
    return Asked(
        store=store,
        commit=manifest.number,
        model=model,
        dataset=dataset,
        runs=equal_runs(manifest.runs, model, dataset, fingerprint),
        keys=keys,
        places=places,
        pools=pools,
    )


def equal_runs(
    runs: Sequence[Run], model: str, dataset: str | None, fingerprint: str
) -> tuple[Run, ...]:
    """Return the runs that computed the same values of this model and data set."""
    return tuple(
        run
        for run in runs
        if run.settings.get("fingerprint") == fingerprint
        and run.settings.get("model") == model
        and run.settings.get("dataset") == dataset
    )
