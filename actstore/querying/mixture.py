"""Refuses to mix rows of several layers, sites or poolings in one matrix, unless asked to."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore.errors import MixedVectorsError
from actstore.querying.value_codes import OF_SHARD, ranked
from actstore.schema import PLACE
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.querying.chosen import ChosenRows
    from actstore.storage.manifest import PoolingRegion, ShardEntry

STREAM = ("resid_post", "resid_pre")
"""Sites that the embeddings, which are layer -1, go with: the stream begins with them."""
_OPTIONS = {"site": "sites", "layer": "layers", "pooling": "pool"}
"""How the command line calls columns, where by other words."""
_LISTED = 6
_LOOKED_AT = 64


def refuse(
    selection: ChosenRows,
    *,
    mixed: bool | None = False,
    columns: Sequence[str] = PLACE,
    instead: str = ".by({column!r}) or .stack({column!r}) keep them apart",
    any_width: bool = False,
) -> None:
    """Stop if rows differ in their place, and nobody asked for that.

    A column whose values the caller listed (``layer=[12, 18]``) was asked for. What the
    manifest tells is taken from there; the metadata is read only where a shard holds several
    poolings or regions, and no vector ever is. Rows of one selection are looked at once.

    Args:
        selection: rows that are to become one matrix.
        mixed: everything was asked for; None where the caller cannot mix.
        columns: what the rows must agree in.
        instead: advice; ``{column}`` becomes the name of a column that differs, ``{columns}``
            those of all.
        any_width: whether ``mixed`` helps where the vectors differ in width too.

    Raises:
        MixedVectorsError: they differ; the message tells in what, and how to narrow.
    """
    if mixed:
        return
    found = differing(selection, [name for name in columns if name not in selection.listed])
    if found:
        raise MixedVectorsError(_message(selection, found, instead, any_width, mixed), found)


def differing(selection: ChosenRows, columns: Sequence[str] = PLACE) -> dict[str, tuple[Any, ...]]:
    """Return the columns in which rows differ, each with its values, ascending, null last."""
    if len(selection) < 2:
        return {}
    found = {}
    shards = selection.shards
    pools = _pools(shards)
    for name in columns:
        if name in OF_SHARD:
            values = {getattr(shard, name) for shard in shards}
        else:
            at = ("pooling", "region").index(name)
            values = {pool[at] for pool in pools or ()}
            if pools is None or (len(values) > 1 and not selection.fills_shards()):
                values = selection.values_of(name)
                # Which regions go with these poolings, the manifest may say again.
                pools = {pool for pool in pools or () if pool[at] in values} or None
        if len(values) > 1:
            found[name] = tuple(sorted(values, key=ranked))
    return found


def one_stream(sites: Collection[str]) -> bool:
    """Say whether these are the embeddings and the residual stream that begins with them."""
    return len(sites) == 2 and "embeddings" in sites and not {*sites}.isdisjoint(STREAM)


def listing(values: Sequence[Any], most: int = _LISTED) -> str:
    """Return values for a message, of many the first few and how many there are."""
    told = ["null" if value is None else str(value) for value in values[:most]]
    more = f", … {len(values)} in all" if len(values) > most else ""
    return ", ".join(told) + more


def _pools(shards: Sequence[ShardEntry]) -> set[PoolingRegion] | None:
    """Return the pairs of pooling and region in some shards; None where one keeps silent."""
    found: set[PoolingRegion] = set()
    for shard in shards:
        if shard.pools is None:
            return None
        found.update(shard.pools)
    return found


def _message(
    selection: ChosenRows,
    found: Mapping[str, tuple[Any, ...]],
    instead: str,
    any_width: bool,
    mixed: bool | None,
) -> str:
    told = " and ".join(f"{name} ({listing(values)})" for name, values in found.items())
    # Of one row, since not every site has every layer, nor every pooling every region: the
    # first with the fewest nulls, which no option names.
    rows = _some(selection, list(found))
    first = min(rows, key=lambda row: [*row.values()].count(None))
    narrow = ", ".join(f"{name}={_literal(value)}" for name, value in first.items())
    options = " ".join(
        f"--{_OPTIONS.get(name, name)} {shlex.quote(str(value))}"
        for name, value in first.items()
        if value is not None
    )
    nulls = " AND ".join(f"{name} IS NULL" for name, value in first.items() if value is None)
    if nulls:
        options = " and ".join(filter(None, (options, f'the condition "{nulls}"')))
    name, values = next(iter(found.items()))
    several = ", ".join(map(_literal, values[:2]))
    text = (
        f"{counted(len(selection))} of several places would make one matrix: they differ in "
        f"{told}. Choose one: select({narrow}), or {options} on the command line; or list the "
        f"values that belong together, as in {name}=[{several}]"
    )
    if instead:
        text += f"; {instead.format(column=name, columns=','.join(found))}"
    widths = sorted({shard.width for shard in selection.shards})
    if len(widths) > 1 and not any_width:
        return f"{text}. Their vectors have widths {listing(widths)}, so no matrix holds them all"
    if mixed is None:
        return text
    return f"{text}; mixed=True (--mixed) takes them as they are"


def _some(selection: ChosenRows, columns: list[str]) -> list[dict[str, Any]]:
    """Return places that some rows have, by column: from the manifest, where it says all."""
    found = []
    for shard in selection.shards:
        if shard.pools is None or len(shard.pools) != 1:
            places = np.unique(np.linspace(0, len(selection) - 1, _LOOKED_AT).astype(np.int64))
            read: list[dict[str, Any]] = selection.take(places).table(columns).to_pylist()
            return read
        pooling, region = shard.pools[0]
        place = {"model": shard.model, "site": shard.site, "layer": shard.layer}
        place |= {"pooling": pooling, "region": region}
        found.append({name: place[name] for name in columns})
    return found


def _literal(value: Any) -> str:
    """Return a value as Python has it, in double quotes where messages quote."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
