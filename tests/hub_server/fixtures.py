"""The loopback Hub as fixtures: the conftest of each folder that asks it imports all of these."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.utils.tqdm import disable_progress_bars

from tests.hub_server import Hub, hub_env

__all__ = [
    "api",
    "env",
    "home",
    "hub",
    "lfs",
    "pytest_collection_modifyitems",
    "quick_retries",
    "range_cache",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """huggingface_hub 2.4 sends large files in a way that httpx2 deprecates; not our warning."""
    for item in items:
        if "range_cache" in getattr(item, "fixturenames", ()):  # as in all folders that ask the Hub
            item.add_marker(pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A Hub of its own for each test; a bug in its routes fails the test."""
    with Hub(tmp_path / "hub") as running:
        yield running
    assert running.crashes == []


@pytest.fixture(autouse=True)
def range_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fetched from afar is kept with the test, not with the user."""
    monkeypatch.setenv("ACTSTORE_CACHE", str(tmp_path / "range cache"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """HF_HOME of the child processes."""
    return tmp_path / "home"


@pytest.fixture
def env(hub: Hub, home: Path) -> dict[str, str]:
    """The environment of a child process in which everything talks to `hub`, as alice."""
    return hub_env(hub, home)


@pytest.fixture
def lfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, large files go by LFS; child processes are told by their environment."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    disable_progress_bars()


@pytest.fixture
def api(hub: Hub, lfs: None) -> HfApi:
    """alice, who may write."""
    return HfApi(endpoint=hub.url, token="hf_write")


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """huggingface_hub retries at once in this process; the waits it wanted, in seconds."""
    waits: list[float] = []
    clock = SimpleNamespace(**{name: getattr(time, name) for name in ("time", "monotonic")})
    clock.sleep = waits.append
    monkeypatch.setattr("huggingface_hub.utils._http.time", clock)
    monkeypatch.setattr("huggingface_hub.file_download.time", clock)
    return waits
