"""Contracts: JSON files that say what a set of activations must be like.

Every group of rows that share model, data set, site and layer is held against the
contract; all violations are reported at once. ``schemas/contracts`` holds the built-in
ones, docs/recipes.md describes every key.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from actstore import paths, resources
from actstore.errors import ContractError, PathError, UsageError
from actstore.storage.rows import RowBatch

_ABOUT = ("name", "title", "description", "source")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What each group of rows must be like; None leaves a matter open."""

    name: str
    title: str = ""
    description: str = ""
    source: str = ""
    """Where the rules come from."""
    rank: int | None = None
    """Axes of a tensor in its file (looked at while ingesting)."""
    classes: tuple[str, ...] | None = None
    """The labels: each must be there, no other, no row without."""
    min_rows_per_class: int | None = None
    max_rows_per_class: int | None = None
    equal_width: bool = False
    """Whether all vectors of a layer have one width."""
    width: int | None = None
    dtypes: tuple[str, ...] | None = None
    """Types, of the source while ingesting and as stored."""
    layers: tuple[int, ...] | None = None
    sites: tuple[str, ...] | None = None


class Count(NamedTuple):
    """How many rows there are of one kind."""

    model: str
    dataset: str | None
    site: str
    layer: int | None
    label: str | None
    width: int
    dtype: str
    rows: int


class Shape(NamedTuple):
    """A tensor as its file holds it."""

    source: str
    """File and key."""
    shape: tuple[int, ...]
    dtype: str


_TYPES: Mapping[str, tuple[type, str]] = {
    "name": (str, "a text"),
    "title": (str, "a text"),
    "description": (str, "a text"),
    "source": (str, "a text"),
    "rank": (int, "a whole number"),
    "min_rows_per_class": (int, "a whole number"),
    "max_rows_per_class": (int, "a whole number"),
    "width": (int, "a whole number"),
    "equal_width": (bool, "true or false"),
    "classes": (str, "a list of texts"),
    "dtypes": (str, "a list of texts"),
    "sites": (str, "a list of texts"),
    "layers": (int, "a list of whole numbers"),
}
_LISTS = ("classes", "dtypes", "sites", "layers")


@cache
def known() -> Mapping[str, Path]:
    """Return the built-in contracts: name and file."""
    folder = resources.folder("schemas") / "contracts"
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def load(name_or_path: str | Path) -> Contract:
    """Return a built-in contract by name, or the one in a JSON file.

    Raises:
        UsageError: there is none, or it is malformed; lists every problem.
    """
    path = known().get(str(name_or_path)) or paths.require_ordinary(name_or_path)
    if not path.is_file():
        raise UsageError(
            f"no contract {str(name_or_path)!r}: built in are {', '.join(known())}; "
            "or name a .json file"
        )
    try:
        document = json.loads(paths.read_text(path))
    except PathError:
        raise
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid JSON: {error}") from error
    return parse(document, path)


def parse(document: Any, origin: Path | str = "contract") -> Contract:
    """Build a contract from its JSON document.

    Raises:
        UsageError: it is malformed; lists every problem.
    """
    if not isinstance(document, dict):
        raise UsageError(f"{origin}: a contract is a JSON object")
    problems = list(_problems(document))
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise UsageError(f"{origin}: {len(problems)} problems:\n{lines}")
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in document.items()
        if value is not None
    }
    return Contract(**values)


