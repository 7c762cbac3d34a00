"""Makes pooled rows of stored token rows: the pooling can be chosen after the capture."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from actstore.capturing.forward.pooling import Pool, parse_exclude, parse_pools
from actstore.capturing.token_rows import (
    REGIONS,
    ROLES,
    UNKNOWN,
    PooledRow,
    Tokens,
    kept_regions,
    partitions,
)
from actstore.errors import ConflictError, NotInStoreError, UsageError
from actstore.storage import key_hashes
from actstore.storage.manifest import Run, now
from actstore.storage.rows import RowBatch
from actstore.storage.snapshot import Snapshot, open_snapshot
from actstore.storage.writer import StoreWriter

EXCLUSIONS = ("bos", "special", "sinks")
SINK_FACTOR = 10.0
"""A token is a sink if its norm is more than this many times its example's median norm."""
_PIECE_BYTES = 64 << 20
_BATCH_BYTES = 16 << 20
_TOLERANCE = 1e-5
"""Of a vector's norm: sums of float32 in another order differ by less."""

_PROMPT, _RESPONSE, _IMAGE, _ALL = (
    REGIONS.index(word) for word in ("prompt", "response", "image", "all")
)
_GENERATED = ROLES.index("generated")

_NO_ROLES = "nothing says which tokens are the prompt's and which were generated"
_GAPS = "some tokens of the region are not stored"
_APART = "tokens between prompt and response are not stored, and they may be the region's"
_EMPTY = "the region has no token"
_EXCLUDED = "every token of the region is excluded"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoolSummary:
    """What a pooling of stored tokens did."""

    commit: int | None
    """Number of the new commit; None when nothing was new."""
    rows_written: int
    rows_present: int
    """Rows that the store has already; means and maxima to within rounding."""
    tokens: int
    """Token rows that were looked at."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Why examples got no row: the reason, and how many (per site and layer)."""


class _RegionTokens(NamedTuple):
    """The tokens that a region has, as places in a :class:`Tokens`."""

    at: np.ndarray
    """int64 ``[n]``, by example and position, no position twice."""
    starts: np.ndarray
    """Where in ``at`` each example begins."""

    def groups(self, tokens: Tokens) -> np.ndarray:
        return np.asarray(tokens.group[self.at[self.starts]])


