"""Splits a card into what its owner wrote and the generated part, and joins them again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

BEGIN = "<!-- actstore: generated, edits between these marks are overwritten -->"
END = "<!-- actstore: end -->"
YAML_BEGIN = "# actstore: generated"
YAML_END = "# actstore: end"
GENERATED = frozenset({"configs", "dataset_info", "size_categories"})
"""Keys that say what the files are: always ours, whoever wrote them last."""
TEMPLATE = """# {title}

<!-- Say here what the examples are, why they were captured and how to cite them. Whatever
you write outside the generated part stays, and so do metadata keys such as `license`. -->"""
"""The text of a card whose owner has written none yet."""
_UNTOUCHED = re.compile(r"# Activations[^\n]*\n\n<!-- Say here [^>]* -->")
_FRONT = re.compile(r"\A\s*---[ \t]*\n(.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_KEY = re.compile(
    r"""^(?:(["'])(?P<quoted>[^"']+)\1|(?P<plain>[^\s#"'{}\[\],&*?|<>=!%@`-][^:#]*?))\s*:(?:\s|$)"""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What the owner of a card wrote."""

    keys: dict[str, str]
    """Per top-level key of the metadata its lines, comments above it included."""
    before: str
    """Text above the generated part."""
    after: str
    """Text below it."""


EMPTY = Own(keys={}, before="", after="")


def take_apart(card: str) -> Own:
    """Return what is the owner's in a card.

    Metadata that is no YAML mapping would make the whole card unreadable for the Hub and for
    `datasets`: it is kept as a comment at the top of the text.
    """
    text = card.removeprefix("\ufeff").replace("\r\n", "\n")
    found = _FRONT.match(text)
    front, body = (found[1], text[found.end() :]) if found else ("", text)
    front = "".join(_without(front, YAML_BEGIN, YAML_END))
    keys = _keys(front)
    if keys is None:
        kept = front.strip().replace("--", "- -")
        note = "The metadata that stood at the top of this file is no valid YAML:"
        body = f"<!-- {note}\n\n{kept}\n\n-->\n\n{body.lstrip()}"
        keys = {}
    before, after = _without(body, BEGIN, END)
    if _UNTOUCHED.fullmatch(before.strip()):
        before = ""
    return Own(
        keys={key: lines for key, lines in keys.items() if key not in GENERATED},
        before=before.strip(),
        after=after.strip(),
    )


def put_together(own: Own, metadata: Sequence[str], generated: Sequence[str]) -> str:
    """Return a card of the owner's part and the generated lines."""
    front = "\n".join([*own.keys.values(), YAML_BEGIN, *metadata, YAML_END])
    block = "\n".join([BEGIN, *generated, END])
    body = "\n\n".join(filter(None, [own.before, block, own.after]))
    return f"---\n{front}\n---\n\n{body}\n"


def with_fields(own: Own, fields: Mapping[str, str]) -> Own:
    """Return the owner's part with some metadata keys set to one-line values."""
    from actstore.storage.card_configs import quoted

    lines = {key: f"{key}: {quoted(value)}" for key, value in fields.items()}
    return replace(own, keys={**own.keys, **lines})


def merge(base: Own, ours: Own, theirs: Own) -> Own:
    """Join two owners' parts that both came from ``base``: whatever one of them wrote stays.

    Of metadata that both have set, ours is taken. Text is joined by paragraphs.
    """
    keys: dict[str, str] = {}
    for key in [*theirs.keys, *ours.keys]:
        mine, other = ours.keys.get(key), theirs.keys.get(key)
        value = other if mine == base.keys.get(key) else mine
        if value is not None:
            keys[key] = value
    return Own(
        keys=keys,
        before=_merge_text(base.before, ours.before, theirs.before),
        after=_merge_text(base.after, ours.after, theirs.after),
    )


def _merge_text(base: str, ours: str, theirs: str) -> str:
    if ours in (base, theirs):
        return theirs
    if theirs == base:
        return ours
    old, mine, others = ([p for p in t.split("\n\n") if p.strip()] for t in (base, ours, theirs))
    kept = [part for part in others if part not in old or part in mine]
    return "\n\n".join([*kept, *(part for part in mine if part not in old and part not in others)])


def _without(text: str, begin: str, end: str) -> tuple[str, str]:
    """Cut a marked block out and return what stands before and after it."""
    start = text.find(begin)
    stop = text.find(end, start)
    if start < 0 or stop < 0:
        return text, ""
    return text[:start], text[stop + len(end) :]


def _keys(front: str) -> dict[str, str] | None:
    """Return the lines of each top-level key as they are written; None where it is no mapping."""
    import yaml  # type: ignore[import-untyped]  # has no types

    try:
        loaded: Any = yaml.safe_load(front)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    if loaded is None:
        return {"": front.strip("\n")} if front.strip() else {}
    if not isinstance(loaded, dict):
        return None
    chunks: dict[str, list[str]] = {}
    waiting: list[str] = []
    current: list[str] | None = None
    for line in front.splitlines():
        key = _KEY.match(line)
        if key:
            current = chunks[(key["quoted"] or key["plain"]).strip()] = [*waiting, line]
            waiting = []
        elif line.startswith("#") or current is None:
            waiting.append(line)
        else:
            current += [*waiting, line]
            waiting = []
    if current is not None:
        current += waiting
    if chunks.keys() != {str(key) for key in loaded}:  # written in a way that lines do not show
        return {
            str(key): yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True).rstrip()
            for key, value in loaded.items()
        }
    return {key: "\n".join(lines).strip("\n") for key, lines in chunks.items()}
