"""BLAS has one thread while we call it from several, and what it had before afterwards."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest

from actstore.storage import blas

threadpoolctl = pytest.importorskip("threadpoolctl")


def threads() -> list[int]:
    found = threadpoolctl.ThreadpoolController().select(user_api="blas").info()
    return [each["num_threads"] for each in found]


@pytest.fixture(autouse=True)
def few_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "workers", lambda: 1 << 10)


def test_one_thread_while_anybody_asks() -> None:
    before = threads()
    assert np.prod(before) > 0
    with blas.one_thread():
        assert set(threads()) == {1}
        with blas.one_thread():
            assert set(threads()) == {1}
        assert set(threads()) == {1}
    assert threads() == before


def test_an_error_gives_the_threads_back() -> None:
    before = threads()
    with pytest.raises(ZeroDivisionError), blas.one_thread():
        raise ZeroDivisionError
    assert threads() == before


def test_nothing_changes_where_there_are_more_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "workers", lambda: 0)
    before = threads()
    assert not blas.is_ours()
    with blas.one_thread():
        assert threads() == before


def _in_a_fork(expected: list[int]) -> None:
    assert threads() == expected
    with blas.one_thread():
        assert set(threads()) == {1}
    assert threads() == expected


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_begins_anew() -> None:
    before = threads()
    with blas.one_thread():
        child = multiprocessing.get_context("fork").Process(target=_in_a_fork, args=(before,))
        child.start()
        child.join(60)
    assert child.exitcode == 0
