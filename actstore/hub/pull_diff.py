"""What a pull has to fetch and to remove: compares the store, its last sync and the repository."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from actstore.errors import RemoteStoreError
from actstore.hub.diff import same_rows
from actstore.hub.origin import Origin
from actstore.hub.wanted import PullChoice, WantedShard
from actstore.storage.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class PullMemory:
    """What a store's manifest remembers of the pulls from one repository."""

    choices: tuple[PullChoice, ...] = ()
    """What was asked for so far."""
    revision: str | None = None
    """Of the last pull."""
    made: dict[str, str] = field(default_factory=dict)
    """Shards that a pull made of rows of the repository: path and piece."""
    covered: frozenset[str] = frozenset()
    """Pieces whose rows are the store's own: it had them from elsewhere, or has since compacted,
    renamed or dropped what came."""
    taken: frozenset[str] = frozenset()
    """Shards of the repository that came as they are, because all their rows met a condition."""


def recall(manifest: Manifest, run_id: str) -> PullMemory:
    """Return what a manifest remembers; nothing where the run is not there or not ours."""
    for run in manifest.runs:
        if run.run_id == run_id and run.kind == "pull":
            try:
                settings = run.settings
                made = {str(path): str(key) for path, key in settings["made"].items()}
                here = {entry.path for entry in manifest.shards}
                gone = {key for path, key in made.items() if path not in here}
                return PullMemory(
                    choices=tuple(PullChoice.from_dict(each) for each in settings["parts"]),
                    revision=str(settings["revision"]),
                    made={path: key for path, key in made.items() if path in here},
                    covered=frozenset({*map(str, settings["covered"]), *gone}),
                    taken=frozenset(map(str, settings.get("taken", ()))),
                )
            except (KeyError, TypeError, ValueError, AttributeError):
                break
    return PullMemory()


@dataclass(frozen=True, slots=True, kw_only=True)
class PullDiff:
    """What a pull has to fetch and to remove."""

    missing: tuple[WantedShard, ...]
    removed: frozenset[str]
    """Shards of the store that the repository no longer holds."""


def pull_diff(
    local: Manifest,
    wanted: Sequence[WantedShard],
    there: Manifest,
    memory: PullMemory,
    origins: Sequence[Origin],
    *,
    choices: Sequence[PullChoice],
    revision: str,
) -> PullDiff:
    """Compare a store with what it is to hold of a repository.

    A shard never changes under its name, so equal paths hold equal rows; the hashes must say so
    too, unless one is archived. A shard that was shared and has since gone from the store was
    compacted: its rows are in others. What was shared by a push and nobody has asked for stays,
    as nothing would come in its place.

    Args:
        local: the store's commit.
        wanted: pieces of the repository that the store is to hold.
        there: what the repository holds.
        memory: of earlier pulls.
        origins: of the branches that the store has met: the one pulled, the last one pulled.
        choices: what this pull and earlier ones asked for.
        revision: the branch pulled.

    Raises:
        RemoteStoreError: a shard of that name is another one in the store.
    """
    live = {entry.path: entry for entry in local.shards}
    for piece in wanted:
        if piece.key in live and not same_rows(live[piece.key], piece.entry):
            raise RemoteStoreError(
                f"the repository holds another file as {piece.key} than this store, which has it "
                "from elsewhere or from before: one of the two was changed by hand; nothing was "
                "pulled: pull into another folder"
            )
    paths = {entry.path for entry in there.shards}
    keys_wanted = {piece.key for piece in wanted}
    places: dict[str, str | None] = {}  # of every shared shard its path in the repository
    for origin in origins:
        places |= {path: origin.replaced.get(path, path) for path in origin.shards}
    asked = {e.path for e in local.shards if any(choice.covers(e) for choice in choices)}
    asked |= memory.taken & live.keys()
    removed = {
        path for path, at in places.items() if path in asked and at is not None and at not in paths
    }
    removed |= {
        path for path, key in memory.made.items() if key not in keys_wanted and key not in paths
    }
    elsewhere = _elsewhere(local, there, removed, origins, revision)
    present = {path for path in live if path in paths}
    present |= {at for at in places.values() if at} - elsewhere
    made: Counter[str] = Counter()
    for path, key in memory.made.items():
        made[key] += live[path].rows
    touched = {live[path].partition for path in removed}
    # Rows that were left out, as the store had them, may be among those that go.
    safe = {p.key for p in wanted if made[p.key] == p.size or p.entry.partition not in touched}
    present |= safe & (made.keys() | memory.covered)
    missing = tuple(piece for piece in wanted if piece.key not in present)
    return PullDiff(missing=missing, removed=frozenset(removed))


def had_whole(local: Manifest, there: Manifest, met: Origin | None) -> frozenset[str]:
    """Return the shards of a repository all of whose rows are the store's, or were.

    Args:
        local: the store's commit.
        there: what the repository holds.
        met: what the two had in common when the store was last taken to one of its branches. What
            it shares with others only went when it was taken here, and comes back.
    """
    live = {entry.path: entry for entry in local.shards}
    found = {e.path for e in there.shards if e.path in live and same_rows(live[e.path], e)}
    if met is not None:
        found |= {at for path in met.shards if (at := met.replaced.get(path, path))}
    return frozenset(found)


def last_met(origins: Sequence[Origin], memory: PullMemory, revision: str) -> Origin | None:
    """Return what a store had in common with the branch that it was last taken to.

    That is the branch last pulled; where none was, the one pulled now or ``main``.
    """
    by_name = {origin.revision: origin for origin in origins}
    if memory.revision is not None:
        return by_name.get(memory.revision)
    return by_name.get(revision) or next(iter(by_name.values()), None)


def _elsewhere(
    local: Manifest,
    there: Manifest,
    removed: Collection[str],
    origins: Sequence[Origin],
    revision: str,
) -> set[str]:
    """Return the shards of the repository whose rows may only be in shards that go.

    A push to another branch took them over, with labels in them or otherwise: the store shared
    them with the branch that is pulled, and with the other one what became of them.
    """
    mine = next((origin for origin in origins if origin.revision == revision), None)
    others = [origin for origin in origins if origin.revision != revision]
    if mine is None or not others:
        return set()
    only_there = {path for origin in others for path in origin.shards} - set(mine.shards)
    live = {entry.path: entry for entry in local.shards}
    touched = {live[path].partition for path in only_there.intersection(removed)}
    gone = set(mine.shards) - live.keys()
    gone.difference_update(*(origin.shards for origin in others))
    at = {mine.replaced.get(path, path) for path in gone}
    return {entry.path for entry in there.shards if entry.path in at and entry.partition in touched}
