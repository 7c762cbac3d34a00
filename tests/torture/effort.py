"""Long attacks on what the store promises: a part in every run, all in `make torture`."""

import os

TORTURE = os.environ.get("ACTSTORE_TORTURE") == "all"
"""Whether to try everything, as `make torture` does."""
