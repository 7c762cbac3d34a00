"""The record of what the tests of families ran, of which the documentation's table is made.

Each test holds the record to what it has just done. After a change run the tests of both
kinds of family with ``ACTSTORE_FAMILIES=write`` (and not in parallel) and then `make docs`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.capturing import references

PATH = Path(__file__).parents[2] / "docs" / "families.json"


def hold(name: str, model: Any, **done: Any) -> None:
    """Compare what a test did with a family with the record, or write it there.

    Args:
        name: of the family.
        model: that was captured.
        done: what was found right, by the name of the test's part: plain JSON.
    """
    done["class"] = type(model).__name__
    done["depth"] = len(model.get_submodule(references.blocks_path(name, sees=sees(model))))
    if os.environ.get("ACTSTORE_FAMILIES") == "write":
        known = json.loads(PATH.read_text()) if PATH.exists() else {}
        known[name] = known.get(name, {}) | done
        lines = [
            f"{json.dumps(name)}: {json.dumps(known[name], sort_keys=True)}"
            for name in sorted(known)
        ]
        PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    known = json.loads(PATH.read_text())
    assert done.items() <= known.get(name, {}).items(), (
        f"docs/families.json does not say what the tests do with {name}: run them with "
        "ACTSTORE_FAMILIES=write"
    )


def sites(name: str) -> dict[str, list[int]]:
    """Return the sites of a family and their layers, as the record has them."""
    return {site: list(layers) for site, layers in references.sites(name).items()}


def sees(model: Any) -> bool:
    """Say whether it is a model of images too."""
    return hasattr(model.config, "vision_config")
