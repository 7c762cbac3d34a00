"""Long attacks on what the store promises: a part in every run, all in `make torture`."""

import os

TORTURE = os.environ.get("ACTSTORE_TORTURE") == "all"
"""Whether to try everything, as `make torture` does."""


def examples(number: int) -> int:
    """Return how many examples of so many Hypothesis draws: a third every day, others each time."""
    return number if TORTURE else number // 3
