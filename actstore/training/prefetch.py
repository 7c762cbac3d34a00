"""Prefetches batches in threads and returns them in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from typing import Generic, TypeVar

from actstore.storage.threads import Pool, Task, renewed_in_forks, submit, workers

_Item = TypeVar("_Item")


@cache
def batch_pool() -> Pool:
    """Return the threads that make batches: they copy, which releases Python's lock."""
    return Pool(workers())


@cache
def window_pool() -> Pool:
    """Return the threads that bring whole windows of rows, for which batches wait."""
    return Pool(2)


renewed_in_forks(batch_pool)
renewed_in_forks(window_pool)


class Ahead(Generic[_Item]):
    """Does tasks in order, ``depth`` of them ahead of the one that is asked for.

    What a task raises is raised in its turn; the next call then begins again, so that the
    same item can be tried once more. Nothing runs on for long when this is abandoned: no task
    starts unless one is asked for.

    Args:
        begin: returns the tasks that are still to be done; each makes one item.
        depth: how many to begin before they are asked for; 0 does each when it is.
    """

    def __init__(self, begin: Callable[[], Iterator[Callable[[], _Item]]], depth: int) -> None:
        self._begin = begin
        self._tasks: Iterator[Callable[[], _Item]] | None = None
        self._depth = depth
        self._begun: deque[Task[_Item]] = deque()

    def __iter__(self) -> Iterator[_Item]:
        return self

    def __next__(self) -> _Item:
        if self._tasks is None:
            self._tasks = self._begin()
        try:
            if not self._depth:
                return next(self._tasks)()
            while len(self._begun) <= self._depth:
                task = next(self._tasks, None)
                if task is None:
                    break
                self._begun.append(submit(batch_pool, task))
            if not self._begun:
                raise StopIteration
            return self._begun.popleft().result()
        except StopIteration:
            raise
        except BaseException:
            self._cancel()
            self._tasks = None
            raise

    def close(self) -> None:
        """Begin nothing more."""
        self._cancel()
        self._tasks = iter(())

    def _cancel(self) -> None:
        for task in self._begun:
            task.cancel()
        self._begun.clear()
