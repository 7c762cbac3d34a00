"""The way in for activations in memory: caches and states of other tools, dicts of arrays."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack, get_args

import numpy as np

from actstore import schema
from actstore.errors import ConflictError, LayoutError, UsageError
from actstore.ingestion.activation_caches import NamedArray, NamedArrays, arrays, places
from actstore.ingestion.axes import Block, Grid, blocks, interpret
from actstore.ingestion.conflicts import conflict_text
from actstore.ingestion.example_columns import example_columns
from actstore.ingestion.hidden_states import check_family, state_notes
from actstore.ingestion.options import Options, Pool, StorageType, checked_options
from actstore.ingestion.precision import stored
from actstore.ingestion.provenance import versions
from actstore.ingestion.tensor import Tensor
from actstore.ingestion.token_check import token_note
from actstore.storage.manifest import Run, now
from actstore.storage.narrowing import narrow_of
from actstore.storage.rows import RowBatch
from actstore.storage.writer import StoreWriter

_TOKENS: dict[int, tuple[str, ...]] = {
    2: ("example", "hidden"),
    3: ("example", "token", "hidden"),
}
_ONE: dict[int, tuple[str, ...]] = {1: ("hidden",), 2: ("token", "hidden")}
_OF_TOKENS = ("pooling", "position", "token_id", "token_role", "token_count")


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteSummary:
    """What a write did."""

    commit: int | None
    """Number of the new commit; None when every row was there already, and in a session while
    what was written waits for its commit."""
    rows_written: int
    rows_present: int
    """Rows that the store already holds, bit for bit."""
    rows_repeated: int = 0
    """Rows that come again among these, bit for bit."""
    rows_replaced: int = 0
    """Rows among the written that took the place of stored ones with another vector."""
    rows_differing: int
    """Rows among these whose label is another than the stored one; it was left as it is."""
    examples: int
    skipped: tuple[str, ...] = ()
    """Entries of the cache that were left out: no site of the schema, or not asked for."""
    notes: tuple[str, ...] = ()
    """What the user should know, such as token ids that are not the stored ones."""


class _Tokens(NamedTuple):
    """What is known of the tokens, each a list of one list per example."""

    mask: Sequence[np.ndarray] | None
    ids: Sequence[Sequence[int]] | None
    roles: Sequence[Sequence[str | None]] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteSettings:
    """What the caller of :func:`write` chose."""

    model: str | None = None
    dataset: str | None = None
    pool: str | None = None
    mask: Any = None
    token_ids: Any = None
    token_roles: Sequence[Sequence[str | None]] | None = None
    sites: Collection[str] | None = None
    layers: Collection[int] | None = None
    storage_dtype: StorageType | None = None
    allow_rounding: bool = False
    allow_nonfinite: bool = False
    replace: bool = False
    message: str | None = None


class WriteOptions(TypedDict, total=False):
    """The fields of :class:`WriteSettings` as keywords, for editors and type checkers."""

    model: str | None
    dataset: str | None
    pool: str | None
    mask: Any
    token_ids: Any
    token_roles: Sequence[Sequence[str | None]] | None
    sites: Collection[str] | None
    layers: Collection[int] | None
    storage_dtype: StorageType | None
    allow_rounding: bool
    allow_nonfinite: bool
    replace: bool
    message: str | None


def write(
    root: Path | str,
    activations: Any,
    metadata: Any = None,
    **options: Unpack[WriteOptions],
) -> WriteSummary:
    """Store activations that are in memory; all of them as one commit, or none.

    Rows that the store already holds bit for bit are not stored again. bfloat16 becomes
    float32, which holds it exactly; float16 and float32 stay as they are.

    Args:
        root: folder of the store, made when missing.
        activations: ``{name or (site, layer): array}``, a cache of TransformerLens or nnsight,
            or hidden states of transformers (an output, the tuple, or that of a generation: see
            :func:`actstore.ingestion.hidden_states.hidden_states`). An array is
            ``[examples, width]`` or ``[examples, tokens, width]``, or a list of one array per
            example. Names such as ``blocks.12.hook_resid_post`` and ``model.layers.12`` become
            the schema's site and layer, others are kept as they are. Of a cache object the
            entries that are a site of the schema are taken.
        metadata: a dict of columns (one value stands for all examples), a list of one dict per
            example, a table (Arrow, Polars, pandas) or a data set; ``example_id`` (or ``id``)
            is required, what is no column of the schema goes to ``extra``.
        options: fields of :class:`WriteSettings`; one by one:
        model: hub id or path of the model, unless ``metadata`` has it.
        dataset: data set of the examples.
        pool: how tokens become one vector, as ``REGION.POOL`` or ``POOL``, with ``last``,
            ``first``, ``mean`` (summed in float64), ``max`` or ``tokens`` (every token a row, the
            default). Of ``[examples, width]`` it says how that was done; ``unknown`` otherwise.
        mask: 0/1, ``[examples, tokens]`` or a list per example: tokens with 0 are padding,
            are left out and not counted in positions. Needed where examples differ in length.
        token_ids: whole numbers of the same shape, for rows that are tokens; the ``sequences``
            of a generation where they are not given. Where the store holds tokens of the same
            examples, the ids are compared, and ``notes`` tell where they differ.
        token_roles: words of the schema of the same shape, likewise.
        sites: take these only, also from what is no site of the schema.
        layers: take these only.
        storage_dtype: ``float32``, ``float16`` or ``auto``; ``compact16`` or ``int8``, which
            round and say in ``notes`` by how much; None keeps the type.
        allow_rounding: let ``storage_dtype`` round values.
        allow_nonfinite: store NaN and infinity.
        replace: rows whose key is stored with another vector take the place of the stored
            ones, their labels too, in this commit; without it that is an error.
        message: what the log says.

    Raises:
        UsageError: an argument cannot work: no model, no example ids, other numbers of examples.
        LayoutError: an array has another shape, or another width than the store holds there.
        NonFiniteError, PrecisionError: a value that may not or cannot be stored.
        ConflictError: a row is already stored with a different vector, or two rows have one key;
            nothing is stored.
        CommitError: the store cannot be written.
    """
    given = Given.of(activations, WriteSettings(**options))
    with given.writer(root, small=True) as writer:
        done = given.add_to(writer, metadata)
        text = given.chosen.message or f"wrote {done.rows_written} rows of {given.whose}"
        commit = writer.commit(operation="write", message=text)
    return replace(
        done,
        commit=commit,
        rows_written=done.rows_written - writer.overtaken,
        rows_present=done.rows_present + writer.overtaken,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Activations that were given to be written, and how."""

    chosen: WriteSettings
    found: NamedArrays
    types: Options
    shared: dict[str, str]
    """Columns that have one value for all of them."""
    how: str | None

    @classmethod
    def of(cls, activations: Any, chosen: WriteSettings) -> Given:
        """Return them as they are understood; nothing is written yet.

        Raises:
            as :func:`write`.
        """
        types = checked_options(
            storage_dtype=chosen.storage_dtype,
            allow_rounding=chosen.allow_rounding,
            allow_nonfinite=chosen.allow_nonfinite,
        )
        region, how = _pool(chosen.pool)
        found = places(activations, sites=chosen.sites, layers=chosen.layers)
        named = {"model": chosen.model, "dataset": chosen.dataset, "region": region}
        shared = {name: value for name, value in named.items() if value is not None}
        return cls(chosen=chosen, found=found, types=types, shared=shared, how=how)

    @property
    def whose(self) -> str:
        """The model, for people."""
        return self.chosen.model or "several models"

    @property
    def settings(self) -> dict[str, Any]:
        """What a run of it says of how it was made."""
        settings = {
            **self.shared,
            "pool": self.chosen.pool,
            "names": [place.name for place in self.found.chosen],
            "storage_dtype": self.types.storage_dtype,
            "allow_rounding": self.types.allow_rounding,
            "allow_nonfinite": self.types.allow_nonfinite,
        }
        return {name: value for name, value in settings.items() if value not in (None, False)}

    def writer(self, root: Path | str, *, small: bool = False) -> StoreWriter:
        """Begin a run that writes such activations; see :class:`StoreWriter`.

        Raises:
            StoreError: the path is a file or holds other things.
            CommitError: it cannot be written.
        """
        run = Run(
            run_id=f"write-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}",
            kind="write",
            started_at=now(),
            settings=self.settings,
            versions=versions(),
        )
        return StoreWriter(
            root,
            run=run,
            checkpoint_bytes=None,
            replace=self.chosen.replace,
            narrow=narrow_of(self.types.storage_dtype),
            small=small,
        )

    def add_to(self, writer: StoreWriter, metadata: Any) -> WriteSummary:
        """Hand all rows to a writer, or none; the commit is the caller's.

        Raises:
            as :func:`write`.
        """
        chosen, found, shared = self.chosen, self.found, self.shared
        taken = ("site", "layer", *shared, *(("pooling",) if self.how else ()))
        examples: int | None = None
        columns: dict[str, list[Any]] = {}
        tokens = _Tokens(None, None, None)
        written = present = differing = repeated = 0
        before = _replaced(writer)
        ids = chosen.token_ids
        if ids is None and found.states is not None:
            ids = found.states.token_ids
        note: str | None = None
        with writer.file():
            for place in found.chosen:
                parts = _parts(place, found.has_examples)
                count = _examples(parts)
                if examples is None:
                    examples = count
                    columns = example_columns(metadata, count, taken=taken)
                    _check_complete({**shared, **columns})
                    if found.states is not None:
                        for model in {chosen.model or "", *columns.get("model", ())}:
                            check_family(found.states, model)
                    tokens = _Tokens(
                        _mask(chosen.mask, count),
                        _each(ids, count),
                        _each(chosen.token_roles, count),
                    )
                    note = token_note(writer.root, {**shared, **columns}, _kept(tokens))
                if count != examples:
                    raise UsageError(
                        f"{place.name} has {count} examples, {found.chosen[0].name} {examples}"
                    )
                for batch in _batches(place, parts, columns, tokens, self.how, self.types):
                    constants = {**shared, **batch.constants}
                    try:
                        added = writer.add(replace(batch, constants=constants))
                    except ConflictError as error:
                        text = conflict_text(error)
                        text = text if note is None else f"{text}; {note}"
                        raise ConflictError(text, error.row, error.sources) from error
                    written += added.written
                    present += added.present - added.repeated
                    repeated += added.repeated
                    differing += added.differing
        return WriteSummary(
            commit=None,
            rows_written=written,
            rows_present=present,
            rows_repeated=repeated,
            rows_replaced=_replaced(writer) - before,
            rows_differing=differing,
            examples=examples or 0,
            skipped=found.skipped,
            notes=(
                *_notes(found, masked=chosen.mask is not None),
                *filter(None, (note, writer.narrowing_note)),
            ),
        )


