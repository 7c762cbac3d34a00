"""What is written down about a run: settings, the recipe's text, versions."""

from __future__ import annotations

import platform
import secrets
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from actstore.ingestion.options import Options
from actstore.ingestion.recipe import Recipe
from actstore.storage.manifest import Run, now

_PACKAGES = ("actstore", "numpy", "pyarrow", "torch")


def describe(
    sources: Sequence[str | Path], recipe: Recipe, options: Options, **further: str | bool | None
) -> Run:
    """Return the record of a new run; settings that were left alone are left out.

    Args:
        sources: as the user named them; of an absolute path, and of one through folders above,
            the last part is kept, and a text as it is.
        recipe: its name and text are kept, so that a run can be repeated.
        options: what the user chose.
        further: settings beside the options.
    """
    settings: dict[str, Any] = {
        "sources": [_shown(path) for path in sources],
        "recipe": recipe.name,
        "recipe_toml": recipe.text,
        **further,
        **{item.name: getattr(options, item.name) for item in fields(options)},
        "sidecars": {name: _shown(path) for name, path in options.sidecars.items()},
        "map": dict(options.map),
    }
    return Run(
        run_id=f"ingest-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}",
        kind="ingest",
        started_at=now(),
        settings={
            name: value
            for name, value in settings.items()
            if value is not None and value is not False and value != {}
        },
        versions=versions(),
    )


def _shown(path: str | Path) -> str:
    """Return a path as others may read it: a push publishes the settings of every run."""
    if isinstance(path, str):
        return path
    return path.name if path.is_absolute() or ".." in path.parts else str(path)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that touch the values."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
