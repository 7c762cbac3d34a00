"""Finds the rows that a store has of examples, whichever run of the same settings stored them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actstore.capturing.forward.pooling import Pool, SiteLayer
from actstore.capturing.prompts.example import Example, ExampleKey
from actstore.capturing.run.tables import fields_in
from actstore.errors import ConflictError
from actstore.querying.reader import opened
from actstore.storage.manifest import Run

KEYS = ("example_id", "example_index", "split", "mode", "variant")
_TOLD = ("label", "oracle")
_PLACES = ("site", "layer", "region", "pooling")
_Place = tuple[str, int | None, str | None, str]
"""Site, layer, region and pooling, as the columns have them."""


def prompt_of(example: Example) -> str | None:
    """Return a hash of what is asked; None where the columns of a row do not hold all of it.

    They hold no conversations and no pictures.
    """
    if example.messages is not None or example.pictures:
        return None
    return _prompt(example.question, example.system, example.answer)


def _prompt(question: str | None, system: str | None, answer: str | None) -> str:
    text = json.dumps([question, system, answer])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The rows of some runs, column by column."""

    row: np.ndarray
    """Row numbers in the store, int64 ``[n]``, ascending; the other arrays are as long."""
    example: np.ndarray
    """Number of the example, into ``keys``."""
    place: np.ndarray
    """Number of the place, into ``places``."""
    run: np.ndarray
    """Number of the run, as they were given."""
    position: np.ndarray
    """Of single tokens; -1 for the others."""
    keys: list[ExampleKey]
    prompts: list[str]
    told: list[tuple[str | None, str | None]]
    """Label and oracle of each example, as its first row has them."""
    places: list[_Place]


