"""Finds the data folders (schemas, ingest, query) of actstore, and the user's own cache folder."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Literal

Kind = Literal["schemas", "ingest", "query"]

CACHE = "ACTSTORE_CACHE"
"""Environment variable: the cache's folder; by default in the user's own cache folder."""


def cache_folder() -> Path:
    """Return the folder for what may be lost, such as ranges of remote files; there or not."""
    named = os.environ.get(CACHE)
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(named) if named else Path(home, "actstore")).expanduser()


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
