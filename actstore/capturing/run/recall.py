"""Answers a capture out of the store alone: everything that is asked is there, no model runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actstore import schema
from actstore.capturing.forward.pooling import SiteLayer
from actstore.capturing.run import provenance
from actstore.capturing.run.asked import asked_of, equal_runs
from actstore.capturing.run.missing import missing_of
from actstore.capturing.run.options import CaptureSettings, Source
from actstore.capturing.run.provenance import Identity
from actstore.capturing.run.resume import refuse_other_patterns
from actstore.capturing.run.retold import retold
from actstore.capturing.run.stored_rows import StoredRows
from actstore.capturing.run.summary import CaptureSummary
from actstore.errors import NotInStoreError, UsageError
from actstore.models.blocks import parse_layers
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Run

_NAMED = 5
_OF_LOADING = ("dtype", "attn", "device_map", "layers_loaded", "trust_remote_code")
"""Of how a model was loaded: what may decide its values. The device is not among them."""


def recall(
    source: Source,
    *,
    store: Path,
    options: CaptureSettings,
    identity: Identity,
    loading: Mapping[str, Any] | None = None,
) -> CaptureSummary:
    """Return what the store has of a capture, if it has everything; nothing is computed.

    Args:
        source: the examples.
        store: need not exist.
        options: as for a capture with the model.
        identity: the model's name, and its commit where it shall be that one.
        loading: how the model would be loaded (``dtype``, ``attn`` …): runs whose record does
            not say that they loaded it so do not count.

    Raises:
        NotInStoreError: examples are not stored, or not with these settings; names them.
        UsageError: options that cannot work, or that need the model.
        MixedRunError: attention patterns are stored, and of another length.
        ExampleError: there are no examples, or one is no example.
    """
    began = time.monotonic()
    if options.dry_run or not options.resume:
        name = "dry_run=True" if options.dry_run else "resume=False"
        raise UsageError(f"{name} needs the model: give it, or leave this out")
    options.check(generates=options.max_new_tokens > 0)
    runs = runs_asked(store, options, identity, loading)
    if options.has_patterns:
        refuse_other_patterns(runs, options.pattern_length)
    places = places_asked(options, runs)
    stored = StoredRows(store, identity.name, options.dataset, runs)
    missing = missing_of(source, stored, runs, places, options.pools)
    if missing:
        named = [f"{each.where}{each.reason}" for each in missing]
        raise NotInStoreError(_what_is_missing(named, len(source.keys), store, identity))
    return CaptureSummary(
        run_id=runs[-1].run_id,
        model=identity.name,
        dataset=options.dataset,
        dry_run=False,
        resumed=False,
        commit=None,
        examples=0,
        skipped=len(source.keys),
        refused=(),
        rows=0,
        rows_present=0,
        empty={},
        empty_responses=0,
        labels={},
        layers=tuple(sorted({layer for _, layer in places if layer is not None and layer >= 0})),
        sites=tuple(sorted({site for site, _ in places})),
        pools=tuple(pool.text for pool in options.pools),
        batches=0,
        batch_tokens=None,
        tokens=0,
        bytes=0,
        seconds=round(time.monotonic() - began, 3),
        self_check=None,
        estimate=None,
        notes=(
            "everything is stored already: no model was needed",
            *retold(source, stored, graded=options.grade is not None),
        ),
        asked=asked_of(
            store,
            model=identity.name,
            dataset=options.dataset,
            fingerprint=runs[-1].settings["fingerprint"],
            keys=source.keys,
            places=places,
            pools=options.pools,
        ),
    )


def runs_asked(
    store: Path,
    options: CaptureSettings,
    identity: Identity,
    loading: Mapping[str, Any] | None,
) -> tuple[Run, ...]:
    """Return the runs that were asked in the same way.

    Raises:
        NotInStoreError: there are none, or nobody can tell which are meant.
    """
    manifest = manifests.latest(store)
    of = f"{identity.name} on {options.dataset}" if options.dataset else identity.name
    same = [
        run
        for run in manifest.runs
        if run.settings.get("fingerprint") is not None
        and run.settings.get("model") == identity.name
        and run.settings.get("dataset") == options.dataset
    ]
    if not same:
        captured = sorted({str(run.settings.get("model")) for run in manifest.runs})
        there = f"; it has runs of {', '.join(captured)}" if captured else ""
        raise NotInStoreError(
            f"{store} has no capture of {of}{there}: give the model to capture it"
        )
    asked = provenance.plain(options.asked)
    alike = [
        run
        for run in same
        if run.settings.get("asked") == asked
        and (identity.revision is None or run.settings.get("revision") == identity.revision)
        and (loading is None or _loaded_alike(run, loading))
    ]
    if not alike:
        last = same[-1].settings
        differing = provenance.differences(asked, last.get("asked", {}))
        if identity.revision not in (None, last.get("revision")):
            differing.append(f"revision {last.get('revision')} → {identity.revision}")
        raise NotInStoreError(
            f"{store} has rows of {of} from run {same[-1].run_id}, which was asked in another "
            f"way: {'; '.join(differing) or 'the model was loaded otherwise'}; give the model to "
            "capture these"
        )
    ways = {run.settings["fingerprint"] for run in alike}
    if len(ways) > 1:
        raise NotInStoreError(
            f"{store} has rows of {of} that were made in {len(ways)} ways with the same settings "
            "(other weights, type or templates), and without the model nobody can tell which are "
            "meant: give the model, or its revision"
        )
    return equal_runs(manifest.runs, identity.name, options.dataset, ways.pop())


def _loaded_alike(run: Run, loading: Mapping[str, Any]) -> bool:
    then = run.settings.get("loading")
    return then is not None and all(then.get(name) == loading.get(name) for name in _OF_LOADING)


def places_asked(options: CaptureSettings, runs: Sequence[Run]) -> list[SiteLayer]:
    """Return sites and layers in the order in which a capture takes them."""
    count = next(
        run.settings["block_count"] for run in runs if "block_count" in run.settings
    )  # as every run does that also holds what it was asked
    layers = parse_layers(options.layers, count)
    found: dict[SiteLayer, None] = {}
    for name in options.site_names:
        site, layer = schema.canonical_site(name)
        if site == "embeddings":
            found[site, -1] = None
        elif site == "final_norm":
            found[site, None] = None
        else:
            for each in layers if layer is None else [layer]:
                found[site, each] = None
    return list(found)


def _what_is_missing(missing: Sequence[str], asked: int, store: Path, identity: Identity) -> str:
    named = ", ".join(missing[:_NAMED])
    more = f" and {len(missing) - _NAMED:,} more" if len(missing) > _NAMED else ""
    return (
        f"{len(missing):,} of {asked:,} examples are not stored in {store} for {identity.name}: "
        f"{named}{more}; give the model to capture them"
    )
