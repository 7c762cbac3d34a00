"""Finds the data folders (schemas, ingest, query) in an installed wheel or in a checkout."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

Kind = Literal["schemas", "ingest", "query"]


@cache
def folder(kind: Kind) -> Path:
    """Return the folder that holds the data files of ``kind``.

    A wheel carries them as ``actstore/_data/<kind>``; in a checkout they are the
    top-level folders of the repository.

    Raises:
        FileNotFoundError: neither exists, so the installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / "_data" / kind, package.parent / kind):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"actstore's data folder {kind!r} is missing: reinstall actstore")
