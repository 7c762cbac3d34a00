"""Reads from vLLM which requests the step that runs now is made of, and in which order."""

from __future__ import annotations

from typing import Any

from actstore.errors import HookError, ModelError

_PREFIX = "actstore"


class Schedule:
    """What vLLM's scheduler chose for the step that runs now.

    The runner's batch says in which order requests lie in a step, the scheduler how many tokens
    each one has. Neither is part of vLLM's public interface, so what is read here is held
    against the model's inputs in every step (:class:`~actstore.capturing.serving.ledger.Ledger`).
    """

    def __init__(self, runner: Any, version: str) -> None:
        """Listen to what the runner is told to execute.

        Raises:
            ModelError: this version of vLLM keeps its batches elsewhere.
        """
        if not hasattr(getattr(runner, "input_batch", None), "req_ids"):
            raise ModelError(
                f"vLLM {version} keeps its batches in another way than 0.32 does, which was "
                "tested: install that version, or use --engine local"
            )
        self._runner = runner
        self._counts: dict[str, int] = {}
        self.batch = 0
        """Number of the batch whose requests are expected."""
        execute = runner.execute_model

        def heard(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            self._counts = dict(scheduler_output.num_scheduled_tokens)
            return execute(scheduler_output, *args, **kwargs)

        runner.execute_model = heard

    def begin(self) -> int:
        """Expect the requests of a new batch; return its number."""
        self.batch += 1
        return self.batch

    def request(self, row: int) -> str:
        """Return what a text of the batch is called in vLLM, which adds something of its own."""
        return f"{_PREFIX}-{self.batch}-{row}"

    def __call__(self) -> list[tuple[int, int]]:
        """Return the row and the number of tokens of each request of the step, in its order."""
        order = [each for each in self._runner.input_batch.req_ids if each in self._counts]
        if len(order) != len(self._counts):
            raise HookError("vLLM's batch has other requests than its scheduler chose")
        return [(self.row(request), self._counts[request]) for request in order]

    def row(self, request: str) -> int:
        """Return which text of the batch a request is.

        Raises:
            HookError: it is none.
        """
        parts = request.split("-")
        if len(parts) < 3 or parts[:2] != [_PREFIX, str(self.batch)]:
            raise HookError(
                f"request {request!r} is none of this batch: nobody else may ask the engine while "
                "a capture runs"
            )
        return int(parts[2])
