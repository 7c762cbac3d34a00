"""A pytest plugin of the mutants' runs: which test calls which function, and only some tests.

``MUTANTS_WATCH`` names a file for what was seen: per test that passed its seconds and the
functions below ``MUTANTS_PACKAGE`` that it called. ``MUTANTS_ONLY`` names a file with the tests
to run. The runs load it by the name ``watching``, from this folder.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest


class Watch:
    """Notes calls while tests run."""

    def __init__(self, package: str, result: Path) -> None:
        self._package = package
        self._result = result
        self._calls: set[tuple[str, str]] = set()
        self._codes: dict[object, tuple[str, str] | None] = {}
        self._tests: dict[str, dict[str, Any]] = {}
        self._failed: set[str] = set()

    def _called(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        try:
            known = self._codes[code]
        except KeyError:
            inside = code.co_filename.startswith(self._package)
            known = (code.co_filename, code.co_qualname) if inside else None
            self._codes[code] = known
        if known is not None:
            self._calls.add(known)

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._calls.clear()
        threading.settrace(self._called)
        sys.settrace(self._called)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = self._tests.setdefault(report.nodeid, {"seconds": 0.0})
        found["seconds"] += report.duration
        if not report.passed:
            self._failed.add(report.nodeid)
        if report.when == "teardown":
            sys.settrace(None)
            root = os.path.dirname(self._package.rstrip(os.sep))
            found["calls"] = sorted([os.path.relpath(p, root), n] for p, n in self._calls)

    def pytest_sessionfinish(self) -> None:
        for test in self._failed:
            del self._tests[test]
        self._result.write_text(json.dumps(self._tests))


class Only:
    """Leaves out all tests but some."""

    def __init__(self, wanted: set[str]) -> None:
        self._wanted = wanted

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        items[:] = [item for item in items if item.nodeid in self._wanted]


def pytest_configure(config: pytest.Config) -> None:
    if result := os.environ.get("MUTANTS_WATCH"):
        config.pluginmanager.register(Watch(os.environ["MUTANTS_PACKAGE"] + os.sep, Path(result)))
    if wanted := os.environ.get("MUTANTS_ONLY"):
        config.pluginmanager.register(Only(set(json.loads(Path(wanted).read_text()))))
