"""Converts a store to a smaller type, with what that was found to cost in its records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from actstore.analysis.harm import Harm
from actstore.errors import CommitError
from actstore.querying.reader import StoreReader
from actstore.storage import converting, layout, strict_json


class Converted(NamedTuple):
    """What a conversion made."""

    commit: int
    """Number of the new commit."""
    report: str
    """Path of the report within the store."""


def convert(
    store: StoreReader,
    harm: Harm,
    *,
    out: Path | None = None,
    max_harm: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> Converted:
    """Commit a store in the type that the harm was measured of; see :mod:`~.harm`.

    Args:
        store: open at its latest commit.
        harm: what was measured of it.
        out: a folder for another store; without it this is the next commit of the same one.
        max_harm: what was allowed, for the record.
        progress: called with the vector bytes written so far.

    Raises:
        ActstoreError: as :func:`actstore.storage.converting.convert`.
    """
    snapshot = store.select().snapshot
    made, run = converting.convert(
        snapshot, harm.to, out=out, settings=_worst(harm, max_harm), progress=progress
    )
    root = snapshot.root if out is None else out
    relative = f"{layout.REPORTS}/{run.run_id}.json"
    text = strict_json.dumps({**harm.as_dict(), "max_harm": max_harm}, indent=1)
    try:
        (root / layout.REPORTS).mkdir(parents=True, exist_ok=True)
        layout.write_durably(root / relative, f"{text}\n".encode())
    except OSError as error:
        raise CommitError(
            f"commit {made.number} is made, but its report {root / relative} cannot be written: "
            f"{error}"
        ) from error
    return Converted(made.number, relative)


def _worst(harm: Harm, max_harm: float | None) -> dict[str, Any]:
    """Return what the manifest says of the cost: the worst figures of all places."""
    found: dict[str, Any] = {
        "places": len(harm.places),
        "relative_error": max((each.relative_error for each in harm.places), default=0.0),
        "greatest_error": max((each.greatest_error for each in harm.places), default=0.0),
        "lowest_cosine": min((each.lowest_cosine for each in harm.places), default=1.0),
        "max_harm": max_harm,
    }
    worst = harm.worst
    if worst is not None:
        found["worst_probe"] = {
            **worst.place.named,
            "score": worst.score,
            "before": worst.before,
            "after": worst.after,
        }
    return found
