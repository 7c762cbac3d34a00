"""Tests that talk to the loopback Hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub_server.fixtures import (
    api as api,
)
from tests.hub_server.fixtures import (
    env as env,
)
from tests.hub_server.fixtures import (
    home as home,
)
from tests.hub_server.fixtures import (
    hub as hub,
)
from tests.hub_server.fixtures import (
    lfs as lfs,
)
from tests.hub_server.fixtures import (
    quick_retries as quick_retries,
)
from tests.hub_server.fixtures import (
    range_cache as range_cache,
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """huggingface_hub 2.4 sends large files in a way that httpx2 deprecates; not our warning."""
    ours = Path(__file__).parent
    for item in items:
        if ours in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"))
