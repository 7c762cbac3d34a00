"""actstore: the columnar store for model activations.

A store is a folder. A row is one vector (of one example, layer, site, and pooling or token)
beside its question, oracle answer, prediction, label and the other columns of one schema.
Rows come in by commits, which never change afterwards. Metadata is queried; vectors are read
from a memory map.

    import actstore

    actstore.ingest("folder/of/pt/files", "runs.store")
    store = actstore.open("runs.store")
    rows = store.select("label = 'correct'", layer=12, site="resid_post")
    matrix = rows.numpy()
    counts = store.sql("SELECT layer, count(*) FROM activations GROUP BY layer")

Rows come in by

    ingest      folders of activation files, here or on the Hugging Face Hub
    capture     a model, while it answers prompts
    record      a model, inside a loop of your own
    Store.write arrays in memory, and the caches of other libraries

and are asked by

    open        a Store at its latest commit or an earlier one; hf://datasets/org/name too
    Store       SQL, Polars frames, nearest neighbours, export, push; select gives a
    Selection   some rows: matrix, tensor, table, batches to train on
    analysis    statistics, probes, steering vectors, pictures, reports
    steering    adds a steering vector to what a model computes

Every error is an ActstoreError; the module errors has the tree.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actstore.analysis.steering.intervention import steering
    from actstore.api.capture import capture
    from actstore.api.selection import Selection
    from actstore.api.store import Store, open
    from actstore.capturing.recording import record
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
    "capture": "actstore.api.capture",
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
    return sorted({*__all__, *_MODULES})
