"""Items made ahead: in order, only as far ahead as asked, errors in their turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from actstore.training.prefetch import Ahead


def _tasks(count: int, begun: list[int]) -> Iterator[Callable[[], int]]:
    def work(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number

    for number in range(count):
        begun.append(number)
        yield partial(work, number)


@pytest.mark.parametrize("depth", [0, 1, 2, 5, 40])
def test_items_come_in_order(depth: int) -> None:
    assert list(Ahead(lambda: _tasks(20, []), depth)) == list(range(20))
    assert list(Ahead(lambda: _tasks(0, []), depth)) == []


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_nothing_is_begun_further_ahead(depth: int) -> None:
    begun: list[int] = []
    ahead = Ahead(lambda: _tasks(20, begun), depth)
    assert begun == []
    for number in range(5):
        assert next(ahead) == number
        assert len(begun) == number + 1 + depth


def test_work_is_done_in_other_threads_meanwhile() -> None:
    done = threading.Event()
    tasks = iter([lambda: "first", lambda: done.set() or threading.get_ident()])  # type: ignore[func-returns-value]
    ahead = Ahead(lambda: tasks, 1)
    assert next(ahead) == "first"
    assert done.wait(10)
    assert next(ahead) != threading.get_ident()


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_comes_in_its_turn(depth: int) -> None:
    def fail() -> int:
        raise ValueError("no third")

    tasks = [lambda: 1, lambda: 2, fail, lambda: 4]
    ahead = Ahead(lambda: iter(tasks), depth)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(ValueError, match="no third"):
        next(ahead)


@pytest.mark.parametrize("depth", [0, 3])
def test_after_an_error_it_begins_again(depth: int) -> None:
    failed: list[int] = []

    def once() -> int:
        if failed:
            return 1
        failed.append(1)
        raise ValueError("first")

    ahead = Ahead(lambda: iter([once, lambda: 2]), depth)
    with pytest.raises(ValueError, match="first"):
        next(ahead)
    assert list(ahead) == [1, 2]
    assert list(ahead) == []


def test_when_closed_nothing_comes() -> None:
    begun: list[int] = []
    ahead = Ahead(lambda: _tasks(20, begun), 2)
    next(ahead)
    ahead.close()
    assert list(ahead) == []
    assert len(begun) == 3
