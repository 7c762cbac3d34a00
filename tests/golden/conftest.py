"""The real model of the golden tests: converted once per checkout, loaded once per process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from actstore.models.loading import LoadedModel, load
from docs.study import model


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    absent = model.missing()
    if absent:
        pytest.skip(f"the study's packages are not installed: {', '.join(absent)}")
    return model.checkpoint()


@pytest.fixture(scope="session")
def loaded(checkpoint: Path) -> LoadedModel:
    return load(checkpoint, dtype="float32", device="cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Let sums be added up in one order, whatever the machine; and leave cores to others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
