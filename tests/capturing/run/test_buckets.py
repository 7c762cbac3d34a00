"""Captures and recordings into a bucket: the rows of a folder, gone on with, found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actstore
from actstore.errors import BucketConditionError
from tests.capturing import families
from tests.remote.bucket_fixtures import *  # noqa: F403

QUESTIONS = [{"id": f"q{number}", "question": f"which is larger {number}"} for number in range(6)]


@pytest.fixture(scope="module")
def model() -> Any:
    return families.build("llama")


def capture(model: Any, store: str | Path, count: int, **options: Any) -> Any:
    return actstore.capture(
        model,
        None if model is None else families.tokenizer(),
        QUESTIONS[:count],
        store=store,
        **{"model_name": "tiny/llama", "batch_size": 2, "layers": "0,-1", **options},
    )


def test_a_capture_in_two_parts(model: Any, bucket: str, tmp_path: Path) -> None:
    place = f"{bucket}/runs"
    with pytest.raises(actstore.errors.StoreNotFoundError):
        actstore.open(place)
    assert capture(model, place, 3, dry_run=True).estimate is not None
    with pytest.raises(actstore.errors.StoreNotFoundError):
        actstore.open(place)
    assert capture(model, place, 3).skipped == 0
    done = capture(model, place, 6)
    assert (done.examples, done.skipped) == (3, 3)
    capture(model, tmp_path / "local", 3)
    local = capture(model, tmp_path / "local", 6)
    assert (done.selection().numpy(mixed=True) == local.selection().numpy(mixed=True)).all()
    again = capture(None, place, 6)  # all is there: no model is needed
    assert (again.selection().numpy(mixed=True) == local.selection().numpy(mixed=True)).all()
    assert actstore.open(place).name == place


def test_a_recording(model: Any, bucket: str) -> None:
    with actstore.record(model, bucket, model_name="tiny/llama", layers="0") as recorder:
        with recorder.example(id="a", question="What?"), torch.no_grad():
            model(input_ids=torch.tensor([[1, 20, 21]]))
        assert recorder.last is not None
    rows = actstore.open(bucket).select(example_id="a")
    assert len(rows) > 0
    assert np.isfinite(rows.numpy()).all()


def test_a_server_that_is_not_written_to_is_refused_before_the_model_runs(
    model: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object) -> None:
        raise BucketConditionError("it ignores conditions")

    monkeypatch.setattr("actstore.remote.bucket.Bucket.check_conditions", refuse)
    hook = model.model.layers[0].register_forward_pre_hook(lambda *_: pytest.fail("it ran"))
    with pytest.raises(BucketConditionError):
        capture(model, bucket, 3)
    hook.remove()