def _problems(document: Mapping[str, Any]) -> Iterator[str]:
    allowed = [item.name for item in fields(Contract)]
    if "name" not in document:
        yield "name: got nothing; expected a text"
    for key, value in document.items():
        if key not in allowed:
            close = difflib.get_close_matches(key, allowed, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            yield f"{key}: an unknown key{hint}; expected one of {', '.join(allowed)}"
            continue
        kind, words = _TYPES[key]
        if value is None and key not in _ABOUT:
            continue
        items = value if key in _LISTS and isinstance(value, list) else [value]
        fits = all(type(item) is kind for item in items) and bool(items)
        if (key in _LISTS and not isinstance(value, list)) or not fits:
            yield f"{key}: got {value!r}; expected {words}"


def check(
    contract: Contract, counts: Iterable[Count], shapes: Iterable[Shape] = ()
) -> tuple[str, ...]:
    """Return every violation.

    Args:
        contract: the rules.
        counts: rows by kind; those of one kind may come in several parts.
        shapes: tensors as their files hold them, where that is known.
    """
    groups: dict[tuple[str, str | None, str, int | None], list[Count]] = {}
    for count in counts:
        groups.setdefault((count.model, count.dataset, count.site, count.layer), []).append(count)
    violations = [violation for shape in shapes for violation in _about_shape(contract, shape)]
    if not groups:
        violations.append("there are no rows")
    several = len({key[:3] for key in groups}) > 1
    for key in sorted(groups, key=lambda key: (*map(str, key[:3]), key[3] is None, key[3] or 0)):
        model, dataset, site, layer = key
        where = f"layer {'unknown' if layer is None else layer}"
        if several:
            where = f"{model}{f', {dataset}' if dataset else ''}, {site}, {where}"
        violations += [f"{where}: {text}" for text in _about_group(contract, groups[key])]
    return tuple(violations)


def count_rows(batch: RowBatch) -> Counter[Count]:
    """Count the rows of a batch by kind; the kinds have 0 rows themselves."""
    columns = [
        batch.columns[name] if name in batch.columns else [batch.constants.get(name)] * len(batch)
        for name in ("model", "dataset", "site", "layer", "label")
    ]
    width, dtype = batch.vectors.shape[1], str(batch.vectors.dtype)
    found: Counter[Count] = Counter()
    for (model, dataset, site, layer, label), rows in Counter(zip(*columns, strict=True)).items():
        found[Count(model, dataset, site, layer, label, width, dtype, rows=0)] += rows
    return found


def enforce(contract: Contract, counts: Iterable[Count], shapes: Iterable[Shape] = ()) -> None:
    """Refuse rows that break the contract.

    Raises:
        ContractError: lists every violation.
    """
    violations = check(contract, counts, shapes)
    if violations:
        raise ContractError(contract.name, violations)


def _about_shape(contract: Contract, shape: Shape) -> Iterator[str]:
    if contract.rank is not None and len(shape.shape) != contract.rank:
        yield (
            f"{shape.source}: shape {list(shape.shape)} has {len(shape.shape)} axes; "
            f"expected {contract.rank}"
        )
    if contract.dtypes is not None and shape.dtype not in contract.dtypes:
        yield f"{shape.source}: type {shape.dtype}; expected {' or '.join(contract.dtypes)}"


def _about_group(contract: Contract, counts: list[Count]) -> Iterator[str]:
    layer, site = counts[0].layer, counts[0].site
    if contract.layers is not None and layer not in contract.layers:
        yield f"not one of the layers {', '.join(map(str, contract.layers))}"
    if contract.sites is not None and site not in contract.sites:
        yield f"site {site}; expected {' or '.join(contract.sites)}"
    yield from _about_classes(contract, _summed(counts, "label"))
    widths = _summed(counts, "width")
    if contract.equal_width and len(widths) > 1:
        parts = ", ".join(f"{width} ({rows} rows)" for width, rows in widths.items())
        yield f"widths differ: {parts}"
    if contract.width is not None and set(widths) != {contract.width}:
        yield f"width {', '.join(map(str, widths))}; expected {contract.width}"
    for dtype, rows in _summed(counts, "dtype").items():
        if contract.dtypes is not None and dtype not in contract.dtypes:
            yield f"{rows} rows are stored as {dtype}; expected {' or '.join(contract.dtypes)}"


def _about_classes(contract: Contract, labels: Mapping[Any, int]) -> Iterator[str]:
    if contract.classes is not None:
        for label, rows in labels.items():
            if label is None:
                yield f"{rows} rows without a label"
            elif label not in contract.classes:
                yield f"label {label!r} ({rows} rows); expected {' or '.join(contract.classes)}"
    for label in contract.classes or [label for label in labels if label is not None]:
        rows = labels.get(label, 0)
        if contract.min_rows_per_class is not None and rows < contract.min_rows_per_class:
            yield f"{rows} rows of {label}; at least {contract.min_rows_per_class} are needed"
        elif contract.classes is not None and not rows:
            yield f"no rows of {label}"
        if contract.max_rows_per_class is not None and rows > contract.max_rows_per_class:
            yield f"{rows} rows of {label}; at most {contract.max_rows_per_class} are allowed"


def _summed(counts: list[Count], name: str) -> dict[Any, int]:
    sums: dict[Any, int] = {}
    for count in counts:
        value = getattr(count, name)
        sums[value] = sums.get(value, 0) + count.rows
    return sums
