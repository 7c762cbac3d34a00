"""Which parts of the files' paths vary, and which are layers, sites, classes or examples."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from actstore.errors import UsageError
from actstore.ingestion.inference.survey import Group, stem_of
from actstore.ingestion.inference.words import (
    CLASSES,
    POOLINGS,
    SPLITS,
    Numbered,
    counting_examples,
    known_site,
    number_at,
    numbered,
)

_TAIL = re.compile(r"[^A-Za-z0-9]*[A-Za-z]*[^A-Za-z0-9]*$")
_BEHIND = re.compile(r"(?P<name>.+)(?P<mark>[_\-.])(?P<side>[^\W\d_]+)")
_BEFORE = re.compile(r"(?P<side>[^\W\d_]+)(?P<mark>[_\-.])(?P<name>.+)")
_HEAD = re.compile(r".*[\W_]")
_BATCH = re.compile(r"(?i)(?:.*[_\-.])?(?:batch|shard|part|chunk|split)(?:es|s)?[_\-.]?\d*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A folder above the files, or the files' names."""

    place: str
    """``name`` for the file's name without suffix, ``folder1`` for its folder, and so on."""
    template: str
    layer: bool = False
    """Whether it holds the layer's number."""
    hook: bool = False
    """Whether it is the name of a hook, which tells site and layer."""
    texts: tuple[str, ...] = ()
    """What varies beside the layer, per file; empty where nothing does."""
    constant: str = ""
    """What does not vary."""
    role: str = ""
    """``site``, ``label``, ``split``, ``pooling`` where the words say so."""
    sides: tuple[str, ...] = ()
    """The two classes that stand before or behind what varies, as ``q7_true`` has them."""

    @property
    def batches(self) -> bool:
        """Whether the words name parts of a whole rather than examples."""
        return bool(self.texts) and all(_BATCH.fullmatch(text) for text in self.texts)


def levels(group: Group, layer_place: str | None, *, sides: bool = False) -> list[Level]:
    """Return the levels of a group's paths, the files' names first.

    Args:
        group: files that hold the same.
        layer_place: the level whose last number the user takes for the layer.
        sides: take the classes off the files' names, where all of them have one.
    """
    stems = [stem_of(entry, group.suffix) for entry in group.entries]
    parents = [PurePosixPath(entry.relative).parts[:-1] for entry in group.entries]
    found = [_level("name", stems, layer_place)]
    if sides and found[0].texts and not (found[0].layer or found[0].role):
        found[0] = _sided(found[0])
    for above in range(1, group.depth + 1):
        values = [parts[-above] for parts in parents]
        found.append(_level(f"folder{above}", values, layer_place))
    return found


def _level(place: str, values: Sequence[str], layer_place: str | None) -> Level:
    hooks = all((known_site(value) or ("", None))[1] is not None for value in values)
    if hooks and layer_place is None:
        return Level(place=place, template=f"{{{place}}}", hook=True)
    splits: list[Numbered] = []
    which = _which_number(place, values) if place == layer_place else -1
    for value in values:
        split = numbered(value)
        if place == layer_place and (split is None or split.word != "layer"):
            split = number_at(value, which)
        elif layer_place is not None and place != layer_place:
            split = None
        if split is None or not (split.word == "layer" or place == layer_place):
            break
        splits.append(split)
    if len(splits) == len(values):
        level = _layered(place, splits)
        if level is not None:
            return level
    if len(set(values)) == 1:
        role = "site" if known_site(values[0]) else ""
        return Level(place=place, template=_literal(values[0]), constant=values[0], role=role)
    return Level(place=place, template=f"{{{place}}}", texts=tuple(values), role=_role(values))


def _which_number(place: str, values: Sequence[str]) -> int:
    """Return which of the numbers in some names is the layer: the last one that differs.

    `acts_13_Llama-2-7b` and `acts_14_Llama-2-7b` differ in their first number alone, and what
    counts examples by name, as in `acts_13_ex_7`, is none.

    Raises:
        UsageError: names hold several numbers, and nothing tells which is the layer.
    """
    numbers = [re.findall(r"\d+", value) for value in values]
    if len({len(each) for each in numbers}) == 1:
        different = [at for at, each in enumerate(zip(*numbers, strict=True)) if len(set(each)) > 1]
        layers = [at for at in different if at not in counting_examples(values[0])]
        if different:
            return (layers or different)[-1]
        named = numbered(values[0])
        sure = len(numbers[0]) < 2 or (named is not None and named.word == "layer")
    else:
        sure = all(value[-1:].isdecimal() for value in values)
    if not sure:
        several = max(zip(numbers, values, strict=True), key=lambda each: len(each[0]))
        raise UsageError(
            f"--layer-from {place}: {several[1]} holds several numbers, and no other name tells "
            f"which of them is the layer; say it with --layer, such as --layer {several[0][0]}"
        )
    return -1


