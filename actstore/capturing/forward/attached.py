"""Hooks that are on a model for as long as a block runs, and off it however the block ends."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from torch.utils.hooks import RemovableHandle


class Attached:
    """A context manager that attaches hooks; whoever derives from it says which."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def _hooks(self) -> Iterator[RemovableHandle]:
        """Attach one hook after the other."""
        raise NotImplementedError

    def _reset(self) -> None:
        """Let go of what was kept."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            for handle in self._hooks():
                self._handles.append(handle)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove every hook and let go of what was kept."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._reset()
