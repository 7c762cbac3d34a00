"""Threads that copy, hash and write in parallel: NumPy and the system release the lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import Protocol, TypeVar

_Item = TypeVar("_Item")
Result = TypeVar("Result")


def workers() -> int:
    """Return how many threads work at a time."""
    return min(4, os.cpu_count() or 1)


@cache
def pool() -> ThreadPoolExecutor:
    """Return the threads that all of storage shares."""
    return ThreadPoolExecutor(workers(), thread_name_prefix="actstore")


@cache
def disk() -> ThreadPoolExecutor:
    """Return threads that wait for the disk, so that others work meanwhile."""
    return ThreadPoolExecutor(16, thread_name_prefix="actstore-disk")


# A forked process (a data loader's worker) has none of its parent's threads.
os.register_at_fork(after_in_child=pool.cache_clear)
os.register_at_fork(after_in_child=disk.cache_clear)


class Threads(Protocol):
    """:func:`pool` or :func:`disk`."""

    def __call__(self) -> ThreadPoolExecutor: ...

    def cache_clear(self) -> None: ...


def submit(threads: Threads, work: Callable[..., Result], *given: object) -> Future[Result]:
    """Have something done by one of the threads of a pool that is kept.

    Ctrl-C may come while a thread is being started, of which its pool then knows nothing: the
    process would wait for it for ever. So that pool ends, and whoever comes next has another.
    """
    found = threads()
    try:
        return found.submit(work, *given)
    except BaseException:
        threads.cache_clear()
        found.shutdown(wait=False)
        raise


def in_parallel(
    work: Callable[[_Item], Result],
    items: Iterable[_Item],
    threads: Threads = pool,
) -> list[Result]:
    """Return ``work`` of each item, done in several threads; not to be called in one of them.

    Whatever happens, an error or Ctrl-C, none of the threads works on when this is left.
    """
    futures: list[Future[Result]] = []
    try:
        for item in items:
            futures.append(submit(threads, work, item))
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()
        wait(futures)


def share(work: Callable[[_Item], object], items: Iterable[_Item]) -> None:
    """Call ``work`` with each item, in this thread and in those of the pool that are free.

    For short work: when all other threads are busy this one does it alone, and does not
    wait for a thread to wake up. It may be called from one of the pool's own threads.
    """
    waiting = list(items)
    left = iter(waiting)  # taking the next item is one step, whichever thread does it

    def drain() -> None:
        for item in left:
            work(item)

    helpers = [submit(pool, drain) for _ in range(min(len(waiting), workers()) - 1)]
    try:
        drain()
    finally:
        # Those that have begun must end: the caller's memory may go after this.
        begun = [helper for helper in helpers if not helper.cancel()]
        wait(begun)
    for helper in begun:
        helper.result()