def _replaced(writer: StoreWriter) -> int:
    return sum(len(each.rows) for each in writer.replaced())


def _notes(found: NamedArrays, *, masked: bool) -> list[str]:
    if found.states is None:
        return list(found.notes)
    taken = [place.name for place in found.chosen]
    return state_notes(found.states, taken, masked=masked)


def _kept(tokens: _Tokens) -> list[list[int]] | None:
    """Return the ids of each example's tokens without padding."""
    if tokens.ids is None or tokens.mask is None:
        return None if tokens.ids is None else [list(row) for row in tokens.ids]
    return [
        [token for token, kept in zip(row, mask, strict=False) if kept]
        for row, mask in zip(tokens.ids, tokens.mask, strict=True)
    ]


def _pool(pool: str | None) -> tuple[str | None, str | None]:
    """Return region and pool, either of them None where it is not said."""
    if pool is None:
        return None, None
    first, _, second = pool.rpartition(".")
    region, how = first or None, second
    if how not in (*get_args(Pool), "tokens"):
        raise UsageError(
            f"pool {pool!r} is unknown: use last, first, mean, max or tokens, after a region and "
            "a dot if it is known, such as prompt.last"
        )
    schema.check_choice("region", region)
    return region, how


def _parts(place: NamedArray, has_examples: bool) -> list[Grid] | Grid:
    """Return a place's array as one grid, or as one grid per example."""
    found = arrays(place)
    try:
        if isinstance(place.value, list) and found[0].ndim < 3:
            return [interpret(tensor, _ONE, squeeze=False) for tensor in found]
        tensor = found[0]
        if not has_examples and tensor.ndim < 3:
            tensor = Tensor(tensor.numpy()[None])
        return interpret(tensor, _TOKENS, squeeze=False)
    except LayoutError as error:
        raise LayoutError(f"{place.name}: {error}") from error