class StoredRows:
    """The rows of some runs, looked up by example; read when first asked for."""

    def __init__(
        self,
        store: str | Path,
        model: str,
        dataset: str | None,
        runs: Sequence[Run],
        *,
        at: int | None = None,
    ) -> None:
        """Look for rows of ``runs`` at commit ``at``, or the latest."""
        self._store = store
        self._model = model
        self._dataset = dataset
        self._runs = list(runs)
        self._at = at
        self._unsure: set[ExampleKey] = set()

    def read(self) -> StoredRows:
        """Look now: the folder may be gone later."""
        _ = self._found
        return self

    def has(self, place: SiteLayer, pool: Pool) -> frozenset[ExampleKey]:
        """Return the examples that have rows of this site, layer and pool.

        Of single tokens nothing is said: which of them are there is for the writer to see.
        """
        if pool.stored == "none":
            return frozenset()
        found = self._by_place.get((*place, pool.region, pool.stored), frozenset())
        return found - self._unsure if self._unsure else found

    def complete(self, places: Iterable[SiteLayer], pools: Sequence[Pool]) -> frozenset[ExampleKey]:
        """Return the examples that have everything that is wanted.

        An example of a run whose rows are all there has what that run took of it, though
        there be no row of an empty region.
        """
        found: frozenset[ExampleKey] | None = None
        for place in places:
            for pool in pools:
                have = self.has(place, pool).union(
                    *(
                        self._by_run[number]
                        for number, run in enumerate(self._runs)
                        if covers(run, place, pool) and self.whole(run)
                    )
                )
                found = have if found is None else found & have
        return (found or frozenset()) - self._unsure

    def with_rows(self, place: SiteLayer, pool: Pool) -> frozenset[ExampleKey]:
        """Return the examples that have a row of this site, layer and pool, single tokens too."""
        return self._by_place.get((*place, pool.region, pool.stored), frozenset())

    def repeated(self, keys: Iterable[ExampleKey]) -> list[ExampleKey]:
        """Return which of some examples have two rows of one place and position."""
        found = self._found
        order = np.lexsort((found.position, found.place, found.example))
        alike = np.ones(max(0, len(order) - 1), np.bool_)
        for column in (found.example, found.place, found.position):
            alike &= column[order][1:] == column[order][:-1]
        wanted = frozenset(keys)
        numbers = np.unique(found.example[order][1:][alike]).tolist()
        return [found.keys[number] for number in numbers if found.keys[number] in wanted]

    def prompt(self, key: ExampleKey) -> str | None:
        """Return a hash of what the example with this key was asked; None if it has no row."""
        return self._prompts.get(key)

    def told(self, key: ExampleKey) -> tuple[str | None, str | None] | None:
        """Return label and oracle of the example with this key; None if it has no row."""
        return self._told.get(key)

    def answers(self, example: Example) -> bool:
        """Say whether the rows of the example's key are of this very prompt.

        Where rows cannot tell, since they hold no conversations and no pictures, those of the
        example count as missing from now on: they are computed again and compared.

        Raises:
            ConflictError: they are of another prompt.
        """
        stored, asked = self.prompt(example.key), prompt_of(example)
        if stored is None:
            return False
        if asked is None:
            self._unsure.add(example.key)
        elif stored != asked:
            raise ConflictError(
                f"{example.where}: the store has rows of {example.key} that were asked something "
                "else (another question, system prompt or answer); give this one another id or "
                "variant, or another dataset name (--dataset)"
            )
        return asked is not None

    def whole(self, run: Run) -> bool:
        """Say whether the store still has every row that the run stored.

        Nothing is known of runs that did not count them.
        """
        stored = run.settings.get("progress", {}).get("rows")
        number = self._numbers.get(run.run_id)
        return stored is not None and number is not None and self._counts[number] >= stored

    def lost(self, run: Run) -> bool:
        """Say whether rows that the run stored are gone: dropped, or renamed."""
        return run.settings.get("progress", {}).get("rows") is not None and not self.whole(run)

    def rows(
        self, keys: Sequence[ExampleKey], places: Sequence[SiteLayer], pools: Sequence[Pool]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of examples, and the place of each row's example in ``keys``.

        By example as given, then layer (unknown last), then site and pool as given, then
        position of the token.
        """
        found = self._found
        ranks = {key: number for number, key in enumerate(keys)}
        example = np.array([ranks.get(key, -1) for key in found.keys], np.int64)[found.example]
        sites = list(dict.fromkeys(site for site, _ in places))
        kept: list[np.ndarray] = []
        layers: list[np.ndarray] = []
        seconds: list[np.ndarray] = []
        thirds: list[np.ndarray] = []
        for number, (site, layer, region, pooling) in enumerate(found.places):
            if (site, layer) not in places:
                continue
            at = np.flatnonzero((found.place == number) & (example >= 0))
            for rank, pool in enumerate(pools):
                if (pool.region, pool.stored) != (region, pooling):
                    continue
                chosen = at if pool.offset is None or pooling != "none" else self._nth(at, pool)
                kept.append(chosen)
                layers.append(np.full(len(chosen), 1 << 40 if layer is None else layer))
                seconds.append(np.full(len(chosen), sites.index(site)))
                thirds.append(np.full(len(chosen), rank))
        if not kept:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        rows = np.concatenate(kept)
        order = np.lexsort(
            (
                found.position[rows],
                np.concatenate(thirds),
                np.concatenate(seconds),
                np.concatenate(layers),
                example[rows],
            )
        )
        return found.row[rows[order]], example[rows[order]]

    def _nth(self, at: np.ndarray, pool: Pool) -> np.ndarray:
        """Return which of some token rows are each example's at an offset, such as ``-2``.

        Rows of runs that took all tokens are counted through. Where runs took single ones, the
        row's rank among them says which it is, if all of them are there.
        """
        offset = pool.offset
        assert offset is not None
        found = self._found
        order = at[np.lexsort((found.position[at], found.example[at]))]
        _, starts, counts = np.unique(found.example[order], return_index=True, return_counts=True)
        chosen: list[int] = []
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
            group = order[start : start + count]
            taken = [
                each
                for number in np.unique(found.run[group]).tolist()
                for each in pools_of(self._runs[number])
                if each.region == pool.region and each.stored == "none"
            ]
            place = offset if offset >= 0 else count + offset
            if not any(each.pool == "tokens" for each in taken):
                offsets = {each.offset for each in taken if each.offset is not None}
                ordered = sorted(offsets, key=lambda each: (each < 0, each))
                if offset not in offsets or len(ordered) != count:
                    continue
                place = ordered.index(offset)
            if 0 <= place < count:
                chosen.append(int(group[place]))
        return np.array(chosen, np.int64)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {run.run_id: number for number, run in enumerate(self._runs)}

    @cached_property
    def _counts(self) -> list[int]:
        counted: list[int] = np.bincount(self._found.run, minlength=len(self._runs)).tolist()
        return counted

    @cached_property
    def _prompts(self) -> Mapping[ExampleKey, str]:
        return dict(zip(self._found.keys, self._found.prompts, strict=True))

    @cached_property
    def _told(self) -> Mapping[ExampleKey, tuple[str | None, str | None]]:
        return dict(zip(self._found.keys, self._found.told, strict=True))

    @cached_property
    def _by_place(self) -> Mapping[_Place, frozenset[ExampleKey]]:
        found = self._found
        return {
            place: frozenset(
                found.keys[each]
                for each in np.unique(found.example[found.place == number]).tolist()
            )
            for number, place in enumerate(found.places)
        }

    @cached_property
    def _by_run(self) -> list[frozenset[ExampleKey]]:
        found = self._found
        return [
            frozenset(
                found.keys[each] for each in np.unique(found.example[found.run == number]).tolist()
            )
            for number in range(len(self._runs))
        ]

    @cached_property
    def _found(self) -> _Found:
        table = self._read()
        examples, first = _numbered(table, KEYS)
        named = table.select([*KEYS, *_TOLD, "question", "extra"]).take(first)
        keys = zip(*(named.column(name).to_pylist() for name in KEYS), strict=True)
        asked = zip(
            named.column("question").to_pylist(), named.column("extra").to_pylist(), strict=True
        )
        told = zip(*(named.column(name).to_pylist() for name in _TOLD), strict=True)
        places, of_place = _numbered(table, _PLACES)
        where = table.select(_PLACES).take(of_place)
        run = [self._numbers[each] for each in table.column("run_id").to_pylist()]
        position = table.column("position").fill_null(-1).to_numpy().astype(np.int64)
        return _Found(
            row=table.column("row_id").to_numpy().astype(np.int64),
            example=examples,
            place=places,
            run=np.array(run, np.int64),
            position=position,
            keys=[ExampleKey(*each) for each in keys],
            prompts=[_stored_prompt(question, extra) for question, extra in asked],
            told=[(label, oracle) for label, oracle in told],
            places=list(zip(*(where.column(name).to_pylist() for name in _PLACES), strict=True)),
        )

    def _read(self) -> pa.Table:
        """Return the columns that are needed here, of the rows of the runs."""
        names = [*KEYS, *_TOLD, *_PLACES, "run_id", "position", "question", "extra"]
        parts: list[pa.Table] = []
        first = 0
        if not self._runs:
            return _empty(names)
        snapshot = opened(self._store, self._at)[0]
        try:
            if any(shard.model == self._model for shard in snapshot.manifest.shards):
                with snapshot.opened_metadata() as file:
                    for batch in file.iter_batches(columns=[*names, "model", "dataset"]):
                        table = pa.table(batch).select(names)
                        ids = np.arange(first, first + len(batch))
                        table = table.append_column("row_id", pa.array(ids))
                        parts.append(table.filter(self._wanted(batch)))
                        first += len(batch)
        finally:
            snapshot.close()
        return pa.concat_tables(parts) if parts else _empty(names)

    def _wanted(self, batch: pa.RecordBatch) -> pa.Array:
        dataset = batch.column("dataset")
        runs = pa.array([run.run_id for run in self._runs], pa.string())
        chosen = pc.and_(
            pc.equal(batch.column("model"), self._model),
            pc.is_null(dataset) if self._dataset is None else pc.equal(dataset, self._dataset),
        )
        return pc.and_(chosen, pc.is_in(batch.column("run_id"), value_set=runs)).fill_null(False)


def pools_of(run: Run) -> tuple[Pool, ...]:
    """Return the pools that a run took."""
    return tuple(Pool(*text.split(".", 1)) for text in run.settings.get("pool", ()) if "." in text)


def covers(run: Run, place: SiteLayer, pool: Pool) -> bool:
    """Say whether a run took this pool at this site and layer."""
    site, layer = place
    return (
        pool in pools_of(run)
        and site in run.settings.get("sites", ())
        and (layer is None or layer == -1 or layer in run.settings.get("layers", ()))
    )


def _stored_prompt(question: str | None, extra: str | None) -> str:
    fields = fields_in(json.loads(extra)) if extra else {}
    return _prompt(question, fields.get("system"), fields.get("answer"))


def _numbered(table: pa.Table, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Number the rows by their values in some columns: equal values, equal numbers.

    Returns:
        Each row's number, and for each number the first row that has it.
    """
    codes = np.zeros(table.num_rows, np.int64)
    for name in names:
        column = table.column(name).combine_chunks()
        encoded = pc.dictionary_encode(column, null_encoding="encode")
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        each = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        # Numbered anew column by column: the products stay far below 2**63.
        _, codes = np.unique(codes * (len(encoded.dictionary) + 1) + each, return_inverse=True)
    _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
    return codes.astype(np.int64), first


def _empty(names: Sequence[str]) -> pa.Table:
    from actstore import schema

    types = schema.metadata_schema()
    found = {name: pa.array([], types.field(name).type) for name in names}
    return pa.table({**found, "row_id": pa.array([], pa.int64())})
