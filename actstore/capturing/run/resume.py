"""Finds what a store already has of a capture: an interrupted run, or rows of an equal one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actstore.capturing.forward.pooling import Pool, SiteLayer
from actstore.capturing.prompts.example import Example, ExampleKey
from actstore.capturing.run import provenance
from actstore.errors import MixedRunError
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Manifest, Run
from actstore.storage.snapshot import open_snapshot

_KEYS = ("example_id", "example_index", "split", "mode", "variant")
_SHOWN = 4


class Chain:
    """A hash over examples, one after the other: the same only for the same beginning."""

    def __init__(self) -> None:
        self.count = 0
        self._digest = hashlib.sha256()

    def add(self, example: Example) -> None:
        """Take in one more example: its key, and what the model is asked."""
        asked = (example.question, example.answer, example.system, example.messages)
        pictures = [_picture(each) for each in example.pictures]
        self._digest.update(repr((str(example.key), asked, pictures)).encode())
        self.count += 1

    @property
    def digest(self) -> str:
        """The hash so far."""
        return self._digest.hexdigest()


def _picture(picture: Any) -> str:
    if isinstance(picture, str | Path):
        return Path(picture).name
    if isinstance(picture, bytes):
        return hashlib.sha256(picture).hexdigest()
    return f"{type(picture).__name__} {getattr(picture, 'size', '')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What the store has of this model and data set."""

    run: Run | None = None
    """A run with all the same settings, which this one continues."""
    equal_runs: tuple[str, ...] = ()
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
            values were computed in another way; says what differs.
    """
    manifest = manifests.latest(store)
    same = [
        run
        for run in manifest.runs
        if run.settings.get("fingerprint") is not None
        and run.settings.get("model") == settings["model"]
        and run.settings.get("dataset") == settings.get("dataset")
    ]
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
    ours = [
        run
        for run in equal
        if run.settings.get("continues") == settings["continues"] and "progress" in run.settings
    ]
    return Earlier(
        run=ours[-1] if ours else None,
        equal_runs=tuple(run.run_id for run in equal),
        notes=tuple(notes),
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


class StoredRows:
    """The rows of equal runs, looked up by example; read when first asked for."""

    def __init__(self, store: Path, model: str, dataset: str | None, runs: Sequence[str]) -> None:
        """Look for rows of ``runs``."""
        self._store = store
        self._model = model
        self._dataset = dataset
        self._runs = list(runs)
        self._found: dict[tuple[str, int | None, str | None, str], frozenset[ExampleKey]] | None
        self._found = None if self._runs else {}

    def has(self, place: SiteLayer, pool: Pool) -> frozenset[ExampleKey]:
        """Return the examples that have rows of this site, layer and pool.

        Of single tokens nothing is said: which of them are there is for the writer to see.
        """
        if pool.stored == "none":
            return frozenset()
        if self._found is None:
            self._found = self._read()
        return self._found.get((*place, pool.region, pool.stored), frozenset())

    def complete(self, places: Iterable[SiteLayer], pools: Sequence[Pool]) -> frozenset[ExampleKey]:
        """Return the examples that have everything that is wanted."""
        found: frozenset[ExampleKey] | None = None
        for place in places:
            for pool in pools:
                have = self.has(place, pool)
                found = have if found is None else found & have
        return found or frozenset()

    def _read(self) -> dict[tuple[str, int | None, str | None, str], frozenset[ExampleKey]]:
        snapshot = open_snapshot(self._store)
        try:
            manifest: Manifest = snapshot.manifest
            if not any(shard.model == self._model for shard in manifest.shards):
                return {}
            file = snapshot.metadata_file()
        finally:
            snapshot.close()
        sets: dict[tuple[str, int | None, str | None, str], set[ExampleKey]] = {}
        names = ["model", "dataset", "run_id", "site", "layer", "region", "pooling", *_KEYS]
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(columns=names):
                for row in self._rows(batch):
                    site, layer, region, pooling, *key = row
                    sets.setdefault((site, layer, region, pooling), set()).add(ExampleKey(*key))
        return {key: frozenset(values) for key, values in sets.items()}

    def _rows(self, batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
        dataset = batch.column("dataset")
        chosen = pc.and_(
            pc.equal(batch.column("model"), self._model),
            pc.is_null(dataset) if self._dataset is None else pc.equal(dataset, self._dataset),
        )
        chosen = pc.and_(
            chosen, pc.is_in(batch.column("run_id"), value_set=pa.array(self._runs, pa.string()))
        )
        chosen = pc.and_(chosen, pc.not_equal(batch.column("pooling"), "none"))
        kept = batch.filter(chosen, null_selection_behavior="drop")
        names = ("site", "layer", "region", "pooling", *_KEYS)
        yield from zip(*(kept.column(name).to_pylist() for name in names), strict=True)
