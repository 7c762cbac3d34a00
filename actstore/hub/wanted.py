"""Which rows of a repository a store wants: what this pull asks for and what earlier ones did."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.errors import NotInStoreError
from actstore.querying import filters
from actstore.querying.metadata import Metadata
from actstore.querying.sql import Database
from actstore.storage.manifest import ShardEntry
from actstore.storage.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class PullChoice:
    """A choice of rows; nothing chosen is everything."""

    layers: tuple[int | None, ...] = ()
    models: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    where: str | None = None
    """A condition in SQL."""

    @property
    def is_all(self) -> bool:
        """Whether it leaves nothing out."""
        return self == PullChoice()

    def covers(self, entry: ShardEntry) -> bool:
        """Say whether all rows of a shard's model, site and layer are meant."""
        return (
            self.where is None
            and (not self.models or entry.model in self.models)
            and (not self.layers or entry.layer in self.layers)
            and (
                not self.sites
                or entry.site in self.sites
                or any(filters.at_site(entry, *schema.canonical_site(name)) for name in self.sites)
            )
        )

    def as_dict(self) -> dict[str, Any]:
        """Return what was chosen, ready for JSON."""
        chosen = {"layers": self.layers, "models": self.models, "sites": self.sites}
        found: dict[str, Any] = {name: list(values) for name, values in chosen.items() if values}
        return found if self.where is None else {**found, "where": self.where}

    @staticmethod
    def from_dict(facts: dict[str, Any]) -> PullChoice:
        """Return a choice from what :meth:`as_dict` gave.

        Raises:
            TypeError, ValueError: it is not that.
        """
        given = {name: tuple(facts.get(name, ())) for name in ("layers", "models", "sites")}
        if not set(facts) <= {*given, "where"}:
            raise ValueError(f"no choice: {facts}")
        return PullChoice(**given, where=facts.get("where"))


def together(choices: Sequence[PullChoice]) -> tuple[PullChoice, ...]:
    """Return several choices as few as say the same."""
    if any(choice.is_all for choice in choices):
        return (PullChoice(),)
    return tuple(dict.fromkeys(choices))


class WantedShard(NamedTuple):
    """What becomes one shard of the store."""

    key: str
    """The same for the same rows and labels, and different for others."""
    entry: ShardEntry
    """A shard of the repository; the first one, where rows of several make the piece."""
    rows: np.ndarray | None
    """Row numbers in the repository, int64 and ascending; None: the shard as it is."""

    @property
    def size(self) -> int:
        """How many rows it has."""
        return self.entry.rows if self.rows is None else len(self.rows)


def wanted_shards(
    snapshot: Snapshot,
    new: PullChoice,
    earlier: Sequence[PullChoice],
    held: Collection[str] = (),
) -> list[WantedShard]:
    """Return what makes up ``new`` and the ``earlier`` choices, in row order.

    Shards of which all rows are wanted are taken as they are; of the others the wanted rows
    of one model, site and layer become one piece, without those of ``held`` shards. So does a
    shard whose labels stand beside it.

    Args:
        snapshot: what the repository holds.
        new: what is asked for.
        earlier: what was asked for before.
        held: shards of which the store has had every row: what is missing of them was renamed
            or dropped there.

    Raises:
        NotInStoreError: ``new`` names what is not there. An earlier choice may: it has gone.
        SqlError: its condition is none.
        HubError: the metadata that a condition needs cannot be read.
    """
    whole: set[int] = set()
    chosen: list[np.ndarray] = []
    metadata, database = Metadata(snapshot), Database(snapshot)
    try:
        for choice in together([new, *earlier]):
            try:
                rows, shards = _find(snapshot, metadata, database, choice)
            except NotInStoreError:
                if choice in (new, PullChoice()):
                    raise
                continue
            if choice.where is None:
                whole.update(shards.tolist())
            else:
                chosen.append(rows)
    finally:
        metadata.close()
        database.close()
    relabelled = _relabelled(snapshot)
    by_shard = _narrowed(snapshot, chosen, whole)
    found: list[tuple[int, WantedShard]] = []
    for number in sorted(whole):
        entry = snapshot.shards[number]
        if entry.path not in relabelled:
            found.append((number, WantedShard(entry.path, entry, None)))
        else:
            span = np.arange(snapshot.offsets[number], snapshot.offsets[number + 1])
            key = _key([(entry, span)], relabelled[entry.path])
            found.append((number, WantedShard(key, entry, span)))
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number in sorted(by_shard):
        entry = snapshot.shards[number]
        if entry.path in held:
            continue
        kind = (*entry.partition, entry.width, entry.dtype)
        groups.setdefault(kind, []).append(number)
    for numbers in groups.values():
        rows = np.concatenate([by_shard[number] for number in numbers])
        lists = [(snapshot.shards[n], by_shard[n] - int(snapshot.offsets[n])) for n in numbers]
        labels = "".join(relabelled.get(snapshot.shards[n].path, "") for n in numbers)
        found.append(
            (numbers[0], WantedShard(_key(lists, labels), snapshot.shards[numbers[0]], rows))
        )
    return [piece for _, piece in sorted(found, key=lambda item: item[0])]


def _find(
    snapshot: Snapshot, metadata: Metadata, database: Database, choice: PullChoice
) -> tuple[np.ndarray, np.ndarray]:
    named = {"layer": choice.layers, "model": choice.models, "site": choice.sites}
    equals = {name: list(values) for name, values in named.items() if values}
    chosen = filters.rows_where(snapshot, database, metadata, choice.where, equals)
    return chosen.rows, chosen.shards


def _narrowed(
    snapshot: Snapshot, chosen: list[np.ndarray], whole: set[int]
) -> dict[int, np.ndarray]:
    """Return the chosen rows of each shard; shards chosen completely go over to ``whole``."""
    if not chosen:
        return {}
    rows = np.unique(np.concatenate(chosen))
    numbers = np.searchsorted(snapshot.offsets, rows, "right") - 1
    found = {}
    for number in np.unique(numbers).tolist():
        of_shard = rows[numbers == number]
        if len(of_shard) == snapshot.shards[number].rows:
            whole.add(number)
        elif number not in whole:
            found[number] = of_shard
    return found


def _relabelled(snapshot: Snapshot) -> dict[str, str]:
    """Return, per shard that has labels beside it, what tells these from others."""
    if not snapshot.manifest.labels:
        return {}
    touched: set[str] = set()
    for overlay in snapshot.manifest.labels:
        touched |= set(snapshot.files.labels(overlay)["shard"].to_pylist())
    digest = " ".join(overlay.sha256 for overlay in snapshot.manifest.labels)
    return dict.fromkeys(touched, digest)


def _key(lists: Sequence[tuple[ShardEntry, np.ndarray]], labels: str) -> str:
    digest = hashlib.sha256(f"{schema.VERSION} {labels}".encode())
    for entry, rows in lists:
        digest.update(f"\n{entry.path} {len(rows)} ".encode())
        digest.update(rows.astype("<i8").tobytes())
    return digest.hexdigest()
