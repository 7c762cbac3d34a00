"""Tests that talk to the loopback Hub, and the stores that they push to it."""

from pathlib import Path

import pytest

from tests.hub.pushing import push_to
from tests.hub_server import Hub
from tests.hub_server.fixtures import *  # noqa: F403 (fixtures are found by their names)
from tests.storage.stores import batch, write


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three layers of six labelled rows; before them four rows of another site, width and type."""
    root = tmp_path / "runs.store"
    rows = [batch(0, 6, layer=layer, task="maze", label="ok") for layer in range(3)]
    other = batch(0, 4, layer=None, site="mlp_out", width=5, dtype="float32", label="ok")
    write(root, *rows, other)
    return root


@pytest.fixture
def pushed(hub: Hub, lfs: None, runs: Path) -> Path:
    """The same, and the Hub has it."""
    push_to(hub, runs)
    return runs


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two layers of five labelled rows, for tests that push many times."""
    root = tmp_path / "small.store"
    write(root, *(batch(0, 5, layer=layer, label="a") for layer in range(2)))
    return root


@pytest.fixture
def store(runs: Path) -> Path:
    """What a test pushes, unless its module takes another one of these."""
    return runs
