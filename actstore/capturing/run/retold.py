"""Labels and oracles that stored examples come with now, and that their rows do not have."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from actstore.capturing.prompts.example import ExampleKey
from actstore.capturing.run.options import Source
from actstore.capturing.run.stored_rows import KEYS, StoredRows
from actstore.wording import counted


def retold(source: Source, stored: StoredRows | None, *, graded: bool) -> list[str]:
    """Return notes on the stored examples that were read with another label or oracle.

    Rows stay as they are, since labels may have been given after the capture. Where a grader makes
    them, those that examples come with say nothing.
    """
    labels: list[tuple[ExampleKey, str]] = []
    oracles: list[tuple[ExampleKey, str]] = []
    for key, (label, oracle) in zip(source.keys, source.told, strict=True):
        there = stored.told(key) if stored is not None else None
        if there is None:
            continue
        if label not in (None, there[0]) and not graded:
            labels.append((key, f"{there[0]!r} → {label!r}"))
        if oracle not in (None, there[1]):
            oracles.append((key, f"{there[1]!r} → {oracle!r}"))
    return [*_note("label", "", labels), *_note("oracle", ", and labels graded by it", oracles)]


def _note(word: str, further: str, found: Sequence[tuple[ExampleKey, str]]) -> list[str]:
    if not found:
        return []
    (key, change), *_ = found
    keys = zip(*(dataclasses.astuple(each) for each, _ in found), strict=True)
    on = [f"--on {name}" for name, part in zip(KEYS, keys, strict=True) if set(part) != {None}]
    return [
        f"another {word} than in the store came with {counted(len(found), 'example')} ({key}: "
        f"{change}); stored rows keep theirs{further}: `actstore label STORE TABLE "
        f"{' '.join(on)}` gives them other labels"
    ]