def _examples(parts: list[Grid] | Grid) -> int:
    return len(parts) if isinstance(parts, list) else parts.rows["example"]


def _check_complete(columns: Mapping[str, Any]) -> None:
    if "example_id" not in columns:
        raise UsageError(
            "the examples need ids: give metadata={'example_id': [...], ...}, one per example"
        )
    if "model" not in columns:
        raise UsageError("the model is not known: name it, such as model='openai-community/gpt2'")


def _mask(mask: Any, examples: int) -> list[np.ndarray] | None:
    each = _each(mask, examples)
    return None if each is None else [np.asarray(row, dtype=bool) for row in each]


def _each(values: Any, examples: int) -> list[list[Any]] | None:
    """Return what is known of tokens as lists, one per example."""
    if values is None:
        return None
    if isinstance(values, Sequence) and not isinstance(values, str):
        rows = [row.tolist() if hasattr(row, "tolist") else list(row) for row in values]
    else:
        rows = values.tolist()
    if len(rows) != examples or not all(isinstance(row, list) for row in rows):
        raise UsageError(
            f"mask, token_ids and token_roles must have one row of tokens for each of the "
            f"{examples} examples, got {len(rows)}"
        )
    return rows


def _batches(
    place: NamedArray,
    parts: list[Grid] | Grid,
    columns: Mapping[str, list[Any]],
    tokens: _Tokens,
    how: str | None,
    options: Options,
) -> Iterator[RowBatch]:
    if not isinstance(parts, list):
        yield from _of_grid(place, parts, 0, columns, tokens, how, options)
        return
    for first, grid in enumerate(parts):
        yield from _of_grid(place, grid, first, columns, tokens, how, options)


