"""Finds what a store already has of a capture: an interrupted run, or rows of an equal one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actstore.capturing.prompts.example import Example
from actstore.capturing.prompts.images import image_digests
from actstore.capturing.run import provenance
from actstore.errors import MixedRunError
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Run

_SHOWN = 4


class Chain:
    """A hash over examples, one after the other: the same only for the same beginning."""

    def __init__(self) -> None:
        self.count = 0
        self._digest = hashlib.sha256()

    def add(self, example: Example) -> None:
        """Take in one more example: its key, and what the model is asked."""
        asked = (example.question, example.answer, example.system, example.messages)
        self._digest.update(repr((str(example.key), asked, image_digests(example))).encode())
        self.count += 1

    @property
    def digest(self) -> str:
        """The hash so far."""
        return self._digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What the store has of this model and data set."""

    run: Run | None = None
    """A run with all the same settings, which this one continues."""
    equal_runs: tuple[Run, ...] = ()
    """Runs whose values are computed the same way, whatever they took of them."""
    notes: tuple[str, ...] = ()

    @property
    def progress(self) -> Mapping[str, Any]:
        """How far the run to be continued had come."""
        found: Mapping[str, Any] = self.run.settings["progress"] if self.run else {}
        return found


def look(
    store: Path,
    *,
    values: Mapping[str, Any],
    settings: Mapping[str, Any],
    allow_mixed: bool,
) -> Earlier:
    """Return what the store has of the model and data set of ``settings``.

    Args:
        store: need not exist.
        values: what decides the values.
        settings: the new run's, ``model``, ``dataset``, ``fingerprint`` and ``continues`` in it.
        allow_mixed: accept runs with other values.

    Raises:
        MixedRunError: the store holds rows of this model and data set from a run whose
            values were computed in another way, or attention patterns of another length; says
            what differs.
    """
    manifest = manifests.latest(store)
    same = [
        run
        for run in manifest.runs
        if run.settings.get("fingerprint") is not None
        and run.settings.get("model") == settings["model"]
        and run.settings.get("dataset") == settings.get("dataset")
    ]
    ours = [run for run in manifest.runs if run.settings.get("model") == settings["model"]]
    refuse_other_patterns(ours, provenance.pattern_length(settings))
    unlike = [run for run in same if run.settings["fingerprint"] != settings["fingerprint"]]
    if unlike and not allow_mixed:
        raise MixedRunError(_unlike(unlike[-1], values, settings))
    equal = [run for run in same if run not in unlike]
    notes = []
    if unlike:
        notes.append(
            f"the store now mixes captures of {settings['model']} that were made in different "
            "ways: tell them apart by run_id"
        )
    notes += _new_versions(equal)
    continued = [
        run
        for run in equal
        if run.settings.get("continues") == settings["continues"] and "progress" in run.settings
    ]
    return Earlier(
        run=continued[-1] if continued else None,
        equal_runs=tuple(equal),
        notes=tuple(notes),
    )


def refuse_other_patterns(runs: Sequence[Run], wanted: int | None) -> None:
    """Refuse attention patterns of another length than runs of the same model took.

    A store's vectors of one model, site and layer have one width.

    Raises:
        MixedRunError: says which length is stored.
    """
    for run in runs if wanted is not None else ():
        stored = provenance.pattern_length(run.settings)
        if stored not in (None, wanted):
            raise MixedRunError(
                f"the store holds attention patterns of {stored:,} keys from run {run.run_id}, and "
                f"{wanted:,} are asked for: give --pattern-length {stored}, or another store, "
                "since vectors of one model, site and layer have one width there"
            )


def _unlike(run: Run, values: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    differing = provenance.differences(values, run.settings.get("values", {}))
    more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    what = "; ".join(differing[:_SHOWN]) or "its fingerprint"
    dataset = settings.get("dataset")
    of = f"{settings['model']} on {dataset}" if dataset else str(settings["model"])
    return (
        f"the store holds rows of {of} from run {run.run_id}, which was made in another way: "
        f"{what}{more}; give this one another dataset name (--dataset), or add what the store does "
        "not have yet and accept the mixture (--allow-mixed)"
    )


def _new_versions(runs: Sequence[Run]) -> list[str]:
    if not runs:
        return []
    now, then = provenance.versions(), runs[-1].versions
    changed = [
        f"{name} {then[name]} → {now[name]}"
        for name in ("torch", "transformers")
        if name in then and name in now and then[name] != now[name]
    ]
    if not changed:
        return []
    return [f"earlier rows were made with other versions: {', '.join(changed)}"]
