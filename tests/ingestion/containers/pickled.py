"""Values that pickle as calls of anything, for files that must be refused."""

from __future__ import annotations

from typing import Any

import torch


class Reduced:
    """Pickles as a call of anything, with a state if wanted."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


def storage(count: int = 4) -> Any:
    """A storage of zeros, which a tensor may be built over."""
    return torch.zeros(count)._typed_storage()  # type: ignore[no-untyped-call]
