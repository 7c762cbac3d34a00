"""What workers of an ingest answer: of a piece that was read, and of one that was stored."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from actstore.ingestion import contract as contracts
from actstore.ingestion.readers import Notes
from actstore.ingestion.reading import Outcome
from actstore.ingestion.report import COUNTS, Group, Refusal, Tally
from actstore.ingestion.sidecars import TableUse, Withheld
from actstore.storage import narrowing
from actstore.storage.entries import Rounding
from actstore.storage.piece_writer import LeftOut


class Ready(NamedTuple):
    """What a worker says when it has ordered the files."""

    host: str
    sees_store: bool
    """Whether it sees the store, and the locks in it, that the others see."""


@dataclass(slots=True, kw_only=True)
class Read:
    """What came of a piece, but for its rows."""

    outcome: Outcome
    forms: list[tuple[str, str, Mapping[str, Any]]] = field(default_factory=list)
    """What was noted of how files held their tensors: source, kind and form."""
    notes: Notes = field(default_factory=Notes)
    tables: TableUse = field(default_factory=lambda: TableUse({}, {}, {}))
    shapes: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    """Where a contract asks for it, shapes and types of tensors in their files."""
    labels_asked: int = 0
    labels_found: int = 0
    losses: list[narrowing.Part] = field(default_factory=list)


class Stored(NamedTuple):
    """What came of a piece's commit."""

    commit: int | None
    """Its number; None where nothing was new."""
    left_out: LeftOut
    """Rows that had come meanwhile."""
    shards: frozenset[str]
    """Paths of those that it made."""
    again: Read | None
    """What came of the piece, where it was read anew."""
    replaced: Mapping[str, list[int]] = {}
    """Rows of stored shards, by their paths, whose place its rows are to take."""


class Kept(NamedTuple):
    """What is kept of a piece in a draft."""

    read: Read
    replaced: Mapping[str, list[int]]
    """As in :class:`Stored`."""


def encoded(kept: Kept) -> bytes:
    """Return what is kept of a piece as JSON."""
    read = kept.read
    tally = read.outcome.tally
    counts = {name: getattr(tally, name) for name in COUNTS}
    document = {
        "read": read.outcome.read,
        "counts": counts,
        "groups": [[*group, rows] for group, rows in tally.groups.items()],
        "labels": [*tally.labels.items()],
        "datasets": [*tally.datasets.items()],
        "samples": [tally.first_row, tally.second_row, tally.last_row],
        "rules": [[*count, rows] for count, rows in read.outcome.counts.items()],
        "refused": read.outcome.refused,
        "foreign": read.outcome.foreign,
        "forms": read.forms,
        "notes": [read.notes.lines, [*read.notes.counts.items()]],
        "used": {name: [*map(os.fspath, paths)] for name, paths in read.tables.used.items()},
        "asked": {name: [*found.items()] for name, found in read.tables.asked.items()},
        "withheld": {
            name: [[os.fspath(path), *each] for path, each in found.items()]
            for name, found in read.tables.withheld.items()
        },
        "shapes": [[source, *shape] for source, shape in read.shapes.items()],
        "labels_asked": read.labels_asked,
        "labels_found": read.labels_found,
        "losses": read.losses,
        "replaced": kept.replaced,
    }
    return json.dumps(document, default=_plain).encode()


def decoded(data: bytes) -> Kept:
    """Return what is kept of a piece, of its JSON.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    found = json.loads(data)
    first, second, last = found["samples"]
    tally = Tally(
        **{name: found["counts"][name] for name in COUNTS},
        groups=Counter({Group(*group): rows for *group, rows in found["groups"]}),
        labels=Counter(dict(found["labels"])),
        datasets=Counter(dict(found["datasets"])),
        first_row=first,
        second_row=second,
        last_row=last,
    )
    outcome = Outcome(
        read=found["read"],
        tally=tally,
        counts=Counter({contracts.Count(*count): rows for *count, rows in found["rules"]}),
        refused=[Refusal(*each) for each in found["refused"]],
        foreign=[Refusal(*each) for each in found["foreign"]],
    )
    lines, counts = found["notes"]
    tables = TableUse(
        {name: {Path(path) for path in paths} for name, paths in found["used"].items()},
        {name: {_hashable(k): v for k, v in each} for name, each in found["asked"].items()},
        {
            name: {Path(path): Withheld(shown, searched) for path, shown, searched in each}
            for name, each in found["withheld"].items()
        },
    )
    read = Read(
        outcome=outcome,
        forms=[
            (source, kind, {name: _hashable(value) for name, value in form.items()})
            for source, kind, form in found["forms"]
        ],
        notes=Notes(lines, Counter(dict(counts))),
        tables=tables,
        shapes={source: (tuple(shape), dtype) for source, shape, dtype in found["shapes"]},
        labels_asked=found["labels_asked"],
        labels_found=found["labels_found"],
        losses=[
            narrowing.Part(dtype, rows, lost if lost is None else Rounding(*lost))
            for dtype, rows, lost in found["losses"]
        ],
    )
    return Kept(read, found["replaced"])


def _plain(value: Any) -> Any:
    """Return a number of NumPy as one of Python."""
    return value.item()


def _hashable(value: Any) -> Any:
    """Return a value with tuples where JSON has lists."""
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
