"""Finds the stored tokens of each example: which rows they are, and what is known of each token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from actstore import schema
from actstore.storage.manifest import Run
from actstore.storage.snapshot import Snapshot

ROLES: tuple[str, ...] = tuple(schema.document()["token_roles"])
REGIONS: tuple[str, ...] = tuple(schema.document()["regions"])
UNKNOWN = -1
"""Code of a null role or region."""
_OF_TOKENS = ("pooling", "region", "position", "token_id", "token_role", "token_count", "norm")
_GROUP = ("dataset", "split", "example_id", "example_index", "mode", "variant")
_KEPT = tuple(
    name for name in schema.metadata_names() if name not in (*_OF_TOKENS, "model", "site", "layer")
)

Key = tuple[Any, ...]


class PooledRow(NamedTuple):
    """A vector that is stored already: pooling word, region and example."""

    pooling: str
    region: str | None
    group: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The token rows of one model, site and layer, ordered by example and position."""

    model: str
    site: str
    layer: int | None
    examples: list[dict[str, Any]]
    """Metadata of each example."""
    row: np.ndarray
    """Row number, int64 ``[n]``."""
    group: np.ndarray
    """Example of each row, int64 ``[n]``, ascending."""
    position: np.ndarray
    """int64 ``[n]``, ascending within an example; the same position may come twice."""
    token_id: np.ndarray
    """int64 ``[n]``, -1 where it is not known."""
    role: np.ndarray
    """Index into :data:`ROLES`, int8 ``[n]``."""
    region: np.ndarray
    """Index into :data:`REGIONS`, int8 ``[n]``."""
    norm: np.ndarray
    """float32 ``[n]``."""
    stored: Mapping[PooledRow, int]
    """Rows of means and maxima that these examples have already."""
    through: int
    """Number of the store's row after the last one of this model, site and layer."""

    def __len__(self) -> int:
        return len(self.row)


def partitions(snapshot: Snapshot, rows: np.ndarray | None = None) -> Iterator[Tokens]:
    """Yield the token rows of each model, site and layer that has any.

    A token row has the pooling ``none`` and a position. Single tokens that a capture picked
    out (``prompt.-2``) are none: without the others nothing can be pooled.

    Args:
        snapshot: the store.
        rows: look at these rows only, bool ``[snapshot.rows]``.
    """
    runs = {run.run_id: kept_regions(run) for run in snapshot.manifest.runs}
    with snapshot.opened_metadata() as file:
        bounds = np.cumsum(
            [0, *(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))]
        )
        for (model, site, layer), start, stop in _ranges(snapshot):
            groups = range(
                int(np.searchsorted(bounds, start, "right")) - 1,
                int(np.searchsorted(bounds, stop, "left")),
            )
            reader = _TokenReader(runs)
            for number in groups:
                table = file.read_row_group(
                    number, columns=[*_KEPT, *_OF_TOKENS], use_threads=False
                )
                first = int(bounds[number])
                low, high = max(start - first, 0), min(stop - first, table.num_rows)
                mask = None if rows is None else rows[first + low : first + high]
                reader.take(table.slice(low, high - low), first + low, mask)
            if reader.found:
                yield reader.tokens(model, site, layer, through=stop)


def kept_regions(run: Run) -> frozenset[str] | None:
    """Return the regions of which a run kept every token; None if it kept whatever it had."""
    pools = run.settings.get("pool")
    if run.kind not in ("capture", "record"):
        return None
    if not isinstance(pools, Sequence) or isinstance(pools, str):
        return None
    return frozenset(str(pool).partition(".")[0] for pool in pools if str(pool).endswith(".tokens"))


def _ranges(snapshot: Snapshot) -> Iterator[tuple[tuple[str, str, int | None], int, int]]:
    """Yield each partition with its first row and the row after its last."""
    number = 0
    shards = snapshot.shards
    while number < len(shards):
        end = number
        while end < len(shards) and shards[end].partition == shards[number].partition:
            end += 1
        yield shards[number].partition, int(snapshot.offsets[number]), int(snapshot.offsets[end])
        number = end


