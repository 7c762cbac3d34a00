"""What the axes of tensors count, going by their lengths and what stands beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from actstore.ingestion.inference.survey import Leaf, Sample
from actstore.ingestion.inference.words import COLUMNS, MASKS, TOKEN_IDS
from actstore.ingestion.tensor import Tensor

_LAYERS: Final = 130
"""Models have fewer blocks than this; longer axes are something else."""


class Reading(NamedTuple):
    """What an axis counts."""

    meaning: str
    """``example``, ``layer``, ``token`` or ``batch``."""
    guessed: bool
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What is known before the axes are looked at."""

    layer: bool
    """Whether the layer is known from elsewhere."""
    example: bool
    """Whether each tensor belongs to one example, by its path or key."""
    rows: Sequence[frozenset[int]]
    """Lengths of the tables beside the file of each sample."""
    own_rows: Sequence[frozenset[int]]
    """Likewise, of those that are of this file or its folder alone."""
    sure: bool
    """Whether the user said where the examples are, and nothing before was guessed."""
    example_axis: int | None
    """What the user says."""
    layer_axis: int | None


class Evidence(NamedTuple):
    """What a sample says of its tokens and rows."""

    tokens: tuple[int, ...] | None
    """Shape of the token ids."""
    rows: frozenset[int]
    """Lengths of the lists with one value per example."""


def evidence(sample: Sample) -> Evidence:
    """Return what stands beside the tensors of a sample."""
    document = sample.document
    if not isinstance(document, dict):
        return Evidence(None, frozenset())
    tokens = next(
        (shape for name in (*TOKEN_IDS, *MASKS) if (shape := _shape(document.get(name)))), None
    )
    counts = {
        shape[0]
        for name, value in document.items()
        if name not in (*TOKEN_IDS, *MASKS, "loss_mask", "position_ids")
        and len(shape := _shape(value, numbers=str(name).lower() in COLUMNS["label"])) == 1
        and (_is_words(value) or str(name).lower() in COLUMNS["label"] + COLUMNS["example_id"])
    }
    return Evidence(tokens, frozenset(counts))


def _shape(value: Any, *, numbers: bool = False) -> tuple[int, ...]:
    """Return the shape of whole (or any) numbers or texts; empty where it is no list of them."""
    if isinstance(value, Tensor):
        return () if not numbers and value.dtype.startswith(("float", "bfloat")) else value.shape
    if isinstance(value, list | tuple) and value:
        first = value[0]
        if all(isinstance(row, list | tuple) for row in value):
            lengths = {len(row) for row in value}
            return (len(value), lengths.pop()) if len(lengths) == 1 else ()
        return (len(value),) if isinstance(first, int | str) or numbers else ()
    return ()


