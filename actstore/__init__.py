"""actstore: the columnar store for model activations.

A *store* is a folder. One *row* is one vector (one example, one layer, one site, one
pooling or token) with its metadata, in one fixed schema. Rows come in by :func:`ingest`,
in *commits* that never change afterwards. :func:`open` gives the :class:`Store` at one
commit: ask it in SQL (``sql``), as a Polars frame (``frame``), by columns (``select``, a
:class:`Selection` that becomes a matrix) or by similarity (``nearest``). Metadata is
queried, vectors are read from a memory map. Every error is an :class:`ActstoreError`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actstore.analysis.steering.intervention import steering
    from actstore.api.selection import Selection
    from actstore.api.store import Store, open
    from actstore.capturing.recording import record
    from actstore.capturing.run.capture import capture
    from actstore.errors import ActstoreError
    from actstore.ingestion.ingest import ingest

__all__ = [
    "ActstoreError",
    "Selection",
    "Store",
    "__version__",
    "capture",
    "ingest",
    "open",
    "record",
    "steering",
]

# Found when first used: importing actstore loads neither NumPy nor Arrow.
_MODULES = ("analysis", "errors")
_HOMES = {
    "ActstoreError": "actstore.errors",
    "Selection": "actstore.api.selection",
    "Store": "actstore.api.store",
    "capture": "actstore.capturing.run.capture",
    "ingest": "actstore.ingestion.ingest",
    "open": "actstore.api.store",
    "record": "actstore.capturing.recording",
    "steering": "actstore.analysis.steering.intervention",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("actstore")
    if name in _MODULES:
        return importlib.import_module(f"actstore.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'actstore' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