class _TokenReader:
    """Collects the rows of one partition, piece by piece."""

    def __init__(self, runs: Mapping[str, frozenset[str] | None]) -> None:
        self._runs = runs
        self._numbers: dict[Key, int] = {}
        self._examples: list[dict[str, Any]] = []
        self._pieces: list[dict[str, np.ndarray]] = []
        self._stored: dict[PooledRow, int] = {}

    @property
    def found(self) -> bool:
        return bool(self._pieces)

    def take(self, table: pa.Table, first: int, mask: np.ndarray | None) -> None:
        pooling = np.array(table["pooling"].to_pylist(), object)
        positions = table["position"].fill_null(-1).to_numpy()
        wanted = np.ones(table.num_rows, bool) if mask is None else mask
        tokens = wanted & (pooling == "none") & (positions >= 0)
        tokens &= self._whole(table)
        # What is stored is known even where the rows to look at are chosen by a condition.
        pooled = np.isin(pooling, ("mean", "max"))
        chosen = np.flatnonzero(tokens)
        if len(chosen):
            part = table.take(chosen)
            self._pieces.append(
                {
                    "row": first + chosen,
                    "group": self._groups(part),
                    "position": positions[chosen].astype(np.int64),
                    "token_id": part["token_id"].fill_null(-1).to_numpy().astype(np.int64),
                    "role": _codes(part["token_role"], ROLES),
                    "region": _codes(part["region"], REGIONS),
                    "norm": part["norm"].to_numpy(),
                }
            )
        there = np.flatnonzero(pooled)
        if len(there):
            part = table.take(there)
            cells = zip(
                part["pooling"].to_pylist(),
                part["region"].to_pylist(),
                self._groups(part).tolist(),
                (first + there).tolist(),
                strict=True,
            )
            for word, region, group, row in cells:
                self._stored[PooledRow(word, region, group)] = row

    def _whole(self, table: pa.Table) -> np.ndarray:
        """Return which rows belong to a region of which their run kept every token."""
        run_ids, regions = (table[name].to_pylist() for name in ("run_id", "region"))
        verdicts: dict[tuple[str, str | None], bool] = {}
        for pair in set(zip(run_ids, regions, strict=True)):
            kept = self._runs.get(pair[0])
            verdicts[pair] = kept is None or pair[1] in kept
        return np.fromiter(map(verdicts.__getitem__, zip(run_ids, regions, strict=True)), bool)

    def _groups(self, part: pa.Table) -> np.ndarray:
        """Return the number of each row's example, int64; new examples are taken note of."""
        codes = np.zeros(part.num_rows, np.int64)
        for name in _GROUP:
            encoded = part[name].combine_chunks().dictionary_encode()
            own = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy()
            joined = codes * (len(encoded.dictionary) + 1) + own
            _, codes = np.unique(joined, return_inverse=True)
        _, firsts, codes = np.unique(codes, return_index=True, return_inverse=True)
        rows = part.select(_KEPT).take(firsts).to_pylist()
        numbers = np.empty(len(rows), np.int64)
        for at, row in enumerate(rows):
            key = tuple(row[name] for name in _GROUP)
            number = self._numbers.setdefault(key, len(self._numbers))
            if number == len(self._examples):
                self._examples.append(row)
            numbers[at] = number
        return np.asarray(numbers[codes])

    def tokens(self, model: str, site: str, layer: int | None, *, through: int) -> Tokens:
        together = {
            name: np.concatenate([piece[name] for piece in self._pieces])
            for name in self._pieces[0]
        }
        order = np.lexsort((together["row"], together["position"], together["group"]))
        return Tokens(
            model=model,
            site=site,
            layer=layer,
            examples=self._examples,
            stored=self._stored,
            through=through,
            **{name: values[order] for name, values in together.items()},
        )


def _codes(column: pa.ChunkedArray, words: tuple[str, ...]) -> np.ndarray:
    """Return each value's index into ``words``, int8; -1 for null."""
    codes = {word: number for number, word in enumerate(words)}
    encoded = column.combine_chunks().dictionary_encode()
    table = np.array([codes[word] for word in encoded.dictionary.to_pylist()] + [UNKNOWN], np.int8)
    return np.asarray(table[encoded.indices.fill_null(len(table) - 1).to_numpy()])