def _is_words(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dtype.startswith("str")
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


def read_axes(
    leaves: Sequence[Leaf], seen: Sequence[Evidence], around: Around
) -> list[Reading] | str:
    """Return what each axis but the last counts, or why that cannot be told.

    ``seen`` holds the evidence of each sample.
    """
    shapes = [leaf.tensor.shape[:-1] for leaf in leaves]
    widths = {leaf.tensor.shape[-1] for leaf in leaves}
    rank = len(shapes[0])
    if (
        rank
        and len(widths) > 1
        and any(len({s[axis] for s in shapes}) == 1 for axis in range(rank))
    ):
        return (
            f"the last axis differs in length ({', '.join(map(str, sorted(widths)[:4]))}): the "
            "values of a vector must be the last axis; save the tensors transposed"
        )
    lengths = [tuple(sorted({shape[axis] for shape in shapes})) for axis in range(rank)]
    readings: dict[int, Reading] = {}
    for axis, option in ((around.example_axis, "example"), (around.layer_axis, "layer")):
        if axis is not None and axis < rank:
            readings[axis] = Reading(option, False, f"--{option}-from")
    for axis in range(rank):
        if axis not in readings and lengths[axis] == (1,):
            readings[axis] = Reading("batch", False, "1 everywhere")
    free = [axis for axis in range(rank) if axis not in readings]
    known = _Known(
        around.layer or around.layer_axis is not None,
        around.example or around.example_axis is not None,
        around.sure,
    )
    if rank == 2 and all("hook_" in leaf.key for leaf in leaves) and 1 in free:
        readings[1] = Reading("token", False, "TransformerLens' hooks are [batch, token, …]")
        if 0 in free:
            readings[0] = Reading("example", False, readings[1].why)
    free = [axis for axis in free if axis not in readings]
    _by_tokens(free, leaves, seen, readings, known)
    free = [axis for axis in free if axis not in readings]
    _by_rows(free, leaves, seen, around, readings, known)
    free = [axis for axis in free if axis not in readings]
    has_tokens = any(reading.meaning == "token" for reading in readings.values())
    problem = _by_custom(free, lengths, len(leaves), readings, known, has_tokens)
    if problem:
        return problem
    for axis, reading in readings.items():
        square = all(leaf.tensor.shape[axis] == leaf.tensor.shape[-1] for leaf in leaves)
        if square and reading.meaning != "batch":
            why = f"{reading.why}; as long as the vectors, which were taken to lie last"
            readings[axis] = Reading(reading.meaning, True, why)
    return [readings[axis] for axis in range(rank)]


@dataclass(slots=True)
class _Known:
    layer: bool
    example: bool
    sure: bool


def _by_tokens(
    free: Sequence[int],
    leaves: Sequence[Leaf],
    seen: Sequence[Evidence],
    readings: dict[int, Reading],
    known: _Known,
) -> None:
    """Find the axes that are as long as the token ids."""
    pairs = [(leaf.tensor.shape, seen[leaf.sample].tokens) for leaf in leaves]
    if not free or not all(tokens for _, tokens in pairs):
        return
    fitting = [
        axis for axis in free if all(shape[axis] == tokens[-1] for shape, tokens in pairs if tokens)
    ]
    if not fitting:
        return
    axis = fitting[-1]
    why = "as long as the token ids"
    if len(fitting) > 1:
        why += f", and so is axis{fitting[0]}"
    elif any(tokens and len(tokens) == 2 and tokens[0] == shape[axis] for shape, tokens in pairs):
        why += ", of which there are as many lists"
    readings[axis] = Reading("token", why != "as long as the token ids", why)
    batched = [
        each
        for each in free
        if each < axis
        and all(tokens and len(tokens) == 2 and shape[each] == tokens[0] for shape, tokens in pairs)
    ]
    if batched and axis > batched[-1]:
        readings[batched[-1]] = Reading("example", False, "as long as the lists of token ids")
        known.example = True


def _by_rows(
    free: Sequence[int],
    leaves: Sequence[Leaf],
    seen: Sequence[Evidence],
    around: Around,
    readings: dict[int, Reading],
    known: _Known,
) -> None:
    """Find the axis that is as long as a table, or as the lists of labels and texts."""
    if any(reading.meaning == "example" for reading in readings.values()):
        return

    def counted(shape: tuple[int, ...], axis: int, leaf: Leaf) -> bool:
        found = seen[leaf.sample]
        lists = {found.tokens[0]} if found.tokens and len(found.tokens) == 2 else set()
        return shape[axis] in (found.rows or lists - {1} or around.rows[leaf.sample])

    fitting = [
        axis for axis in free if all(counted(leaf.tensor.shape, axis, leaf) for leaf in leaves)
    ]
    lists = any(each.rows or (each.tokens and len(each.tokens) == 2) for each in seen)
    if not fitting:
        return
    if around.example and not lists:
        _by_own_tables(fitting[0], leaves, around, readings, known)
        return
    inside = all(seen[leaf.sample].rows or seen[leaf.sample].tokens for leaf in leaves)
    what = "as long as the lists in the file" if inside else "as long as the table of rows"
    if len(fitting) > 1:
        what += f", and so is axis{fitting[1]}"
    readings[fitting[0]] = Reading("example", len(fitting) > 1, what)
    known.example = True


def _by_own_tables(
    axis: int,
    leaves: Sequence[Leaf],
    around: Around,
    readings: dict[int, Reading],
    known: _Known,
) -> None:
    """Take an axis for the examples where each file, or folder, has a table of that length."""
    lengths = {leaf.tensor.shape[axis] for leaf in leaves}
    if around.own_rows and all(
        leaf.tensor.shape[axis] in around.own_rows[leaf.sample] for leaf in leaves
    ):
        why = "as long as the table of each"
        if guessed := len(lengths) == 1:
            why += ", all of one length; it could be tokens"
        readings[axis] = Reading("example", guessed, why)
        known.example = True


def _by_custom(
    free: Sequence[int],
    lengths: Sequence[tuple[int, ...]],
    count: int,
    readings: dict[int, Reading],
    known: _Known,
    has_tokens: bool,
) -> str | None:
    """Read what is left as such axes mostly are; all of it guessed."""

    def guess(axis: int, meaning: str, why: str) -> None:
        readings[axis] = Reading(meaning, True, why)

    def few(axis: int) -> bool:
        return len(lengths[axis]) == 1 and 2 <= lengths[axis][0] <= _LAYERS

    said = {axis: _lengths_said(lengths[axis], count) for axis in free}
    if len(free) == 1:
        (axis,) = free
        meaning, other = _alone(axis, few(axis), count, readings, known, has_tokens)
        if not meaning:
            return _too_many(lengths)
        if known.sure and known.example and (known.layer or has_tokens):
            readings[axis] = Reading(meaning, False, "all that is left to count")
            return None
        guess(axis, meaning, f"{said[axis]}; it could be {other}")
        return None
    if len(free) == 2:
        first, second = free
        why = f"{said[first]}, {said[second]}"
        if known.layer:
            if has_tokens:
                return _too_many(lengths)
            guess(first, "example", f"{why}; it could be something else")
            guess(second, "token", f"{why}; it could be something else")
        elif known.example:
            guess(first, "layer", f"{why}; it could be tokens")
            if has_tokens:
                return _too_many(lengths)
            guess(second, "token", f"{why}; it could be layers")
        elif has_tokens or (few(first) and lengths[first][0] < lengths[second][0]):
            guess(first, "layer", f"{why}; it could be examples")
            guess(second, "example", f"{why}; it could be {'layers' if has_tokens else 'tokens'}")
        else:
            guess(first, "example", f"{why}; it could be layers")
            guess(second, "token", f"{why}; it could be layers or examples")
        return None
    if len(free) == 3 and not (known.layer or known.example or has_tokens):
        why = ", ".join(said.values())
        for axis, meaning in zip(free, ("layer", "example", "token"), strict=True):
            guess(axis, meaning, f"{why}; it could be another order")
        return None
    return _too_many(lengths) if free else None


def _alone(
    axis: int,
    few: bool,
    count: int,
    readings: dict[int, Reading],
    known: _Known,
    has_tokens: bool,
) -> tuple[str, str]:
    """Return what the only axis left is likely to count, and what else it could be."""
    if has_tokens:
        if known.example:
            return ("", "") if known.layer else ("layer", "something else")
        return ("layer", "examples") if few and not known.layer else ("example", "layers")
    batched = any(each < axis and r.meaning == "batch" for each, r in readings.items())
    if not known.example and batched:
        return "token", "examples" + ("" if known.layer else ", or layers")
    if not known.example:
        return "example", "the tokens of one example" + ("" if known.layer else ", or layers")
    if known.layer:
        return "token", "examples"
    examples = [each for each, reading in readings.items() if reading.meaning == "example"]
    if examples and axis < examples[0]:
        return "layer", "tokens"
    if few and (count > 1 or examples):
        return "layer", "tokens or examples" if not examples else "tokens"
    return "token", "layers"


def _lengths_said(lengths: tuple[int, ...], count: int) -> str:
    if len(lengths) > 1:
        return f"{lengths[0]} to {lengths[-1]} long"
    return f"{lengths[0]} long" + (f" in all {count}" if count > 1 else "")


def _too_many(lengths: Sequence[tuple[int, ...]]) -> str:
    shape = ", ".join(str(each[0]) if len(each) == 1 else "…" for each in lengths)
    return f"[{shape}, values]: more axes than examples, layers and tokens"
