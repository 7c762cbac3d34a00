"""BLAS has one thread while ours multiply, and afterwards what it had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import actstore
from actstore.querying import blas, rough_scores


def of_blas() -> set[int]:
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine of two cores, whatever this one has and the tests were told."""
    monkeypatch.setattr(blas, "workers", lambda: 2)
    with threadpool_limits(2, user_api="blas"):
        if of_blas() != {2}:
            pytest.skip("this BLAS has one thread")
        yield


def test_whoever_leaves_last_there_is_what_there_was() -> None:
    both, first_is_out = Barrier(2), Barrier(2)

    def other() -> None:
        with blas.one_thread():
            both.wait()
            first_is_out.wait()

    thread = Thread(target=other)
    with blas.one_thread():
        thread.start()
        both.wait()
        assert of_blas() == {1}
    first_is_out.wait()
    thread.join()
    assert of_blas() == {2}


def test_an_error_within_changes_nothing_of_it() -> None:
    with pytest.raises(KeyboardInterrupt), blas.one_thread():
        raise KeyboardInterrupt
    assert of_blas() == {2}


def test_of_many_cores_products_have_more_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "workers", lambda: 1)
    with blas.one_thread():
        assert of_blas() == {2}


def test_products_of_a_search_have_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float16)
    store = actstore.open(tmp_path / "store", create=True)
    rows = {"example_id": [f"{row}" for row in range(50)]}
    store.write({"blocks.0.hook_resid_post": vectors}, rows, model="a")
    seen = []
    fill = rough_scores._Products._fill

    def watched(self: rough_scores._Products, stored: np.ndarray, out: np.ndarray) -> None:
        seen.append(of_blas())
        fill(self, stored, out)

    monkeypatch.setattr(rough_scores._Products, "_fill", watched)
    store.nearest(np.eye(8, dtype=np.float32), 3, layer=0)
    assert seen
    assert all(each == {1} for each in seen)
    assert of_blas() == {2}
