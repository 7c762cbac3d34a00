"""Names the arrays in memory of other tools: caches, hidden states, any mapping."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.errors import LayoutError, NotInStoreError, UsageError
from actstore.ingestion.hidden_states import HiddenStates, hidden_states
from actstore.ingestion.tensor import Tensor, is_array

_SOME = 6
_LAST = (
    "; the last of hidden_states is after the final norm (site final_norm), and what leaves the "
    "last block is not among them: actstore.capture and actstore.record see it"
)
# What TransformerLens calls normalized has not yet been multiplied by the norm's weights, unless
# these were folded into the next matrix; where a cache has the module's own input, that is it.
_YIELDS = re.compile(r"(?:.*\.)?hook_normalized")
_BEFORE_WEIGHTS = (
    "(and so for its like), but is not yet multiplied by the norm's weights, where these are not "
    "folded into the next matrix; what transformers' own modules give there differs"
)
# Embeddings of tokens are what enters block 0 only where nothing is added or multiplied on the way.
_POSITIONS = re.compile(r"(?:.*\.)?(?:hook_pos_embed|wpe|embed_positions)(?:, layer .*)?")
_NOT_ENTERING = (
    "is left out: it is not what enters block 0, which the site embeddings means (positions are "
    "added to it, or a factor is); take resid_pre of layer 0, or name it as you like"
)


class NamedArray(NamedTuple):
    """The activations of one site and layer."""

    name: str
    """As the cache calls them."""
    site: str
    layer: int | None
    value: Any
    """What the cache holds there, as it is."""


class NamedArrays(NamedTuple):
    """What a cache holds."""

    chosen: tuple[NamedArray, ...]
    """In the cache's order."""
    skipped: tuple[str, ...]
    """Names that are no site of the schema, or were not asked for."""
    has_examples: bool
    """Whether the first axis counts examples: False where a cache's batch axis was removed."""
    states: HiddenStates | None = None
    """What they are taken from, where that is transformers' ``hidden_states``."""
    notes: tuple[str, ...] = ()
    """What the user should know."""


def places(
    activations: Any,
    *,
    sites: Collection[str] | None = None,
    layers: Collection[int] | None = None,
) -> NamedArrays:
    """Return which activations an object holds, by site and layer.

    Every entry of a mapping is taken. Of a cache object, which holds attention patterns and
    the like too, the ones that are a site of the schema are taken.

    Args:
        activations: a mapping ``{name or (site, layer): array}``, an ``ActivationCache`` of
            TransformerLens, a cache of nnsight's ``tracer.cache()``, hidden states of
            transformers (see :func:`hidden_states`), or anything else with ``items()``.
            Arrays may stand behind an attribute ``output``, as nnsight and baukit have them.
        sites: take these only; a free hook name is spelled as the cache spells it.
        layers: take these only; what has no layer number is left out then.

    Raises:
        UsageError: it is none of these, or two entries are the same site and layer.
        NotInStoreError: a site or layer that was asked for is not there.
    """
    wanted = None if sites is None else {schema.canonical_site(site)[0] for site in sites}
    known = schema.document()["sites"]
    states = hidden_states(activations)
    entries = states.entries if states else ((*_named(k), v) for k, v in _entries(activations))
    found: dict[tuple[str, int | None], NamedArray] = {}
    skipped: list[str] = list(states.skipped) if states else []
    seen_sites: set[str] = set()
    seen_layers: set[int | None] = set()
    entering: NamedArray | None = None
    positions = False
    for name, site, layer, value in entries:
        seen_sites.add(site)
        seen_layers.add(layer)
        positions = positions or _POSITIONS.fullmatch(name) is not None
        if (site, layer) == ("resid_pre", 0):
            entering = NamedArray(name, site, layer, value)
        if wanted is None:
            taken = isinstance(activations, Mapping) or site in known
        else:
            taken = site in wanted or name in (sites or ())
        if not taken or (layers is not None and layer not in layers):
            skipped.append(name)
            continue
        place = NamedArray(name, site, layer, value)
        other = found.get((site, layer))
        if other is None:
            found[site, layer] = place
        else:
            better, worse = _better(other, place)
            found[site, layer] = better
            skipped.append(worse.name)
    notes: tuple[str, ...] = ()
    embedded = found.get(("embeddings", -1))
    if embedded and states is None and not _enters(embedded, entering, positions):
        del found["embeddings", -1]
        skipped.append(embedded.name)
        notes = (f"{embedded.name} {_NOT_ENTERING}",)
    for word, asked, there in (("site", wanted, seen_sites), ("layer", layers, seen_layers)):
        missing = [each for each in asked or () if each not in there]
        if missing:
            some = ", ".join(map(str, sorted(there, key=str)[:20]))
            raise NotInStoreError(
                f"the activations hold no {word} {missing[0]}: they hold {some}"
                + (_LAST if states and word == "layer" and states.last_block in missing else "")
            )
    if not found:
        raise UsageError(
            "there is nothing to write: the activations hold "
            f"{', '.join(skipped[:_SOME]) or 'nothing'}; choose some by name with sites=[...]"
            + "".join(f"; {note}" for note in notes)
        )
    before = [place for place in found.values() if _YIELDS.fullmatch(place.name)]
    if before:
        notes = (*notes, f"{before[0].name} is stored as {before[0].site} {_BEFORE_WEIGHTS}")
    batched = getattr(activations, "has_batch_dim", True) is not False
    return NamedArrays(tuple(found.values()), tuple(skipped), batched, states, notes)


