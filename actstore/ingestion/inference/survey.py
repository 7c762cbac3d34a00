"""Opens a few files of a folder and sorts their tensors by the form of their keys."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final, NamedTuple

from actstore.errors import ActstoreError
from actstore.ingestion import containers, fetching
from actstore.ingestion.inference.words import (
    CLASSES,
    COLUMNS,
    MASKS,
    MODULES,
    PLAIN,
    POOLINGS,
    SPLITS,
    TOKEN_IDS,
    is_other_tensor,
    known_site,
    layer_and_example,
    numbered,
)
from actstore.ingestion.source_file import Entry, evenly
from actstore.ingestion.tensor import Tensor

SUFFIXES: Final = (
    *(".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".pkl.gz"),
    *(".npy", ".npz", ".safetensors"),
)
_KINDS: Final = ("torch", "pickle", "numpy", "safetensors")
_FEW: Final = 24
_SAMPLES: Final = 9
_ENTRIES: Final = 9
_BYTES: Final = 256 << 20
_DEPTH: Final = 6
_FREE: Final = 2
"""Names that mean nothing here, from so many on, name examples."""
_MINUS: Final = re.compile(r"(?:^|[_./ \-])-(?:\d+(?:[_./].*)?)?$")
_KNOWN_NAMES: Final = frozenset(
    {
        *PLAIN,
        *POOLINGS,
        *CLASSES,
        *TOKEN_IDS,
        *MASKS,
        *MODULES,
        *(n for names in COLUMNS.values() for n in names),
    }
)


class Segment(NamedTuple):
    """One step of a key: a name, or a place where a number or a free name stands."""

    prefix: str
    """The whole name where it does not vary."""
    varies: bool = False
    suffix: str = ""
    word: str = ""
    """What the name says is counted: ``layer``, ``example`` or nothing."""
    source: str = "name"
    """``name``, ``whole`` (a number as key), ``list``, ``tuple`` or ``free``."""
    joint: str = "."
    """What stands before it, unless it is the first."""


class Leaf(NamedTuple):
    """A tensor of real numbers in a sample."""

    segments: tuple[Segment, ...]
    values: tuple[Any, ...]
    """What stands at the places that vary."""
    sample: int
    key: str
    tensor: Tensor


@dataclass(frozen=True, slots=True)
class Sample:
    """A file that was opened, or one entry of it."""

    file: Entry
    document: Any
    entry: str | int | None = None


@dataclass(slots=True)
class Group:
    """Files of one suffix and depth."""

    suffix: str
    depth: int
    entries: list[Entry]
    container: str = ""
    each: str | None = None
    entry_counts: dict[str, int] = field(default_factory=dict)
    """How many entries each file holds that was opened, where they hold one per example."""
    empty: list[Entry] = field(default_factory=list)
    """Files without vectors."""
    samples: list[Sample] = field(default_factory=list)
    kinds: dict[tuple[Segment, ...], list[Leaf]] = field(default_factory=dict)
    """Tensors by the form of their key."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Form of a key: why it is no activation."""
    problems: list[tuple[Entry, str]] = field(default_factory=list)


def survey(entries: Sequence[Entry]) -> list[Group]:
    """Return the groups of files that may hold activations, each with what samples of it hold."""
    found: dict[tuple[str, int], list[Entry]] = defaultdict(list)
    for entry in entries:
        suffix = suffix_of(entry.relative)
        if suffix is not None:
            found[suffix, entry.relative.count("/")].append(entry)
    groups = []
    for (suffix, depth), members in found.items():
        group = Group(suffix, depth, members)
        _open(group)
        if group.samples:
            _describe(group)
        groups.append(group)
    return groups


def suffix_of(name: str) -> str | None:
    """Return the suffix under which activations may stand, or None."""
    fitting = [suffix for suffix in SUFFIXES if name.lower().endswith(suffix)]
    return name[-len(max(fitting, key=len)) :] if fitting else None


def stem_of(entry: Entry, suffix: str) -> str:
    """Return a file's name without its suffix."""
    return PurePosixPath(entry.relative).name[: -len(suffix)]