def repool(
    root: Path | str,
    pools: str | Sequence[str],
    *,
    exclude: str | Sequence[str] = ("bos",),
    sink_factor: float = SINK_FACTOR,
    variant: str | None = None,
    rows: np.ndarray | None = None,
    where: str | None = None,
    at: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RepoolSummary:
    """Pool the tokens that a store holds, as new rows of the same store.

    A region is told from what the rows record: the prompt is every token that was not
    generated, ``response`` every one that was, ``image`` goes by its role; ``question`` and
    ``answer`` are there where the capture kept their tokens. An example of which tokens are
    missing gets no row, and is counted. Means are summed in double precision and stored as
    float32. What is there already is not stored again. Vectors are read piece by piece;
    memory grows with the number of tokens of one layer (about 40 bytes each), not with
    their vectors.

    Args:
        root: folder of the store.
        pools: such as ``response.mean``; several with commas or as a list. ``last``,
            ``first``, ``mean`` and ``max``.
        exclude: what means and maxima leave out: ``bos``, ``special`` (by the tokens' roles)
            and ``sinks`` (by their norms).
        sink_factor: how many times the median norm of an example's tokens makes a sink.
        variant: put this into the column ``variant`` of the new rows (after what stands there),
            so that they can stand beside rows of the same pooling and region.
        rows: use these rows only, bool ``[rows]`` of the store.
        where: what ``rows`` are, for the record.
        at: the commit that ``rows`` speak of; the latest when missing.
        progress: called with the vector bytes of the store that are done, and the rows made.

    Raises:
        UsageError: a pool or exclusion that cannot be made.
        NotInStoreError: the store holds no token rows.
        ConflictError: a row with the same key holds another vector.
        CommitError: the store cannot be written.
    """
    wanted = _wanted(pools)
    left_out = parse_exclude(exclude, EXCLUSIONS)
    if sink_factor <= 1:
        raise UsageError(f"the sink factor must be above 1, got {sink_factor:g}")
    snapshot = open_snapshot(root, at)
    settings = {
        "pool": [pool.text for pool in wanted],
        "exclude": sorted(left_out),
        "sink_factor": sink_factor if "sinks" in left_out else None,
        "variant": variant,
        "where": where,
        "from_commit": snapshot.manifest.number,
    }
    run = Run(
        run_id=f"pool-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}",
        kind="pool",
        started_at=now(),
        settings={name: value for name, value in settings.items() if value is not None},
    )
    worker = _Worker(snapshot, left_out, sink_factor, variant)
    done = 0
    try:
        with StoreWriter(root, run=run) as writer:
            for tokens in partitions(snapshot, rows):
                for pool in wanted:
                    for batch in worker.batches(tokens, pool):
                        added = writer.add(batch)
                        worker.written += added.written
                        worker.present += added.present
                done += len(tokens)
                writer.checkpoint()
                if progress:
                    progress(_bytes_before(snapshot, tokens.through), worker.written)
            if not done:
                raise NotInStoreError(
                    f"{root} holds no token rows{' there' if rows is not None else ''} (pooling "
                    "'none' with a position): capture them with --pool all.tokens, or ingest "
                    "without --pool"
                )
            commit = writer.commit(
                operation="pool", message=f"pooled {', '.join(pool.text for pool in wanted)}"
            )
            last = commit or (writer.commits[-1] if writer.commits else None)
            overtaken = writer.overtaken
    finally:
        snapshot.close()
    return RepoolSummary(
        commit=last,
        rows_written=worker.written - overtaken,
        rows_present=worker.present + overtaken,
        tokens=done,
        skipped={reason: count for reason, count in worker.skipped.most_common() if count},
    )


def _bytes_before(snapshot: Snapshot, row: int) -> int:
    number = int(np.searchsorted(snapshot.offsets, row))
    return sum(shard.vector_bytes for shard in snapshot.shards[:number])


def _wanted(pools: str | Sequence[str]) -> tuple[Pool, ...]:
    wanted = parse_pools(pools)
    for pool in wanted:
        if pool.stored == "none":
            raise UsageError(
                f"{pool.text} is no pooling of stored tokens: use last, first, mean or max "
                "(single tokens are rows already)"
            )
    return wanted


class _Worker:
    """Pools one partition after the other."""

    def __init__(
        self, snapshot: Snapshot, exclude: frozenset[str], sink_factor: float, variant: str | None
    ) -> None:
        self._snapshot = snapshot
        self._exclude = exclude
        self._factor = sink_factor
        self._variant = variant
        self.written = 0
        self.present = 0
        self.skipped: Counter[str] = Counter()

    def batches(self, tokens: Tokens, pool: Pool) -> Iterator[RowBatch]:
        """Yield the pooled rows of one partition that are not stored yet."""
        chosen = self._region(tokens, pool.region)
        if pool.picks:
            yield from self._picked(tokens, pool, chosen)
        else:
            yield from self._reduced(tokens, pool, self._without(tokens, chosen))

    def _region(self, tokens: Tokens, region: str) -> _RegionTokens:
        """Choose the tokens of a region, of the examples of which all are there."""
        code = REGIONS.index(region)
        said = tokens.region == code
        generated = (tokens.role == _GENERATED) | (tokens.region == _RESPONSE)
        count = len(tokens.examples)
        # Where neither a role nor a region is recorded, only the whole can be pooled.
        known = (tokens.role != UNKNOWN) | np.isin(tokens.region, (_PROMPT, _RESPONSE))
        told = np.bincount(tokens.group, known, count) > 0
        derived = {
            _ALL: np.ones(len(tokens), bool),
            _PROMPT: ~generated & told[tokens.group],
            _RESPONSE: generated,
            _IMAGE: tokens.role == ROLES.index("image"),
        }.get(code, np.zeros(len(tokens), bool))
        mask = said | derived
        at = np.flatnonzero(mask)
        at = at[_first_of_each(tokens, at)]
        groups, starts, sizes = np.unique(tokens.group[at], return_index=True, return_counts=True)
        there = np.unique(tokens.group)
        missing = np.setdiff1d(there, groups)
        untold = missing[~told[missing]] if code in (_PROMPT, _RESPONSE) else missing[:0]
        self.skipped[_NO_ROLES] += len(untold)
        self.skipped[_EMPTY] += len(missing) - len(untold)
        whole = np.ones(len(groups), bool)
        if code in (_ALL, _PROMPT, _RESPONSE):
            first, last = tokens.position[at[starts]], tokens.position[at[starts + sizes - 1]]
            whole = last - first == sizes - 1
            if code != _RESPONSE:
                whole &= first == 0
            if code == _ALL:
                whole &= self._has_all(tokens, groups)
        elif not said.any():  # the image, by role: only where the whole prompt is there
            whole = _gapless(tokens, ~generated)[groups]
        self.skipped[_GAPS] += int(np.count_nonzero(~whole))
        if code in (_PROMPT, _RESPONSE):
            apart = whole & _apart(tokens, generated)[groups]
            self.skipped[_APART] += int(np.count_nonzero(apart))
            whole &= ~apart
        kept = np.repeat(whole, sizes)
        ends = np.cumsum(sizes[whole])
        return _RegionTokens(
            at[kept], np.concatenate([[0], ends[:-1]]).astype(np.int64)[: len(ends)]
        )

    def _has_all(self, tokens: Tokens, groups: np.ndarray) -> np.ndarray:
        """Say which examples have prompt and response: a capture may have kept one of them."""
        generates = {
            run.run_id
            for run in self._snapshot.manifest.runs
            if kept_regions(run) is not None and run.settings.get("max_new_tokens") != 0
        }
        count = len(tokens.examples)
        complete = np.zeros(count, bool)
        complete[tokens.group[(tokens.region == _ALL) | (tokens.region == UNKNOWN)]] = True
        halves = [np.zeros(count, bool) for _ in range(2)]
        for half, code in zip(halves, (_PROMPT, _RESPONSE), strict=True):
            half[tokens.group[tokens.region == code]] = True
        alone = np.array([e["run_id"] not in generates for e in tokens.examples], bool)
        return np.asarray((complete | (halves[0] & (halves[1] | alone)))[groups])

    def _without(self, tokens: Tokens, chosen: _RegionTokens) -> _RegionTokens:
        """Leave out what means and maxima exclude."""
        drop = np.zeros(len(tokens), bool)
        for word in self._exclude & {"bos", "special"}:
            drop |= tokens.role == ROLES.index(word)
        if "special" in self._exclude:
            drop |= self._special(tokens)
        if "sinks" in self._exclude:
            drop |= tokens.norm > self._factor * _medians(tokens)[tokens.group]
        keep = ~drop[chosen.at]
        before = chosen.groups(tokens)
        at = chosen.at[keep]
        groups, starts = np.unique(tokens.group[at], return_index=True)
        self.skipped[_EXCLUDED] += len(before) - len(groups)
        return _RegionTokens(at, starts)

    def _special(self, tokens: Tokens) -> np.ndarray:
        """Say which generated tokens are special, as far as their runs recorded it."""
        found = np.zeros(len(tokens), bool)
        for run in self._snapshot.manifest.runs:
            if not run.settings.get("special_ids"):
                continue
            own = np.array([each["run_id"] == run.run_id for each in tokens.examples], bool)
            found |= own[tokens.group] & np.isin(tokens.token_id, run.settings["special_ids"])
        return np.asarray(found & (tokens.role == _GENERATED))

    def _picked(self, tokens: Tokens, pool: Pool, chosen: _RegionTokens) -> Iterator[RowBatch]:
        if not len(chosen.at):
            return
        ends = np.append(chosen.starts[1:], len(chosen.at))
        sizes = (ends - chosen.starts).tolist()
        at = chosen.at[chosen.starts if pool.pool == "first" else ends - 1]
        width, dtype = self._snapshot.shape(tokens.row[at])
        step = max(1, _BATCH_BYTES // (width * np.dtype(dtype).itemsize))
        for start in range(0, len(at), step):
            part = at[start : start + step]
            columns: dict[
                str, list[Any]
            ] = {  # no position: as a capture, `last` is what it is wherever it stands
                "token_id": [number if number >= 0 else None for number in tokens.token_id[part]],
                "token_role": [
                    ROLES[code] if code >= 0 else None for code in tokens.role[part].tolist()
                ],
                # As of a capture: the tokens of the region that one was picked of.
                "token_count": sizes[start : start + step],
            }
            vectors = self._snapshot.gather(tokens.row[part])
            yield self._batch(tokens, pool, tokens.group[part], vectors, columns)

    def _reduced(self, tokens: Tokens, pool: Pool, chosen: _RegionTokens) -> Iterator[RowBatch]:
        if not len(chosen.at):
            return
        groups = chosen.groups(tokens)
        sizes = np.diff(np.append(chosen.starts, len(chosen.at)))
        width, _ = self._snapshot.shape(tokens.row[chosen.at])
        waiting: list[np.ndarray] = []
        first = 0
        for number, vector in enumerate(self._reductions(tokens, pool, chosen, width)):
            waiting.append(vector)
            if len(waiting) * width * 4 >= _BATCH_BYTES or number == len(groups) - 1:
                part = slice(first, first + len(waiting))
                yield from self._new(
                    tokens, pool, groups[part], np.stack(waiting), sizes[part].tolist()
                )
                first, waiting = first + len(waiting), []

    def _reductions(
        self, tokens: Tokens, pool: Pool, chosen: _RegionTokens, width: int
    ) -> Iterator[np.ndarray]:
        """Yield each example's mean or maximum, float32 ``[width]``, reading piece by piece."""
        mean = pool.pool == "mean"
        combine = np.add if mean else np.maximum
        step = max(1, _PIECE_BYTES // (width * 4))
        bounds = np.append(chosen.starts, len(chosen.at))
        sizes = np.diff(bounds)
        carry: np.ndarray | None = None
        number = 0
        for start in range(0, len(chosen.at), step):
            stop = min(start + step, len(chosen.at))
            vectors = self._snapshot.gather(tokens.row[chosen.at[start:stop]])
            while number < len(sizes) and bounds[number] < stop:
                low, high = max(int(bounds[number]), start), min(int(bounds[number + 1]), stop)
                part = vectors[low - start : high - start]
                found = (
                    part.sum(axis=0, dtype=np.float64)
                    if mean
                    else part.max(axis=0).astype(np.float64)
                )
                carry = found if carry is None else combine(carry, found)
                if bounds[number + 1] > stop:
                    break  # goes on in the next piece
                yield (carry / sizes[number] if mean else carry).astype(np.float32)
                carry = None
                number += 1

    def _new(
        self,
        tokens: Tokens,
        pool: Pool,
        groups: np.ndarray,
        vectors: np.ndarray,
        counts: Sequence[int],
    ) -> Iterator[RowBatch]:
        """Yield the rows that are not there yet, to within rounding."""
        fresh = np.ones(len(groups), bool)
        stored = {} if self._variant is not None else tokens.stored
        for at, group in enumerate(groups.tolist()):
            row = stored.get(PooledRow(pool.stored, pool.region, group))
            if row is None:
                continue
            there = self._snapshot.gather(np.array([row]))[0].astype(np.float64)
            distance = float(np.linalg.norm(there - vectors[at]))
            if distance > _TOLERANCE * max(float(np.linalg.norm(there)), 1e-30):
                example = tokens.examples[group]
                place = key_hashes.describe_partition((tokens.model, tokens.site, tokens.layer))
                raise ConflictError(
                    f"{pool.text} of example {example['example_id']!r} at {place} is "
                    f"stored already and differs by {distance:.3g}: it was pooled over other "
                    "tokens (see --exclude); keep both with --as-variant NAME"
                )
            fresh[at] = False
        self.present += int(np.count_nonzero(~fresh))
        if fresh.any():
            columns = {"token_count": [counts[at] for at in np.flatnonzero(fresh).tolist()]}
            yield self._batch(tokens, pool, groups[fresh], vectors[fresh], columns)

    def _batch(
        self,
        tokens: Tokens,
        pool: Pool,
        groups: np.ndarray,
        vectors: np.ndarray,
        columns: Mapping[str, list[Any]],
    ) -> RowBatch:
        examples = [tokens.examples[group] for group in groups.tolist()]
        shared = {"model": tokens.model, "site": tokens.site, "layer": tokens.layer}
        own = {
            name: [example[name] for example in examples]
            for name in (tokens.examples[0] if tokens.examples else ())
            if name not in ("run_id", *shared)
        }
        if self._variant is not None:
            own["variant"] = [
                self._variant if old is None else f"{old}-{self._variant}" for old in own["variant"]
            ]
        return RowBatch(
            vectors=vectors,
            constants={**shared, "pooling": pool.stored, "region": pool.region},
            columns={**own, **columns},
        )


def _first_of_each(tokens: Tokens, at: np.ndarray) -> np.ndarray:
    """Return a mask that keeps each token once: it may be stored for several regions."""
    fresh = np.ones(len(at), bool)
    fresh[1:] = (np.diff(tokens.group[at]) != 0) | (np.diff(tokens.position[at]) != 0)
    return fresh


def _apart(tokens: Tokens, generated: np.ndarray) -> np.ndarray:
    """Say of which examples tokens between prompt and response are missing; bool.

    As far as both are there: what was captured of a part of one (``question``) has gaps of its own.
    """
    whole = np.isin(tokens.region, (_PROMPT, _RESPONSE, _ALL, UNKNOWN))
    count = len(tokens.examples)
    end, begin = np.full(count, -1), np.full(count, np.iinfo(np.int64).max)
    for found, edge, part in ((end, np.maximum, ~generated), (begin, np.minimum, generated)):
        at = np.flatnonzero(whole & part)
        edge.at(found, tokens.group[at], tokens.position[at])
    both = (end >= 0) & (begin < np.iinfo(np.int64).max)
    return np.asarray(both & (begin > end + 1))


def _gapless(tokens: Tokens, mask: np.ndarray) -> np.ndarray:
    """Say of which examples the masked tokens are all there, from position 0 on; bool."""
    at = np.flatnonzero(mask)
    at = at[_first_of_each(tokens, at)]
    counts = np.bincount(tokens.group[at], minlength=len(tokens.examples))
    last = np.full(len(tokens.examples), -1)
    np.maximum.at(last, tokens.group[at], tokens.position[at])
    return np.asarray(counts == last + 1)


def _medians(tokens: Tokens) -> np.ndarray:
    """Return the median norm of each example's tokens, float64; a token counts once."""
    at = np.arange(len(tokens))
    at = at[_first_of_each(tokens, at)]
    groups, norms = tokens.group[at], tokens.norm[at].astype(np.float64)
    order = np.lexsort((norms, groups))
    groups, norms = groups[order], norms[order]
    present, starts, sizes = np.unique(groups, return_index=True, return_counts=True)
    low, high = starts + (sizes - 1) // 2, starts + sizes // 2
    medians = np.full(len(tokens.examples), np.inf)
    medians[present] = (norms[low] + norms[high]) / 2
    return medians
