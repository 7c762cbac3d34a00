"""A small store, and the command line called in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pytest

from actstore import cli
from actstore.storage.manifest import Run, now
from actstore.storage.rows import RowBatch
from actstore.storage.writer import StoreWriter
from tests.remote.bucket_fixtures import *  # noqa: F403

ROWS = 20
WIDTH = 8
LAYERS = (3, 7)


class Finished(NamedTuple):
    """What a command printed and returned."""

    code: int
    out: str
    err: str


class Command(Protocol):
    def __call__(self, *words: Any) -> Finished: ...


@pytest.fixture
def actstore(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `actstore WORDS…` and return what it said."""

    def run(*words: Any) -> Finished:
        capsys.readouterr()
        code = cli.run([str(word) for word in words])
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return run


def vectors(layer: int) -> np.ndarray:
    """Float16 ``[ROWS, WIDTH]``, different for each layer."""
    values: np.ndarray = np.random.default_rng(layer).standard_normal((ROWS, WIDTH))
    return values.astype(np.float16)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two layers of twenty rows, half of them faithful, in one commit."""
    root = tmp_path / "runs.store"
    run = Run(run_id="run-1", kind="ingest", started_at=now())
    with StoreWriter(root, run=run) as writer:
        for layer in LAYERS:
            with writer.file():
                writer.add(
                    RowBatch(
                        vectors=vectors(layer),
                        constants={
                            "model": "m",
                            "site": "resid_post",
                            "pooling": "mean",
                            "layer": layer,
                        },
                        columns={
                            "example_id": [f"e{i}" for i in range(ROWS)],
                            "label": ["faithful", "unfaithful"] * (ROWS // 2),
                            "prediction": [f"It is {i}." for i in range(ROWS)],
                            "oracle": [str(i % 3) for i in range(ROWS)],
                        },
                    )
                )
        writer.commit(operation="ingest", message="two layers")
    return root
