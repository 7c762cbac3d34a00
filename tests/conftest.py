"""The order of the tests, what takes long first; and what the garbage collector need not see."""

from __future__ import annotations

import gc

import pytest

LONG = ("tests/test_docs.py", "tests/golden/", "tests/torture/", "tests/test_wheel.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of ``LONG`` before all others; within each the order stays."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


def pytest_collection_finish() -> None:
    """Spare the garbage collector what all tests have imported: it stays to the end anyway."""
    gc.collect()
    gc.freeze()