def _of_grid(
    place: NamedArray,
    grid: Grid,
    first: int,
    columns: Mapping[str, list[Any]],
    tokens: _Tokens,
    how: str | None,
    options: Options,
) -> Iterator[RowBatch]:
    constants: dict[str, Any] = {"site": place.site, "layer": place.layer, "source": place.name}
    constants = {name: value for name, value in constants.items() if name not in columns}
    pool: Any = None if how == "tokens" else how
    if grid.tokens is None:
        if "pooling" not in columns:
            constants["pooling"] = "none" if how == "tokens" else how or "unknown"
        pool = None
    else:
        clash = [name for name in _OF_TOKENS if name in columns]
        if clash:
            raise UsageError(
                f"metadata has a column {clash[0]!r}, and {place.name} whole sequences: use pool, "
                "mask, token_ids and token_roles for what concerns tokens"
            )
        constants["pooling"] = how if pool else "none"
    mask = _checked_mask(place, grid, first, tokens.mask)
    for block in blocks(grid, pool=pool, mask=mask):
        chosen = _examples_of(block, first)
        cells = {
            name: [values[example] for example in chosen]
            for name, values in columns.items()
            if name not in constants
        }
        if block.counts is not None:
            cells["token_count"] = block.counts
        if block.positions is not None:
            cells.update(_token_cells(place, block, chosen, tokens, masked=mask is not None))
        ids = [columns["example_id"][example] for example in chosen]
        vectors = stored(block.vectors, options, _describing(place, ids)).vectors
        yield RowBatch(vectors=vectors, constants=constants, columns=cells)


def _describing(place: NamedArray, ids: Sequence[str]) -> Callable[[int], str]:
    return lambda row: f"{place.name}, example {ids[row]}"


def _examples_of(block: Block, first: int) -> list[int]:
    """Return the number of the example that each vector of a block belongs to."""
    each = len(block.vectors) // block.rows if block.rows else 0
    return [first + block.row + at // each for at in range(len(block.vectors))] if each else []


def _checked_mask(
    place: NamedArray, grid: Grid, first: int, mask: Sequence[np.ndarray] | None
) -> np.ndarray | None:
    """Return the mask of a grid's tokens: bool ``[rows, tokens]``."""
    if mask is None or grid.tokens is None:
        return None
    rows = mask[first : first + grid.count]
    for number, row in enumerate(rows):
        if row.shape != (grid.tokens,):
            raise UsageError(
                f"{place.name}: example {first + number} has {grid.tokens} tokens, the mask "
                f"{len(row)}"
            )
    return np.stack(rows)


def _token_cells(
    place: NamedArray, block: Block, chosen: Sequence[int], tokens: _Tokens, *, masked: bool
) -> dict[str, list[Any]]:
    assert block.positions is not None
    # Padding is not counted, so that a token has one position on either side and in any batch.
    positions = list(range(len(block.positions))) if masked else block.positions
    cells: dict[str, list[Any]] = {"position": positions}
    for name, values in (("token_id", tokens.ids), ("token_role", tokens.roles)):
        if values is None:
            continue
        try:
            cells[name] = [
                values[example][at] for example, at in zip(chosen, block.positions, strict=True)
            ]
        except IndexError as error:
            raise UsageError(
                f"{place.name}: {name}s do not cover the tokens of example {chosen[0]}"
            ) from error
    return cells
