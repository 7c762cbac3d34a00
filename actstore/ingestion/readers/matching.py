"""Finds the tensors of a document that a recipe means, or says what is there in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from actstore.errors import LayoutError
from actstore.ingestion import documents
from actstore.ingestion.plan import TensorPlan
from actstore.ingestion.tensor import Tensor

_REMEMBERED = 100_000


class Found(NamedTuple):
    """A tensor that is to be stored."""

    plan: TensorPlan
    key: str
    parts: Mapping[str, Any]
    """Named parts of the key."""
    tensor: Tensor


class Matcher:
    """Matches keys and ranks of tensors with those that a recipe names.

    Args:
        name: of the recipe.
        plans: of its tensors.
        first_k: examples to take, where keys name them; None: all.
    """

    def __init__(self, name: str, plans: Sequence[TensorPlan], first_k: int | None) -> None:
        self._name = name
        self._plans = plans
        self._first_k = first_k
        self._matches: dict[
            tuple[str | None, str, int], tuple[TensorPlan, dict[str, Any]] | None
        ] = {}

    def found(self, kind: str | None, document: Any) -> list[Found]:
        """Return the tensors that are to be stored, in the document's order.

        Args:
            kind: of file, in the recipe's words.
            document: what it holds.

        Raises:
            LayoutError: a tensor is missing or of a rank that the recipe does not know.
        """
        leaves = documents.leaves(document)
        found: list[Found] = []
        for key, tensor in leaves:
            matched = self._match(kind, key, tensor)
            if matched is not None:
                found.append(Found(matched[0], key, matched[1], tensor))
        found = _without_row_values(found)
        seen = {id(each.plan) for each in found}
        for each in self._plans:
            if each.belongs(kind) and not each.spec.optional and id(each) not in seen:
                raise LayoutError(_missing(each, leaves, document))
        _check_counts(found)
        if (count := self._first_k) is not None:
            found = _first(found, count)
        if not found:
            near = [each for each in self._plans if each.belongs(kind) and _near(each, leaves)]
            if near:
                raise LayoutError(_missing(near[0], leaves, document))
            raise LayoutError(
                f"no tensor that recipe {self._name} knows; the file holds {contents(document)}"
            )
        return found

    def _match(
        self, kind: str | None, key: str, tensor: Tensor
    ) -> tuple[TensorPlan, dict[str, Any]] | None:
        known = (kind, key, tensor.ndim)
        if known not in self._matches:
            if len(self._matches) >= _REMEMBERED:
                self._matches.clear()
            self._matches[known] = self._search(*known)
        matched = self._matches[known]
        if matched is None or tensor.dtype.startswith(("float", "bfloat")):
            return matched
        # Whole numbers are token ids, masks, labels, unless the recipe names them outright.
        template = matched[0].key
        return matched if template is not None and not template.parts else None

    def _search(
        self, kind: str | None, key: str, rank: int
    ) -> tuple[TensorPlan, dict[str, Any]] | None:
        for each in self._plans:
            if not each.belongs(kind) or rank not in each.spec.axes:
                continue
            if each.key is None:
                if not key:
                    return each, {}
            elif (match := each.key.match(key)) is not None:
                return each, match.parts
        return None


def _first(found: list[Found], count: int) -> list[Found]:
    """Return the tensors of the first examples, where their keys name these."""
    names = dict.fromkeys(each.parts["example"] for each in found if "example" in each.parts)
    kept = set(list(names)[:count])
    return [each for each in found if "example" not in each.parts or each.parts["example"] in kept]


def _check_counts(found: list[Found]) -> None:
    """Refuse another number of tensors than the recipe counts, where keys tell them apart."""
    for each in {id(one.plan): one.plan for one in found}.values():
        ours = [one for one in found if one.plan is each]
        if each.spec.count is None or "layer" in each.spec.axes[ours[0].tensor.ndim]:
            continue
        if len(ours) != each.spec.count:
            name = each.key.text if each.key is not None else "a bare tensor"
            raise LayoutError(f"{len(ours)} tensors {name}, expected {each.spec.count}")


def example_lengths(found: list[Found]) -> set[int]:
    """Return how many examples the tensors hold."""
    lengths = set()
    for each in found:
        meaning = each.plan.spec.axes[each.tensor.ndim]
        if "example" in meaning:
            lengths.add(each.tensor.shape[meaning.index("example")])
    return lengths


def _without_row_values(found: list[Found]) -> list[Found]:
    """Leave out what is one number per row of a matrix beside it, such as scores.

    Only where the recipe takes every key; one that names its tensors is taken at its word.
    """
    rows = example_lengths(found)
    return [
        each
        for each in found
        if each.tensor.ndim != 1
        or each.tensor.shape[0] not in rows
        or each.plan.key is None
        or not any(part.kind == "any" for part in each.plan.key.parts)
    ]


def contents(document: Any) -> str:
    """Describe what a file holds, for a message."""
    if isinstance(document, Tensor):
        return f"a bare tensor of shape {list(document.shape)}"
    if not isinstance(document, dict):
        return f"a {type(document).__name__}"
    if not document:
        return "no keys"
    keys = [str(key) for key in document]
    return f"the keys {', '.join(keys[:10])}{', …' if len(keys) > 10 else ''}"


def _near(each: TensorPlan, leaves: list[tuple[str, Tensor]]) -> list[str]:
    """Return the tensors whose key fits, with their shapes."""
    return [
        f"{key or 'the tensor'} has shape {list(tensor.shape)} ({tensor.dtype})"
        for key, tensor in leaves
        if (each.key.match(key) is not None if each.key is not None else not key)
    ]


def _missing(each: TensorPlan, leaves: list[tuple[str, Tensor]], document: Any) -> str:
    name = each.key.text if each.key is not None else "a bare tensor"
    ranks = " or ".join(f"[{', '.join(meaning)}]" for meaning in each.spec.axes.values())
    near = _near(each, leaves)
    if near:
        return f"{near[0]}; expected real numbers {ranks}"
    return f"no tensor {name} of shape {ranks}; the file holds {contents(document)}"
