"""Estimates: sizes as people read them, disks as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from actstore.capturing.forward.pooling import parse_pools
from actstore.capturing.run import estimate
from actstore.errors import DiskSpaceError
from actstore.storage.rows import RowBatch


def test_what_is_free_is_asked_of_the_disk_that_the_store_will_be_on(tmp_path: Path) -> None:
    free = estimate.free_bytes(tmp_path / "not" / "yet" / "there")
    assert abs(free - shutil.disk_usage(tmp_path).free) < 1 << 30


def test_a_run_that_does_not_fit_is_refused_with_both_numbers() -> None:
    estimate.check_space(Path("s"), 10, 10)
    with pytest.raises(DiskSpaceError, match=r"11\.0 kB to s, where 10\.0 kB are free"):
        estimate.check_space(Path("s"), 11_000, 10_000)


def test_of_tokens_there_are_as_many_rows_as_the_region_can_have() -> None:
    def rows(pools: str) -> int:
        return estimate.rows_of(parse_pools(pools), 7, 3)

    assert rows("prompt.last,response.mean") == 2
    assert rows("prompt.tokens") == 7
    assert rows("prompt.last,prompt.tokens,response.tokens,all.tokens") == 1 + 7 + 3 + 10


def test_an_example_takes_its_vectors_and_its_metadata_at_every_layer() -> None:
    columns = {"example_id": [str(row) for row in range(50)], "question": ["why?"] * 50}

    def batch(layer: int) -> RowBatch:
        return RowBatch(
            vectors=np.zeros((50, 100), np.float32), constants={"layer": layer}, columns=columns
        )

    one = estimate.bytes_per_example([batch(0)], 50)
    assert 400 < one < 500
    assert estimate.bytes_per_example([batch(0), batch(1)], 50) == 2 * one
    assert estimate.bytes_per_example([], 0) == 0.0


def test_memory_is_that_of_the_process_on_a_cpu() -> None:
    watch = estimate.MemoryWatch(torch.device("cpu"))
    before = watch.peak()
    held = np.ones(1 << 22)
    assert watch.peak() >= before > 1 << 20
    assert held[0] == 1


def test_plain_values() -> None:
    found = estimate.CaptureEstimate(
        examples=1, rows=2, bytes=3, free_bytes=4, peak_memory=5, memory_of="cpu", seconds=90.0
    )
    assert found.as_dict()["minutes"] == 1.5