def _open(group: Group) -> None:
    small = (
        len(group.entries) <= _FEW
        and sum(entry.size for entry in group.entries) <= _BYTES
        and all(fetching.is_here(entry.path) for entry in group.entries)
    )
    chosen = group.entries if small else evenly(group.entries, _SAMPLES)
    documents: list[tuple[Entry, Any]] = []
    size = 0
    for entry in chosen:
        fetching.ensure(entry.path)
        kind = containers.sniff(entry.path)
        if kind is not None and kind not in _KINDS:
            continue
        if group.container and kind not in (group.container, None):
            group.problems.append((entry, f"is {containers.describe(entry.path)}"))
            continue
        if size and size + entry.size > _BYTES:
            break
        kind = kind or "torch"
        try:
            document = containers.read(kind, entry.path, within=entry.root)
        except fetching.FAILED:
            raise
        except (ActstoreError, OSError, MemoryError) as error:
            group.problems.append((entry, str(error).removeprefix(f"{entry.path}: ")))
            continue
        size += entry.size
        group.container = kind
        documents.append((entry, document))
    group.empty = [entry for entry, document in documents if not _has_vectors(document)]
    documents = [(entry, document) for entry, document in documents if entry not in group.empty]
    group.entries = [entry for entry in group.entries if entry not in group.empty]
    wheres = {_entries_at(document) for _, document in documents}
    group.each = wheres.pop() if len(wheres) == 1 else None
    for entry, document in documents:
        if group.each is not None:
            group.entry_counts[entry.relative] = len(_held(document, group.each))
        group.samples += [Sample(entry, part, name) for name, part in _parts(document, group.each)]


def _has_vectors(document: Any) -> bool:
    return any(
        leaf.tensor.dtype.startswith(("float", "bfloat"))
        for leaf in _leaves(document, (), (), "", 0, 0)
    )


def _parts(document: Any, where: str | None) -> list[tuple[str | int | None, Any]]:
    if where is None:
        return [(None, document)]
    held = _held(document, where)
    items = list(held.items()) if isinstance(held, dict) else list(enumerate(held))
    return list(evenly(items, _ENTRIES))


def _held(document: Any, where: str) -> Any:
    return document if where == "." else document[where]


def _entries_at(document: Any) -> str | None:
    """Return where a document holds one table per example: ``.`` for itself, a key, or None."""
    if _are_records(document):
        return "."
    if isinstance(document, dict):
        lists = [
            key
            for key, value in document.items()
            if isinstance(key, str) and isinstance(value, list) and _are_records(value)
        ]
        tensors = [key for key, value in document.items() if isinstance(value, Tensor)]
        if len(lists) == 1 and not tensors:
            return lists[0]
    return None


def _are_records(held: Any) -> bool:
    """Say whether these are several tables that each tell of one example."""
    if isinstance(held, dict):
        if held.keys() <= SPLITS and all(isinstance(value, dict) for value in held.values()):
            return True
        if len(held) < 2 or not all(
            isinstance(key, str) and not _layer_word(key) and known_site(key) is None
            for key in held
        ):
            return False
        values = list(held.values())
    elif isinstance(held, list | tuple):
        values = list(held)
    else:
        return False
    if not values or not all(isinstance(value, dict) and value for value in values):
        return False
    if isinstance(held, dict):
        # What tells a table of examples from a table of sites: plain values beside the tensors.
        shared = set.intersection(*(set(value) for value in values))
        return any(isinstance(values[0][key], str | int | float) for key in shared)
    # Without a plain value each could as well be a layer as an example.
    return any(isinstance(part, str | int | float) for value in values for part in value.values())


def _layer_word(key: str) -> bool:
    found = numbered(key)
    return found is not None and found.word == "layer"


def _describe(group: Group) -> None:
    leaves: list[Leaf] = []
    for number, sample in enumerate(group.samples):
        for leaf in _leaves(sample.document, (), (), "", number, 0):
            if not leaf.tensor.dtype.startswith(("float", "bfloat")) or not leaf.tensor.ndim:
                continue
            if leaf.tensor.ndim == 1 and leaf.key.lower() in COLUMNS["label"]:
                continue  # one number for each row
            reason = _no_activation(leaf)
            if reason is not None:
                group.left_out[form(leaf.segments) or "the tensor"] = reason
            else:
                leaves.append(leaf)
    for leaf in _with_free_names(leaves):
        group.kinds.setdefault(leaf.segments, []).append(leaf)


def _no_activation(leaf: Leaf) -> str | None:
    shape = leaf.tensor.shape
    if is_other_tensor(leaf.key):
        return f"{list(shape)}: by its name no activations"
    if 0 in shape:
        return f"{list(shape)} holds no values"
    if _from_the_end(leaf):
        return (
            "a number below 0 counts from the end, and does not tell which layer that is; save "
            "the tensors under the layers' own numbers, from 0"
        )
    return f"{list(shape)}: single numbers, no vectors" if shape[-1] == 1 else None


