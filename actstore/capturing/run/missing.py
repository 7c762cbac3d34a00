"""Which of the examples that are asked a store does not answer, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from actstore.capturing.forward.pooling import Pool, SiteLayer
from actstore.capturing.prompts.example import ExampleKey
from actstore.capturing.run.options import Source
from actstore.capturing.run.pieces import finished, short
from actstore.capturing.run.resume import Chain
from actstore.capturing.run.stored_rows import StoredRows, covers, prompt_of
from actstore.errors import ExampleError
from actstore.storage.manifest import Run


class Missing(NamedTuple):
    """An example that the store does not answer."""

    place: int
    """Its place in the source."""
    where: str
    """How a message names it."""
    reason: str
    """Goes on where ``where`` ends; empty where the example has just no rows."""


def missing_of(
    source: Source,
    stored: StoredRows,
    runs: Sequence[Run],
    places: Sequence[SiteLayer],
    pools: Sequence[Pool],
) -> list[Missing]:
    """Read the examples; return those that the store does not answer.

    Examples that a run was through with, one after the other from the source's beginning or
    piece by piece, are not among them: conversations, which rows do not hold, and refused
    examples, which have none.

    Raises:
        ExampleError: there are no examples, or one is no example.
    """
    beginnings = {
        (progress["examples"], progress["digest"])
        for run in runs
        if "examples" in (progress := run.settings.get("progress", {}))
        and stored.whole(run)
        and all(covers(run, place, pool) for place in places for pool in pools)
    }
    lengths = {length for length, _ in beginnings}
    digests = finished(runs, stored, places, pools)
    pieces = {size: Chain() for size in _sizes(runs)}
    complete = stored.complete(places, pools)
    chain = Chain()
    missing: list[Missing] = []
    for example in source.read():
        chain.add(example)
        if (reason := _why(example.key, prompt_of(example), stored, complete)) is not None:
            missing.append(Missing(chain.count - 1, example.where, reason))
        if chain.count in lengths and (chain.count, chain.digest) in beginnings:
            missing.clear()  # these very examples were a run
        for size, piece in pieces.items():
            piece.add(example)
            if piece.count == size:
                missing = _without(missing, piece, chain.count, digests)
                pieces[size] = Chain()
    if chain.count == 0 and source.part is None:
        raise ExampleError("there are no examples to capture")
    for piece in pieces.values():
        missing = _without(missing, piece, chain.count, digests)
    return missing


def _without(
    missing: list[Missing], piece: Chain, stop: int, digests: frozenset[str]
) -> list[Missing]:
    """Leave out the examples of a piece that ends at ``stop``, if a run was through with it."""
    if short(piece) not in digests:
        return missing
    return [each for each in missing if each.place < stop - piece.count]


def _sizes(runs: Sequence[Run]) -> set[int]:
    return {run.settings["part"]["piece"] for run in runs if "part" in run.settings}


def _why(
    key: ExampleKey, prompt: str | None, stored: StoredRows, complete: frozenset[ExampleKey]
) -> str | None:
    """Return a reason, empty where the example has just no rows; None if it is answered."""
    there = stored.prompt(key)
    if there is None:
        return ""
    if prompt is None:
        return " (whether its conversation or picture is the same, rows do not tell)"
    if prompt != there:
        return " (was asked something else)"
    return None if key in complete else " (not at all of these layers, sites and pools)"
