"""The state of an iteration (`state_dict`): where it stands and which batches it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore.errors import MismatchError, UsageError
from actstore.training.plan import Place, Plan

if TYPE_CHECKING:
    from actstore.storage.snapshot import Snapshot

VERSION = 1
_CHUNK = 1 << 20


def fingerprint(snapshot: Snapshot, rows: Iterable[np.ndarray]) -> str:
    """Return a hash of which vectors these are, and in what order: 32 hexadecimal digits.

    It goes by the SHA-256 of the shards and the rows' places in them, so rows that others
    add to the store do not change it, and no vector is read.

    Args:
        snapshot: the commit.
        rows: row numbers in parts, int64 each.
    """
    digest = hashlib.sha256()
    digests = b"".join(bytes.fromhex(shard.sha256)[:8] for shard in snapshot.shards)
    identities = np.frombuffer(digests, np.uint64)
    for part in rows:
        digest.update(len(part).to_bytes(8, "little"))
        for start in range(0, len(part), _CHUNK):
            chunk = part[start : start + _CHUNK]
            shards = np.searchsorted(snapshot.offsets, chunk, "right") - 1
            digest.update(np.ascontiguousarray(identities[shards]).data)
            digest.update(np.ascontiguousarray(chunk - snapshot.offsets[shards]).data)
    return digest.hexdigest()[:32]


class Lane(NamedTuple):
    """One of several workers that make the batches of one rank in turn."""

    worker: int = 0
    workers: int = 1
    skip: int = 0
    """How many batches others make before this one's next."""


class ReadState(NamedTuple):
    """What a state says."""

    place: Place
    first_epoch: int
    lane: Lane | None
    """The worker whose state it is; None for that of all of them together."""


def pack(
    plan: Plan, place: Place, *, rows_hash: str, commit: int, lane: Lane | None = None
) -> dict[str, Any]:
    """Return a state: JSON values only.

    Args:
        plan: how rows are dealt out.
        place: where the iteration stands.
        rows_hash: :func:`fingerprint` of its rows.
        commit: number of the store's commit, for whoever has to find the rows again.
        lane: the worker whose state this is; None for the state of all of them together.
    """
    return {
        "version": VERSION,
        "commit": commit,
        "rows": plan.rows,
        "fingerprint": rows_hash,
        "order": plan.ordering.as_dict(),
        "world_size": plan.world_size,
        "first_epoch": plan.first_epoch,
        "epoch": place.epoch,
        "position": place.position,
        "worker": None if lane is None else list(lane),
    }


def unpack(
    state: Mapping[str, Any],
    plan: Plan,
    *,
    rows_hash: str,
    commit: int,
    epoch: int | None = None,
) -> ReadState:
    """Return where a state says to go on.

    Args:
        state: what :func:`pack` returned.
        plan: how rows are dealt out.
        rows_hash: :func:`fingerprint` of the rows.
        commit: number of the store's commit.
        epoch: number of the first pass, where one was asked for.

    Raises:
        UsageError: it is no state, or of another version of actstore.
        MismatchError: it belongs to other rows, to another order or to an earlier pass.
    """
    try:
        version = state["version"]
        place = Place(int(state["epoch"]), int(state["position"]))
        worker = state["worker"]
        lane = None if worker is None else Lane(*map(int, worker))
        first_epoch = int(state["first_epoch"])
        theirs = (state["fingerprint"], state["rows"], state["commit"])
        order, world_size = dict(state["order"]), state["world_size"]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UsageError(
            f"this is no state of batches ({error!r}): pass what .state() returned, unchanged"
        ) from error
    if version != VERSION:
        raise UsageError(
            f"the state is of format {version}, this actstore writes {VERSION}: go on with the "
            "version that saved it, or start without a state"
        )
    if theirs[:2] != (rows_hash, plan.rows):
        raise MismatchError(_other_rows(theirs, (rows_hash, plan.rows, commit)))
    ours = plan.ordering.as_dict()
    if order != ours:
        raise MismatchError(
            f"the state belongs to the order {_text(order)}, these batches have {_text(ours)}: "
            "use the same shuffle, seed and block, or start without a state"
        )
    if order["shuffle"] == "blocks" and world_size != plan.world_size:
        raise MismatchError(
            f"the state was saved with world_size={world_size}, this is {plan.world_size}: where "
            "blocks are shuffled each rank has rows of its own, so go on with as many ranks"
        )
    if epoch is not None and place.epoch < epoch:
        raise MismatchError(
            f"the state stands in pass {place.epoch}, before the first one that is asked for, "
            f"epoch={epoch}: leave out epoch= to go on there, or state= to begin pass {epoch}"
        )
    return ReadState(place, first_epoch, lane)


def _other_rows(theirs: tuple[str, int, int], ours: tuple[str, int, int]) -> str:
    their_hash, their_rows, their_commit = theirs
    our_hash, our_rows, our_commit = ours
    advice = "make the same selection"
    if their_commit != our_commit:
        advice = f"open the store with at={their_commit} and make the same selection"
    return (
        f"the state belongs to other rows: {their_hash} ({their_rows} rows at commit "
        f"{their_commit}), these are {our_hash} ({our_rows} rows at commit {our_commit}): "
        f"{advice}, or start without a state"
    )


def _text(order: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in order.items())
