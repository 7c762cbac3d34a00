"""Parallel work: all of it done, none of it left running, and nothing inherited by a fork."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterable

import pytest

from actstore.storage import threads
from tests.children import children


def _ordered(work: Callable[[int], object], items: Iterable[int]) -> object:
    return threads.in_parallel(work, items)


both = pytest.mark.parametrize("parallel", [_ordered, threads.share], ids=["in_parallel", "share"])


def test_results_come_in_order() -> None:
    def slow(number: int) -> int:
        time.sleep(0.001 * (5 - number % 5))
        return number * number

    assert threads.in_parallel(slow, range(40)) == [number * number for number in range(40)]
    assert threads.in_parallel(slow, []) == []


def test_every_item_is_shared_out_once() -> None:
    seen: list[int] = []
    threads.share(seen.append, range(1000))
    assert sorted(seen) == list(range(1000))
    threads.share(seen.append, [])
    assert len(seen) == 1000


def test_sharing_from_within_the_threads_does_not_wait_for_itself() -> None:
    seen: list[int] = []

    def outer(first: int) -> None:
        threads.share(seen.append, range(first, first + 10))

    threads.in_parallel(outer, range(0, 200, 10))
    assert sorted(seen) == list(range(200))


@both
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_nothing_works_on_after_an_error(
    parallel: Callable[[Callable[[int], object], Iterable[int]], object],
    error: type[BaseException],
) -> None:
    working: list[int] = []

    def work(number: int) -> None:
        if number == 1:
            raise error("no")
        working.append(number)
        time.sleep(0.02)
        working.remove(number)

    with pytest.raises(error):
        parallel(work, range(50))
    assert working == []


def test_a_forked_process_has_threads_of_its_own() -> None:
    """Its parent's pool looks busy to it for ever."""
    assert threads.in_parallel(abs, range(-8, 8))
    assert any(thread.name.startswith("actstore") for thread in threading.enumerate())
    child = multiprocessing.get_context("fork").Process(target=_work)
    child.start()
    child.join(60)
    assert child.exitcode == 7


def _work() -> None:
    raise SystemExit(sum(threads.in_parallel(int, [3, 4])))


def _interrupted_as_a_thread_begins() -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            threads.in_parallel(abs, [-1])


def test_ctrl_c_while_a_thread_begins_lets_the_process_end() -> None:
    child = children.Process(target=_interrupted_as_a_thread_begins)
    child.start()
    child.join(60)
    code = child.exitcode
    child.kill()
    child.join()
    assert code == 0