def _from_the_end(leaf: Leaf) -> bool:
    """Say whether a key counts as Python does: `-1`, or `layer_-1`."""
    return any(_MINUS.search(segment.prefix) for segment in leaf.segments) or any(
        isinstance(value, int) and value < 0 for value in leaf.values
    )


def _leaves(
    node: Any,
    segments: tuple[Segment, ...],
    values: tuple[Any, ...],
    key: str,
    sample: int,
    depth: int,
) -> Iterator[Leaf]:
    if isinstance(node, Tensor):
        yield Leaf(segments, values, sample, key, node)
        return
    if depth > _DEPTH:
        return
    if isinstance(node, dict):
        steps = [(_segments(name), name, value) for name, value in node.items()]
    elif isinstance(node, list | tuple):
        source = "list" if isinstance(node, list) else "tuple"
        steps = [
            ([(Segment("", True, "", "", source), at)], at, value) for at, value in enumerate(node)
        ]
    else:
        return
    for parts, name, value in steps:
        yield from _leaves(
            value,
            (*segments, *(segment for segment, _ in parts)),
            (*values, *(inside for segment, inside in parts if segment.varies)),
            f"{key}.{name}" if key else str(name),
            sample,
            depth + 1,
        )


def _segments(name: Any) -> list[tuple[Segment, Any]]:
    """Return the steps of one key: two where it names a layer and an example, else one."""
    cut = layer_and_example(name) if isinstance(name, str) else None
    if cut is None:
        return [_segment(name)]
    first, joint, second = cut
    segment, inside = _segment(second)
    return [_segment(first), (segment._replace(joint=joint), inside)]


def _segment(name: Any) -> tuple[Segment, Any]:
    if isinstance(name, int) and not isinstance(name, bool):
        return Segment("", True, "", "", "whole"), name
    text = str(name)
    found = numbered(text)
    if found is None:
        return Segment(text), None
    source = "name" if found.word else "whole"
    return Segment(found.prefix, True, found.suffix, found.word, source), int(found.number)


def _with_free_names(leaves: Sequence[Leaf]) -> list[Leaf]:
    """Take names that mean nothing here, side by side over vectors of one form, for examples."""
    places: dict[tuple[Any, ...], list[Leaf]] = defaultdict(list)
    for leaf in leaves:
        for at, segment in enumerate(leaf.segments):
            if not segment.varies:
                rest = (*leaf.segments[:at], None, *leaf.segments[at + 1 :])
                places[at, rest, leaf.tensor.ndim, leaf.tensor.shape[-1]].append(leaf)
    free: Mapping[int, int] = {}
    for (at, *_), alike in places.items():
        names = {leaf.segments[at].prefix for leaf in alike}
        if len(names) >= _FREE and not any(_means_something(name) for name in names):
            free = {**free, **{id(leaf): at for leaf in alike if id(leaf) not in free}}
    return [_freed(leaf, free.get(id(leaf))) for leaf in leaves]


def _means_something(name: str) -> bool:
    return name.lower() in _KNOWN_NAMES or known_site(name) is not None or "hook" in name


def _freed(leaf: Leaf, at: int | None) -> Leaf:
    if at is None:
        return leaf
    before = sum(segment.varies for segment in leaf.segments[:at])
    name = leaf.segments[at].prefix
    segments = (*leaf.segments[:at], Segment("", True, "", "", "free"), *leaf.segments[at + 1 :])
    values = (*leaf.values[:before], name, *leaf.values[before:])
    return leaf._replace(segments=segments, values=values)


def form(segments: Sequence[Segment]) -> str:
    """Return a key's form for people: ``acts.layer_{…}``."""
    return joined(
        segments,
        [
            f"{segment.prefix}{{…}}{segment.suffix}" if segment.varies else segment.prefix
            for segment in segments
        ],
    )


def joined(segments: Sequence[Segment], texts: Sequence[str]) -> str:
    """Return texts that stand for the steps of a key, put together as these are."""
    parts = zip(segments, texts, strict=True)
    return "".join(
        f"{segment.joint if at else ''}{text}" for at, (segment, text) in enumerate(parts)
    )


def places(group: Group, segments: tuple[Segment, ...] | None = None) -> set[str]:
    """Return what ``--layer-from`` may name: of one kind of tensors, or of all."""
    found = {"name", *(f"folder{above}" for above in range(1, group.depth + 1))}
    if group.each is not None:
        found.add("entry")
    for key, leaves in group.kinds.items():
        if segments is None or key == segments:
            found |= {f"key{n}" for n in range(1, 1 + sum(each.varies for each in key))}
            ranks = {leaf.tensor.ndim for leaf in leaves}
            found |= {f"axis{axis}" for axis in range(max(ranks) - 1)}
    return found
