"""Threads that copy, hash and write in parallel: NumPy and the system release the lock.

Not those of ``concurrent.futures``: their locks are written in Python, and where Ctrl-C comes while
the main thread is within one it stays locked; a thread waits for it then, and the process for the
thread, for ever. Here threads meet in calls of the interpreter alone, which are done or not.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from _thread import start_new_thread
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache, partial
from queue import Empty, SimpleQueue
from threading import Lock
from types import TracebackType
from typing import Generic, Protocol, TypeVar

_Item = TypeVar("_Item")
Result = TypeVar("Result")

_LOOK = 0.5
"""Seconds after which a waiting thread looks again: an interrupt may have kept what wakes it."""


class Cancelled(Exception):
    """What a task would have made is asked for though it was cancelled: a mistake of ours."""


class Task(Generic[Result]):
    """Something that one of a pool's threads does, once."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work: Callable[[], Result] | None = work
        self._begun = Lock()  # locked by who begins it, or cancels it
        self._over = Lock()
        self._over.acquire()
        self._is_over = False
        self._cancelled = False
        self._found: list[Result] = []
        self._error: BaseException | None = None

    def cancel(self) -> bool:
        """Do without it, if no thread has begun; say whether none ever will."""
        if self._begun.acquire(blocking=False):
            self._cancelled = True
            self._end()
        return self._cancelled

    def wait(self) -> None:
        """Return once it is done, has failed or is cancelled."""
        while not self._is_over:
            if self._over.acquire(timeout=_LOOK):
                self._over.release()  # for whoever waits beside

    @property
    def is_over(self) -> bool:
        """Whether it is done, has failed or is cancelled."""
        return self._is_over

    @property
    def has_failed(self) -> bool:
        """Whether it was done and raised something."""
        return self._is_over and self._error is not None

    def result(self) -> Result:
        """Wait for what it makes, and return it; or raise what it raised."""
        self.wait()
        if self._error is not None:
            try:
                raise self._error
            finally:
                del self  # the error knows this frame, which would know the error
        if self._cancelled:
            raise Cancelled
        return self._found[0]

    def run(self) -> None:
        """Do it in this thread, unless it was begun or cancelled."""
        if not self._begun.acquire(blocking=False):
            return
        work = self._work
        assert work is not None
        try:
            self._found.append(work())
        except BaseException as error:  # handed to who asks for the result
            self._error = error
        del work
        self._end()

    def _end(self) -> None:
        self._work = None  # and what it holds
        self._is_over = True
        self._over.release()


class Pool:
    """Threads that do tasks in the order in which they come; as a context it ends with them.

    Args:
        size: threads at most, each started when a task comes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._process = os.getpid()
        self._threads = 0
        self._closed = False
        self._coming: SimpleQueue[Task[object] | None] = SimpleQueue()
        self._left: set[Task[object]] = set()
        # No thread may hold something of Python's, of Arrow's, when the interpreter ends.
        atexit.register(self.close)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            wait([*self._left])
        self.close()

    def submit(self, work: Callable[..., Result], *given: object) -> Task[Result]:
        """Have something done by one of the threads; by this one where the pool is closed."""
        task = Task(partial(work, *given))
        if self._closed:  # the interpreter ends, and what goes with it still has something to do
            task.run()
            return task
        self._coming.put(task)  # type: ignore[arg-type]  # its result is nobody's here
        self._left.add(task)  # type: ignore[arg-type]
        if task.is_over:  # as fast as that
            self._left.discard(task)
        if self._threads < self._size:
            try:
                start_new_thread(_serve, (self._coming, self._left))
            except RuntimeError:  # the system allows no more
                if not self._threads:
                    task.cancel()
                    raise
            else:
                # Behind it: where an interrupt comes between, there is one more than it knows.
                self._threads += 1
        return task

    def map(self, work: Callable[[_Item], Result], items: Iterable[_Item]) -> Iterator[Result]:
        """Yield ``work`` of each item, in order; all of them are begun at once."""
        tasks = [self.submit(work, item) for item in items]
        return (task.result() for task in tasks)

    def close(self) -> None:
        """Cancel what no thread has begun, and wait for what one has."""
        if self._process != os.getpid():
            return  # a fork has none of its parent's threads
        atexit.unregister(self.close)
        self._closed = True
        with contextlib.suppress(Empty):
            while True:
                if (task := self._coming.get_nowait()) is not None:
                    task.cancel()
                    self._left.discard(task)
        for _ in range(self._threads + 1):  # one may be unknown
            self._coming.put(None)
        give_up([*self._left])


def _serve(coming: SimpleQueue[Task[object] | None], left: set[Task[object]]) -> None:
    # As threads of ``threading`` are: seen by who debugs, profiles or measures coverage.
    sys.settrace(threading.gettrace())
    sys.setprofile(threading.getprofile())
    while (task := coming.get()) is not None:
        task.run()
        left.discard(task)
        del task  # and what it made


def wait(tasks: Iterable[Task[Result]]) -> None:
    """Return once all of them are done, have failed or are cancelled."""
    for task in tasks:
        task.wait()


@cache
def workers() -> int:
    """Return how many threads work at a time."""
    return min(4, os.cpu_count() or 1)


@cache
def pool() -> Pool:
    """Return the threads that all of storage shares."""
    return Pool(workers())


@cache
def disk() -> Pool:
    """Return threads that wait for the disk, so that others work meanwhile."""
    return Pool(16)


class Threads(Protocol):
    """:func:`pool` or :func:`disk`."""

    def __call__(self) -> Pool: ...

    def cache_clear(self) -> None: ...


def renewed_in_forks(threads: Threads) -> None:
    """Let a forked process (a data loader's worker) make a pool of its own."""
    os.register_at_fork(after_in_child=threads.cache_clear)


renewed_in_forks(pool)
renewed_in_forks(disk)


def submit(threads: Threads, work: Callable[..., Result], *given: object) -> Task[Result]:
    """Have something done by one of the threads of a pool that is kept."""
    return threads().submit(work, *given)


def in_parallel(
    work: Callable[[_Item], Result],
    items: Iterable[_Item],
    threads: Threads = pool,
) -> list[Result]:
    """Return ``work`` of each item, done in several threads; not to be called in one of them.

    Whatever happens, an error or Ctrl-C, none of the threads works on when this is left.
    """
    tasks: list[Task[Result]] = []
    try:
        for item in items:
            tasks.append(submit(threads, work, item))
        return [task.result() for task in tasks]
    finally:
        give_up(tasks)


def give_up(tasks: Collection[Task[Result]]) -> None:
    """Cancel what no thread has begun, and wait for what one has."""
    for task in tasks:
        task.cancel()
    wait(tasks)


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
    begun = helpers
    try:
        drain()
    finally:
        # Those that have begun must end: the caller's memory may go after this.
        begun = [helper for helper in helpers if not helper.cancel()]
        wait(begun)
    for helper in begun:
        helper.result()
