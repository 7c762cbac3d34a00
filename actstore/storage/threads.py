"""Threads that copy, hash and write in parallel: NumPy and the system release the lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


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


def in_parallel(
    work: Callable[[_Item], _Result],
    items: Iterable[_Item],
    threads: Callable[[], ThreadPoolExecutor] = pool,
) -> list[_Result]:
    """Return ``work`` of each item, done in several threads; not to be called in one of them.

    Whatever happens, an error or Ctrl-C, none of the threads works on when this is left.
    """
    futures = [threads().submit(work, item) for item in items]
    try:
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

    helpers = [pool().submit(drain) for _ in range(min(len(waiting), workers()) - 1)]
    try:
        drain()
    finally:
        # Those that have begun must end: the caller's memory may go after this.
        begun = [helper for helper in helpers if not helper.cancel()]
        wait(begun)
    for helper in begun:
        helper.result()