def _sided(level: Level) -> Level:
    """Take one of two classes off each name; leave a level as it is whose names have none."""
    for pattern, template in (
        (_BEHIND, "{{name}}{mark}{{side:{words}}}"),
        (_BEFORE, "{{side:{words}}}{mark}{{name}}"),
    ):
        found = [pattern.fullmatch(text) for text in level.texts]
        parts = [match for match in found if match is not None]
        words, marks = {match["side"] for match in parts}, {match["mark"] for match in parts}
        if (
            len(parts) == len(level.texts)
            and len(words) == 2
            and len(marks) == 1
            and {word.lower() for word in words} <= CLASSES
        ):
            sides = tuple(sorted(words))
            return replace(
                level,
                template=template.format(mark=marks.pop(), words="|".join(sides)),
                texts=tuple(match["name"] for match in parts),
                sides=sides,
            )
    return level


def shortened(level: Level) -> Level:
    """Take off what all names begin and end with: `train_acts`, `test_acts`: `train`, `test`."""
    names = sorted(set(level.texts))
    if len(names) < 2 or level.template != f"{{{level.place}}}" or level.role:
        return level
    head, tail = _beginning(names), _beginning([name[::-1] for name in names])[::-1]
    texts = tuple(text[len(head) : len(text) - len(tail)] for text in level.texts)
    if not all(texts) or any(len(name) <= len(head) + len(tail) for name in names):
        return level
    template = f"{_literal(head)}{{{level.place}}}{_literal(tail)}"
    return replace(level, template=template, texts=texts, role=_role(texts))


def _beginning(names: Sequence[str]) -> str:
    """Return what all names begin with, up to its last mark."""
    least, most = min(names), max(names)
    shared = next((at for at, char in enumerate(least) if char != most[at : at + 1]), len(least))
    found = _HEAD.match(least[:shared])
    return found[0] if found else ""


def _layered(place: str, splits: Sequence[Numbered]) -> Level | None:
    prefixes, suffixes = {s.prefix for s in splits}, {s.suffix for s in splits}
    number = "{layer:int}"
    if len(prefixes) == len(suffixes) == 1:
        (prefix,), (suffix,) = prefixes, suffixes
        head = prefix[: -len(_tail(prefix))] if _tail(prefix) else prefix
        return Level(
            place=place,
            template=f"{_literal(prefix)}{number}{_literal(suffix)}",
            layer=True,
            constant=head,
            role="site" if head and known_site(head) else "",
        )
    for tail_of in (_tail, _mark):
        tails = {tail_of(prefix) for prefix in prefixes}
        if len(suffixes) == 1 and len(tails) == 1 and "" not in tails:
            (tail,), (suffix,) = tails, suffixes
            heads = tuple(split.prefix[: -len(tail)] for split in splits)
            if all(heads):
                text = f"{{{place}}}{_literal(tail)}{number}{_literal(suffix)}"
                return Level(place=place, template=text, layer=True, texts=heads, role=_role(heads))
    if len(prefixes) == 1 and all(suffix[:1] in ("_", "-", ".") for suffix in suffixes):
        (prefix,), marks = prefixes, {suffix[0] for suffix in suffixes}
        rests = tuple(split.suffix[1:] for split in splits)
        if len(marks) == 1 and all(rests):
            template = f"{_literal(prefix)}{number}{marks.pop()}{{{place}}}"
            return Level(place=place, template=template, layer=True, texts=rests, role=_role(rests))
    return None


def _tail(prefix: str) -> str:
    found = _TAIL.search(prefix)
    return found[0] if found else ""


def _mark(prefix: str) -> str:
    return prefix[len(prefix.rstrip("_-. ")) :]


def _role(texts: Sequence[str]) -> str:
    words = {text.lower() for text in texts}
    if words <= SPLITS:
        return "split"
    if words <= CLASSES:
        return "label"
    if words <= POOLINGS.keys():
        return "pooling"
    return "site" if all(known_site(text) for text in texts) else ""


def _literal(text: str) -> str:
    """Return a text as a template takes it; what a template would take for more is any text."""
    return re.sub(r"[{}*]+", "*", text)
