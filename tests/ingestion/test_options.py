"""Options: aliases are resolved, what cannot work is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from actstore.errors import UsageError
from actstore.ingestion.options import checked_options


@pytest.mark.parametrize(
    ("given", "site", "layer"),
    [
        ({"site": "hook_resid_pre"}, "resid_pre", None),
        ({"site": "blocks.3.hook_resid_post"}, "resid_post", 3),
        ({"site": "blocks.3.hook_resid_post", "layer": 5}, "resid_post", 5),
        ({"site": "my.own"}, "my.own", None),
        ({"layer": -1}, None, -1),
    ],
)
def test_sites(given: dict[str, Any], site: str | None, layer: int | None) -> None:
    options = checked_options(**given)
    assert (options.site, options.layer) == (site, layer)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"pool": "median"}, "--pool 'median'"),
        ({"storage_dtype": "bfloat16"}, "--storage-dtype 'bfloat16'"),
        ({"first_k": 0}, "--first-k"),
        ({"layer": -2}, "--layer"),
        ({"allow_rounding": True}, "--allow-rounding"),
        ({"allow_rounding": True, "storage_dtype": "auto"}, "--allow-rounding"),
        ({"map": {"norm": "x"}}, "--map norm"),
        ({"map": {"labels": "x"}}, "--map labels"),
        ({"site": " "}, "site"),
    ],
)
def test_what_cannot_work(given: dict[str, Any], name: str) -> None:
    with pytest.raises(UsageError, match=name):
        checked_options(**given)
