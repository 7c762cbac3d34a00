"""Turns what a loader returned into a plain tree, within bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from actstore.errors import LayoutError, UnsafeFileError
from actstore.ingestion.containers.allowlist import Held, Name, Storage
from actstore.ingestion.tensor import Tensor

MAX_DEPTH: Final = 100
# Python refuses to print numbers of more than 4,300 digits.
_MAX_BITS: Final = 4096
MAX_NODES: Final = 20_000_000
"""Values that whoever walks over the tree meets; a value that is shared counts every time."""


def plain(root: Any, kind: type | None = None, build: Callable[[Any], Tensor] | None = None) -> Any:
    """A tree of dict, list, tuple, str, int, float, bool, None and bytes with Tensor leaves.

    Sets become lists, torch sizes tuples, dtypes and devices text, NumPy scalars Python's;
    text that is not valid Unicode shows its stray halves as ``\\udc80``. ``build`` makes the
    tensors of leaves of a ``kind`` of the loader's own.

    Raises LayoutError for anything else, and UnsafeFileError where the tree contains itself,
    nests deeper than 100, or unfolds into more than 20 million values. The caller adds the
    file's name.
    """
    return _Walk(kind, build).visit(root, ())[0]


class _Walk:
    def __init__(self, kind: type | None, build: Callable[[Any], Tensor] | None) -> None:
        self._kind = kind
        self._build = build
        # Keeps the source alive beside its result, so that no id is used twice.
        self._done: dict[int, tuple[Any, Any, int]] = {}
        self._open: set[int] = set()

    def visit(self, node: Any, where: tuple[Any, ...]) -> tuple[Any, int]:
        """The plain form of ``node`` and how many values it unfolds into."""
        if isinstance(node, str):
            return _text(node), 1
        if node is None or type(node) in (int, float, bool, bytes):
            if type(node) is int and node.bit_length() > _MAX_BITS:
                raise UnsafeFileError(f"the number at {_place(where)} has over {_MAX_BITS} bits")
            return node, 1
        if isinstance(node, Storage):
            raise LayoutError(f"the value at {_place(where)} is a storage without a tensor")
        if isinstance(node, Held) and not isinstance(node, Name):
            return self.visit(node.value, where)
        if self._build is not None and type(node) is self._kind:
            return self._build(node), 1
        if not isinstance(node, dict | list | tuple | set | frozenset):
            return _leaf(node, where), 1
        known = self._done.get(id(node))
        if known is not None:
            return known[1], known[2]
        if id(node) in self._open:
            raise UnsafeFileError(f"the value at {_place(where)} contains itself")
        if len(where) >= MAX_DEPTH:
            raise UnsafeFileError(f"nests more than {MAX_DEPTH} deep: {_place(where[:3])} …")
        self._open.add(id(node))
        result, count = self._container(node, where)
        if count > MAX_NODES:
            raise UnsafeFileError(
                f"the value at {_place(where)} unfolds into more than {MAX_NODES:,} values, "
                "because its parts are shared over and over"
            )
        self._open.discard(id(node))
        self._done[id(node)] = (node, result, count)
        return result, count

    def _container(self, node: Any, where: tuple[Any, ...]) -> tuple[Any, int]:
        count = 1
        if isinstance(node, dict):
            mapping: dict[Any, Any] = {}
            # dict's own method: a subclass may have been given an attribute of that name.
            for key, value in dict.items(node):
                plain_key = _key(key, where)
                mapping[plain_key], below = self.visit(value, (*where, plain_key))
                count += below
            return mapping, count
        items = []
        for index, value in enumerate(node):
            item, below = self.visit(value, (*where, index))
            items.append(item)
            count += below
        return (tuple(items) if isinstance(node, tuple) else items), count


def _leaf(node: Any, where: tuple[Any, ...]) -> Any:
    if isinstance(node, Tensor):
        return node
    if isinstance(node, np.generic):
        node = node.item()
        if node is None or isinstance(node, str | int | float | bool | bytes):
            return node
    elif isinstance(node, bytearray):
        return bytes(node)
    elif isinstance(node, Name):
        return str(node.value)
    name = f"{type(node).__module__}.{type(node).__qualname__}"
    if name in ("torch.dtype", "torch.device"):
        return str(node).removeprefix("torch.")
    if isinstance(node, np.ndarray) or hasattr(node, "untyped_storage"):
        try:
            return Tensor(node)
        except LayoutError as error:
            raise LayoutError(f"at {_place(where)}: {error}") from error
    raise LayoutError(
        f"the value at {_place(where)} is a {name}, neither a tensor nor a plain value"
    )


def _key(key: Any, where: tuple[Any, ...]) -> Any:
    if isinstance(key, str):
        return _text(key)
    if isinstance(key, np.generic):
        key = key.item()
    if key is None or type(key) in (int, float, bool, bytes):
        return key
    if isinstance(key, tuple):
        return tuple(_key(part, where) for part in key)
    raise LayoutError(
        f"a key at {_place(where)} is a {type(key).__name__}, not text, a number or a tuple of them"
    )


def _text(text: str) -> str:
    if text.isascii():
        return str(text)
    # A stray surrogate half could not be written anywhere later on.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _place(where: tuple[Any, ...]) -> str:
    return "".join(f"[{part!r:.80}]" for part in where) or "the top"
