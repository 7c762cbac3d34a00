"""Proves that what many processes have captured is all there, once; else says what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actstore.capturing.run.missing import Missing, missing_of
from actstore.capturing.run.options import CaptureSettings, Source
from actstore.capturing.run.pieces import Part
from actstore.capturing.run.provenance import Identity
from actstore.capturing.run.recall import places_asked, runs_asked
from actstore.capturing.run.stored_rows import StoredRows
from actstore.storage.manifest import Run

_NAMED = 100
"""Missing examples that are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalized:
    """What a store has of a capture that was divided among processes."""

    model: str
    dataset: str | None
    world_size: int
    piece: int
    """Examples of a piece."""
    examples: int
    """Examples that were asked."""
    rows: int
    """Rows of these examples, of the layers, sites and pools that were asked."""
    missing: tuple[Missing, ...]
    """Examples that are not there."""
    missing_by_rank: Mapping[int, int]
    """Rank: how many of its examples are missing; ranks that miss nothing are left out."""
    twice: tuple[str, ...]
    """Examples that have a row of one layer, site, pool and position twice."""
    without_rows: Mapping[str, int]
    """SITE LAYER POOL: examples that have no row there though a run has looked at them."""
    refused: tuple[tuple[str, str], ...]
    """Examples that runs refused, with the reason, as far as their records name them."""
    runs: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every example is there, once."""
        return not (self.missing or self.twice)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "complete": self.complete,
            "world_size": self.world_size,
            "piece": self.piece,
            "examples": self.examples,
            "rows": self.rows,
            "missing": len(self.missing),
            "missing_by_rank": {str(rank): n for rank, n in self.missing_by_rank.items()},
            "missing_examples": [f"{each.where}{each.reason}" for each in self.missing[:_NAMED]],
            "twice": list(self.twice[:_NAMED]),
            "without_rows": dict(self.without_rows),
            "refused": [{"example": where, "reason": reason} for where, reason in self.refused],
            "runs": list(self.runs),
        }


def finalize(
    source: Source,
    *,
    store: Path,
    options: CaptureSettings,
    identity: Identity,
    loading: Mapping[str, Any] | None = None,
) -> Finalized:
    """Look whether a store has everything of a capture; no model is needed, nothing is written.

    Args:
        source: all examples.
        store: must hold at least one run of the capture.
        options: as the processes had them; ``world_size`` and ``piece`` of the last run where
            they are None.
        identity: the model's name, and its commit where it shall be that one.
        loading: how the model was loaded, as :func:`~actstore.capturing.run.recall.recall` has it.

    Raises:
        NotInStoreError: the store has no run of it, or nobody can tell which are meant.
        ExampleError: there are no examples, or one is no example.
    """
    runs = runs_asked(store, options, identity, loading)
    places, pools = places_asked(options, runs), options.pools
    stored = StoredRows(store, identity.name, options.dataset, runs)
    missing = missing_of(source, stored, runs, places, pools)
    part = _part(options, runs)
    ranks = Counter(each.place // part.size % part.world_size for each in missing)
    absent = {source.keys[each.place] for each in missing}
    present = frozenset(source.keys) - absent
    rows, _ = stored.rows(source.keys, places, pools)
    without = {
        f"{site}{'' if layer is None else f' {layer}'} {pool.text}": n
        for site, layer in places
        for pool in pools
        if (n := len(present - stored.with_rows((site, layer), pool)))
    }
    return Finalized(
        model=identity.name,
        dataset=options.dataset,
        world_size=part.world_size,
        piece=part.size,
        examples=len(source.keys),
        rows=len(rows),
        missing=tuple(missing),
        missing_by_rank=dict(sorted(ranks.items())),
        twice=tuple(map(str, stored.repeated(source.keys))),
        without_rows=without,
        refused=_refused(runs),
        runs=tuple(run.run_id for run in runs),
    )


def _part(options: CaptureSettings, runs: Sequence[Run]) -> Part:
    """Return how the examples were divided: as is said, else as the latest run says."""
    last: Mapping[str, int] = next(
        (run.settings["part"] for run in reversed(runs) if "part" in run.settings), {}
    )
    size = options.piece or last.get("piece") or options.piece_size
    return Part(rank=0, world_size=options.world_size or last.get("world_size", 1), size=size)


def _refused(runs: Sequence[Run]) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for run in runs:
        for where, reason in run.settings.get("progress", {}).get("refused", ()):
            found[where] = reason
    return tuple(found.items())
