"""The order of the tests: what takes long comes first, so that no worker is left alone with it."""

from __future__ import annotations

import pytest

LONG = ("tests/test_docs.py", "tests/golden/", "tests/torture/", "tests/test_wheel.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of ``LONG`` before all others; within each the order stays."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))
