"""Captures and recordings into smaller types: as far off as the type says, and no further."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actstore
from actstore.capturing import recompute
from actstore.storage.snapshot import open_snapshot
from tests.capturing import families

QUESTIONS = [{"id": f"q{n}", "question": "a b c " * (1 + n % 3)} for n in range(6)]


@pytest.fixture(scope="module")
def model() -> Any:
    return families.build("llama")


def capture(model: Any, store: Path, **options: Any) -> Any:
    return actstore.capture(
        model, families.tokenizer(), QUESTIONS, store=store,
        **{"model_name": "tiny/llama", "self_check": False, "batch_size": 4, **options},
    )  # fmt: skip


def everything(store: Path) -> tuple[np.ndarray, np.ndarray, set[str]]:
    """Return all vectors in row order, their stored norms, and the stored types."""
    with actstore.open(store) as opened:
        norms = opened.sql("SELECT norm FROM activations ORDER BY row_id").fetchnumpy()["norm"]
    snapshot = open_snapshot(store)
    try:
        found = snapshot.gather(np.arange(snapshot.rows))
        return found, norms, {entry.dtype for entry in snapshot.shards}
    finally:
        snapshot.close()


@pytest.mark.parametrize("kind", ["int8", "compact16"])
def test_a_capture_is_off_by_no_more_than_the_type(tmp_path: Path, model: Any, kind: str) -> None:
    whole = capture(model, tmp_path / "whole", pool=("prompt.last", "prompt.mean"))
    done = capture(model, tmp_path / kind, pool=("prompt.last", "prompt.mean"), storage_dtype=kind)
    exact, _, _ = everything(tmp_path / "whole")
    found, norms, types = everything(tmp_path / kind)
    assert types == {"int8" if kind == "int8" else "float16"}
    assert len(found) == len(exact) == whole.rows == done.rows
    steps = np.abs(exact).max(axis=1, keepdims=True)
    most = steps / 254 if kind == "int8" else np.abs(exact) * 2**-11 + 2**-25
    assert (np.abs(found - exact) <= most * (1 + 1e-5)).all()
    assert not np.array_equal(found, exact)
    # The norm that stands there is that of what is handed out, not of what came in.
    assert norms == pytest.approx(np.linalg.norm(found.astype(np.float64), axis=1), rel=1e-6)
    assert any(kind in note for note in done.notes)
    again = capture(model, tmp_path / kind, pool=("prompt.last", "prompt.mean"), storage_dtype=kind)
    assert again.rows == 0


def test_rows_captured_again_are_held_against_the_type(tmp_path: Path, model: Any) -> None:
    """Where rounding falls the other way a value is a whole step off, which is no change."""
    capture(model, tmp_path / "s", pool="prompt.last", storage_dtype="int8")
    with torch.no_grad():  # as another machine's sums would: far below what matters
        for parameter in model.parameters():
            parameter.mul_(1 + 1e-5)
    try:
        snapshot = open_snapshot(tmp_path / "s")
        found = recompute.recompute(
            snapshot, 100, model=model, processor=families.tokenizer(), tolerance=1e-4
        )
        numbers, scales = snapshot.stored(np.arange(snapshot.rows))
        snapshot.close()
    finally:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.div_(1 + 1e-5)
    assert len(found.rows) == len(numbers)
    assert found.outside == []
    assert scales is not None
    # A vector of another row is far outside.
    assert found.largest is not None
    assert found.largest < 1e-4
