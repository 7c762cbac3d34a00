"""Parallel work: all of it done, none of it left running, and nothing inherited by a fork."""

from __future__ import annotations

import multiprocessing
import random
import signal
import threading
import time
from _thread import start_new_thread
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any

import pytest

from actstore.storage import threads
from tests.children import children
from tests.torture.effort import TORTURE

INTERRUPTS = 5_000 if TORTURE else 300


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
    assert threads.pool()._threads
    child = multiprocessing.get_context("fork").Process(target=_work)
    child.start()
    child.join(60)
    assert child.exitcode == 7


def _work() -> None:
    raise SystemExit(sum(threads.in_parallel(int, [3, 4])))


def _interrupted_as_a_thread_begins() -> None:
    def interrupted(*given: Any) -> None:
        start_new_thread(*given)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "start_new_thread", interrupted)
        with pytest.raises(KeyboardInterrupt):
            threads.in_parallel(abs, [-1])
    assert threads.in_parallel(abs, [-1, 2]) == [1, 2]


def _interrupted_again_and_again() -> None:
    """Be interrupted at random moments of handing out work and waiting for it."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    moments = random.Random(0)
    interrupted = 0
    while interrupted < INTERRUPTS:
        try:
            signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-5, 2e-3))
            while True:
                assert threads.in_parallel(abs, [-1, 2]) == [1, 2]
                threads.share(abs, [-1, 2])
                with threads.Pool(2) as pool:
                    assert list(pool.map(abs, [-1, 2])) == [1, 2]
        except KeyboardInterrupt:
            interrupted += 1
    assert threads.in_parallel(abs, [-1, 2]) == [1, 2]


@pytest.mark.parametrize("work", [_interrupted_as_a_thread_begins, _interrupted_again_and_again])
def test_ctrl_c_lets_threads_work_on_and_the_process_end(work: Callable[[], None]) -> None:
    child = children.Process(target=work)
    child.start()
    child.join(120)
    code = child.exitcode
    child.kill()
    child.join()
    assert code == 0


def test_a_task_is_cancelled_or_done() -> None:
    begins, ends = Lock(), Lock()
    begins.acquire()
    ends.acquire()

    def work() -> int:
        begins.release()
        ends.acquire()
        return 3

    with threads.Pool(1) as pool:
        begun = pool.submit(work)
        waiting = pool.submit(abs, -1)
        begins.acquire()
        cancelled = begun.cancel(), waiting.cancel(), waiting.cancel()
        ends.release()
        assert cancelled == (False, True, True)
        assert begun.result() == 3
        assert not begun.cancel()
        with pytest.raises(threads.Cancelled):
            waiting.result()
        failing = pool.submit(int, "x")
        with pytest.raises(ValueError, match="'x'"):
            failing.result()
        assert failing.has_failed
        assert not begun.has_failed


def test_a_pool_that_is_left_by_an_error_ends_what_it_has_begun_and_begins_no_more() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        time.sleep(0.02)
        done.append(number)

    def leave() -> None:
        with threads.Pool(2) as pool:
            tasks = [pool.submit(work, number) for number in range(50)]
            tasks[0].wait()
            raise KeyError

    with pytest.raises(KeyError):
        leave()
    much = len(done)
    assert 1 <= much < 50
    time.sleep(0.05)
    assert len(done) == much
    with threads.Pool(2) as pool:
        for number in range(5):
            pool.submit(work, number)
    assert len(done) == much + 5


def test_a_closed_pool_does_what_it_is_given_in_the_thread_that_asks() -> None:
    pool = threads.Pool(2)
    assert pool.submit(threading.get_ident).result() != threading.get_ident()
    pool.close()
    pool.close()
    assert pool.submit(threading.get_ident).result() == threading.get_ident()


def test_threads_are_seen_by_profilers() -> None:
    seen: set[str] = set()
    threading.setprofile(lambda frame, event, argument: seen.add(frame.f_code.co_name))
    try:
        with threads.Pool(1) as pool:
            pool.submit(_work_that_is_seen).result()
    finally:
        threading.setprofile(None)
    assert "_work_that_is_seen" in seen


def _work_that_is_seen() -> None:
    pass