def _entries(activations: Any) -> Iterator[tuple[Any, Any]]:
    if is_array(activations):
        raise UsageError(
            "an array alone does not say where it was taken: give {(site, layer): array}, such "
            "as {('resid_post', 12): array}"
        )
    if isinstance(activations, Mapping):
        yield from activations.items()
        return
    # nnsight's view answers any attribute with a module: its class says what it can really do.
    if callable(getattr(type(activations), "items", None)):
        yield from activations.items()
        return
    if callable(getattr(type(activations), "keys", None)) and hasattr(
        type(activations), "__getitem__"
    ):
        for key in activations.keys():  # noqa: SIM118 - iterating it means something else
            view = activations[key]
            if _recorded(view, "output"):
                yield key, view
            if _recorded(view, "input"):
                yield f"{key}.input", _Input(view.input)
        return
    raise UsageError(
        f"activations of type {type(activations).__name__} are unknown: give a mapping "
        "{name or (site, layer): array}, a cache of TransformerLens or nnsight, or hidden_states "
        "of transformers (a tuple)"
    )


class _Input(NamedTuple):
    """A module's input, where nnsight keeps it beside the output."""

    output: Any


def _recorded(view: Any, name: str) -> bool:
    value = getattr(view, name, None)
    if isinstance(value, list):
        return any(each is not None for each in value)
    return value is not None


def _named(key: Any) -> tuple[str, str, int | None]:
    """Return name, site and layer of a key."""
    if isinstance(key, str):
        return key, *schema.canonical_site(key)
    if isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], str):
        site, within = schema.canonical_site(key[0])
        layer = key[1]
        if isinstance(layer, np.integer):
            layer = int(layer)
        if layer is None:
            layer = within
        if layer is None or (isinstance(layer, int) and not isinstance(layer, bool)):
            if layer is not None and (layer < -1 or within not in (None, layer)):
                raise UsageError(f"{key!r} names a layer that cannot be")
            return f"{key[0]}, layer {layer}", site, layer
    raise UsageError(
        f"{key!r} does not say where the activations were taken: use a hook's name, such as "
        "blocks.12.hook_resid_post, or (site, layer), such as ('resid_post', 12)"
    )


def _better(one: NamedArray, other: NamedArray) -> tuple[NamedArray, NamedArray]:
    """Return which of two entries of one place to take; they are usually the same tensor."""
    if _YIELDS.fullmatch(one.name) and not _YIELDS.fullmatch(other.name):
        return other, one
    if _YIELDS.fullmatch(other.name) and not _YIELDS.fullmatch(one.name):
        return one, other
    if _same(one, other):
        return one, other
    raise UsageError(
        f"{one.name} and {other.name} are both {one.site}, layer {one.layer}, and differ: "
        "leave one of them out"
    )


def _same(one: NamedArray, other: NamedArray) -> bool:
    left, right = arrays(one), arrays(other)
    return len(left) == len(right) and all(a.same_bits(b) for a, b in zip(left, right, strict=True))


def _enters(embedded: NamedArray, entering: NamedArray | None, positions: bool) -> bool:
    """Say whether what a module of token embeddings returned is what enters block 0.

    Args:
        embedded: what the cache has of that module.
        entering: the input of block 0, where the cache has it.
        positions: whether the cache holds embeddings of positions, which are added.
    """
    if embedded.name.partition(",")[0] == "embeddings":
        return True  # by the schema's own name, which says so
    return _same(embedded, entering) if entering is not None else not positions


def arrays(place: NamedArray) -> list[Tensor]:
    """Return a place's array: one tensor, or a list of one per example where lengths differ.

    A module's output that is a tuple is its first tensor. The steps of a generation follow
    each other along the token axis.

    Raises:
        LayoutError: there is no array of real numbers.
    """
    value = place.value
    if not is_array(value) and hasattr(type(value), "_fields") and hasattr(value, "output"):
        value = value.output
    elif not is_array(value) and not isinstance(value, Sequence):
        value = getattr(value, "output", value)
    if isinstance(value, list) and value and hasattr(value[0], "output"):
        value = [visit.output for visit in value]  # nnsight before 0.8
    if isinstance(value, tuple) and value and is_array(value[0]):
        value = value[0]
    if isinstance(value, list) and value:
        parts = [each[0] if isinstance(each, tuple) and each else each for each in value]
        if all(is_array(part) for part in parts):
            if any(len(part.shape) == 3 for part in parts):
                return [_joined(place.name, [_tensor(part, place.name) for part in parts])]
            return [_tensor(part, place.name) for part in parts]
    if isinstance(value, list):
        value = np.asarray(value)
    if not is_array(value):
        raise LayoutError(f"{place.name} holds {type(value).__name__}, not an array")
    return [_tensor(value, place.name)]


def _joined(name: str, steps: Sequence[Tensor]) -> Tensor:
    """Return the steps of a generation as one array ``[examples, tokens, width]``."""
    shapes = {(step.ndim, step.shape[0], step.shape[-1]) for step in steps}
    if len(shapes) > 1 or steps[0].ndim != 3:
        found = ", ".join(str(list(step.shape)) for step in steps[:_SOME])
        raise LayoutError(f"{name}: the steps {found} do not follow each other: they differ")
    return Tensor(np.concatenate([step.numpy() for step in steps], axis=1))


def _tensor(value: Any, name: str) -> Tensor:
    device = getattr(value, "device", None)
    if getattr(device, "type", "cpu") not in ("cpu", "meta"):
        value = value.detach().cpu()
    elif not isinstance(value, np.ndarray) and not hasattr(value, "data_ptr"):
        value = np.asarray(value)
    try:
        return Tensor(value)
    except LayoutError as error:
        raise LayoutError(f"{name}: {error}") from error
