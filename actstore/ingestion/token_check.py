"""Compares token ids that come in with those that a store holds for the same examples."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from actstore import schema
from actstore.storage import shard_columns
from actstore.storage.snapshot import latest_snapshot
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.storage.manifest import ShardEntry

_OF_ROWS = ("model", "example_id", "layer", "site", "pooling", "region", "position")
"""Columns of a row's key that do not say which example it is of, or say it at once."""


class _Stored(NamedTuple):
    """The tokens that a store holds of one example."""

    about: Mapping[str, Any]
    """Data set, variant and what else tells examples of one id apart."""
    ids: dict[int, int]
    """By position."""


class _Difference(NamedTuple):
    """How the ids of one example differ from the stored ones."""

    example: str
    kind: str
    """``longer``, ``shorter`` (by one token at the start) or ``other``."""
    position: int
    new: int
    stored: int | None
    """None where the token is not among the stored ones."""


def token_note(
    root: Path, columns: Mapping[str, Any], ids: Sequence[Sequence[int]] | None
) -> str | None:
    """Return in a sentence how token ids differ from stored ones; None where they do not.

    Examples are the same that have one model and id, and agree in data set, split, variant
    and the like as far as both say them. Only rows that are single tokens have ids to compare.

    Args:
        root: folder of the store.
        columns: the schema's columns of the examples: one value each, or one for all.
        ids: token ids of each example from position 0 on, without padding; None: not known.
    """
    if ids is None:
        return None
    keys = [_cells(columns, row) for row in range(len(ids))]
    waiting: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(keys):
        waiting.setdefault((key["model"], key["example_id"]), []).append(row)
    found: list[_Difference] = []
    compared = 0
    models = {model for model, _ in waiting}
    for entry in latest_snapshot(root).manifest.shards:
        if not waiting:
            break
        pools = entry.pools
        tokens = pools is None or any(pooling == "none" for pooling, _ in pools)
        if entry.model not in models or not tokens:
            continue
        for name, stored in _stored(root, entry, waiting).items():
            for row in list(waiting[name]):
                same = [each.ids for each in stored if _agree(each.about, keys[row])]
                same = [each for each in same if any(at < len(ids[row]) for at in each)]
                if not same:
                    continue
                compared += 1
                waiting[name].remove(row)
                differences = [_difference(name[1], ids[row], each) for each in same]
                if None not in differences:
                    found += [each for each in differences[:1] if each]
            if not waiting[name]:
                del waiting[name]
    return _sentence(found, compared) if found else None


def _cells(columns: Mapping[str, Any], row: int) -> dict[str, Any]:
    """Return what tells an example apart from others."""
    values = {name: columns.get(name) for name in ("model", "example_id", *_about())}
    return {
        name: value[row] if isinstance(value, list) else value for name, value in values.items()
    }


def _about() -> list[str]:
    return [name for name in schema.key_names() if name not in _OF_ROWS]


def _stored(
    root: Path, entry: ShardEntry, wanted: Collection[tuple[str, str]]
) -> dict[tuple[str, str], list[_Stored]]:
    """Return the tokens of the wanted examples in one shard, by model and id."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = _about()
    every = ["example_id", "position", "token_id", *names]
    table = shard_columns.read_columns(root, entry, every)
    ids = pa.array([example for model, example in wanted if model == entry.model], pa.string())
    kept = pc.and_(
        pc.is_in(pc.cast(table["example_id"], pa.string()), value_set=ids),
        pc.and_(pc.is_valid(table["position"]), pc.is_valid(table["token_id"])),
    )
    found: dict[tuple[Any, ...], dict[int, int]] = {}
    rows = zip(*(table.filter(kept)[name].to_pylist() for name in every), strict=True)
    for example, position, token, *about in rows:
        found.setdefault((example, *about), {})[position] = token
    groups: dict[tuple[str, str], list[_Stored]] = {}
    for (example, *about), tokens in found.items():
        about_it = dict(zip(names, about, strict=True))
        groups.setdefault((entry.model, example), []).append(_Stored(about_it, tokens))
    return groups


def _agree(stored: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    return all(
        value is None or given[name] is None or value == given[name]
        for name, value in stored.items()
    )


def _difference(example: str, new: Sequence[int], stored: Mapping[int, int]) -> _Difference | None:
    """Compare ids at the positions that both have."""
    common = [position for position in sorted(stored) if position < len(new)]
    first = next((at for at in common if new[at] != stored[at]), None)
    if first is None:
        return None
    later = [position for position in stored if position + 1 < len(new)]
    earlier = [position for position in stored if 0 < position <= len(new)]
    if later and all(new[position + 1] == stored[position] for position in later):
        return _Difference(example, "longer", 0, new[0], stored.get(0))
    if earlier and all(new[position - 1] == stored[position] for position in earlier):
        return _Difference(example, "shorter", 0, new[0], stored.get(0))
    return _Difference(example, "other", first, new[first], stored[first])


def _sentence(found: Sequence[_Difference], compared: int) -> str:
    one = found[0]
    start = f"the token ids of {len(found):,} of {counted(compared, 'example')} differ from those "
    start += "that are stored for the same: "
    kinds = {each.kind for each in found}
    if kinds == {"longer"}:
        return (
            f"{start}they begin with one more token (id {one.new}), as where TransformerLens "
            "prepends a BOS, which it does unless prepend_bos=False; states of the same text at "
            "other positions, after other tokens, are other states"
        )
    if kinds == {"shorter"}:
        before = "" if one.stored is None else f" (id {one.stored})"
        return (
            f"{start}the stored ones begin with one more token{before}, such as a BOS "
            "(TransformerLens prepends one unless prepend_bos=False); states of the same text at "
            "other positions, after other tokens, are other states"
        )
    return (
        f"{start}at position {one.position} of {one.example} the id is {one.new}, the stored one "
        f"{one.stored}; the states are of other texts, or of another tokenizer or template"
    )
