"""What a process remembers stays within its bounds, for all threads and forked processes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from actstore.storage.remembered import Remembered


def test_the_one_not_asked_for_the_longest_goes_first() -> None:
    known: Remembered[str, int] = Remembered(3)
    for name, value in (("a", 1), ("b", 2), ("c", 3)):
        known.put(name, value)
    assert known.get("a") == 1
    known.put("d", 4)
    assert [known.get(name) for name in "abcd"] == [1, None, 3, 4]


def test_values_weigh_what_they_are_said_to_weigh() -> None:
    known: Remembered[int, bytes] = Remembered(10, len)
    known.put(1, b"1234567")
    known.put(1, b"12345")  # in its place
    known.put(2, b"12345")
    assert known.get(1)
    assert known.get(2)
    known.put(3, b"1")
    assert known.get(1) is None
    known.put(4, b"12345678901")  # more than there is room for
    assert [known.get(each) for each in (1, 2, 3, 4)] == [None] * 4
    known.put(5, b"1")
    assert known.get(5) == b"1"


def test_all_share_the_first() -> None:
    known: Remembered[str, list[int]] = Remembered(3)
    first: list[int] = []
    assert known.shared("a", first) is first
    assert known.shared("a", [1]) is first
    known.put("a", [2])
    assert known.shared("a", []) == [2]


def test_threads_lose_nothing_within_the_bounds() -> None:
    known: Remembered[int, int] = Remembered(1_000)

    def work(start: int) -> None:
        for number in range(start, start + 250):
            known.put(number, number)
            assert known.get(number) == number

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(0, 1_000, 250)))
    assert [known.get(number) for number in range(1_000)] == list(range(1_000))


def test_a_forked_process_does_not_wait_for_threads_that_it_does_not_have() -> None:
    known: Remembered[str, int] = Remembered(3)
    known.put("a", 1)
    with known._lock:  # as a thread of the parent may hold it
        child = os.fork()
        if not child:
            os._exit(0 if known.get("a") == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
