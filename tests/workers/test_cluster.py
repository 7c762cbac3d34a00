"""What is told of workers that are gone, and which errors come back whole from a worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from actstore.errors import IngestError, LayoutError, UsageError
from actstore.workers.cluster import raise_own, reason_of, sendable


class TaskError(Exception):
    """As Ray wraps what a task raised: the traceback is its text."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(
            'ray::Worker.read()\n  File "/a/worker.py", line 3, in read\n    pass\n'
            f'  File "/a/b/shard.py", line 12, in f\n{type(cause).__name__}: {cause}'
        )
        self.cause = cause


def test_the_reason_is_one_line_and_says_where() -> None:
    assert reason_of(TaskError(KeyError("x"))) == "KeyError: 'x' (shard.py:12)"
    assert reason_of(RuntimeError("\nthe actor died\nsince 3")) == "RuntimeError: the actor died"
    assert reason_of(ValueError()) == "ValueError"


def test_errors_of_ours_are_raised_and_others_are_not() -> None:
    with pytest.raises(UsageError, match="give less"):
        raise_own(TaskError(UsageError("give less")))
    raise_own(TaskError(KeyError("x")))


def test_an_error_is_sent_as_the_nearest_that_can_be_made_of_its_text() -> None:
    with pytest.raises(LayoutError) as plain, sendable():
        raise LayoutError("no", Path("file"))
    assert str(plain.value) == "file: no"

    class Refusal(IngestError):
        def __init__(self, number: int) -> None:
            super().__init__(f"number {number}")

    with pytest.raises(IngestError, match="number 7") as sent, sendable():
        raise Refusal(7)
    assert type(sent.value) is IngestError
