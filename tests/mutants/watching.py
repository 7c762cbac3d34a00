"""A pytest plugin of the mutants' runs: which test enters which block, and only some tests."""

from __future__ import annotations

import json
import os
import resource
import sys
import sysconfig
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.mutants.blocks import Marking


class Watch:
    """Notes, per test that passes, its seconds and the blocks entered on its behalf.

    That is what it enters itself, what fixtures did that it shares with others, and what was
    done on importing its file.
    """

    def __init__(self, marking: Marking, result: Path) -> None:
        self._marking = marking
        self._seen = marking.seen
        self._result = result
        self._imported: set[int] = set()
        self._made: dict[object, set[int]] = {}
        self._tests: dict[str, dict[str, Any]] = {}
        self._failed: set[str] = set()

    def pytest_collection_finish(self) -> None:
        self._imported = set(self._seen)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._seen.clear()
        began = _computed()
        result = yield
        shared: set[int] = set()
        for definitions in item._fixtureinfo.name2fixturedefs.values():
            for definition in definitions:
                shared |= self._made.get(definition, set())
        self._tests[item.nodeid] = {
            "seconds": round(_computed() - began, 2),
            "marks": self._marking.marks(self._seen | shared | self._imported),
        }
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[object]
    ) -> Generator[None, object, object]:
        if fixturedef.scope == "function":
            return (yield)
        before = set(self._seen)
        self._seen.clear()
        try:
            return (yield)
        finally:
            self._made[fixturedef] = self._made.get(fixturedef, set()) | self._seen
            self._seen |= before

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self._failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        for test in self._failed:
            del self._tests[test]
        installed = sysconfig.get_path("platlib")
        libraries = [
            name
            for name, module in list(sys.modules.items())
            if (getattr(module, "__file__", None) or "").startswith(installed)
        ]
        self._result.write_text(json.dumps({"tests": self._tests, "libraries": libraries}))


def _computed() -> float:
    """Return the seconds that this process and those it waited for have computed."""
    return sum(os.times()[:4])


class Only:
    """Runs some tests in the order given, each with seconds of computing that it may take."""

    def __init__(self, allowed: Mapping[str, float], failed: Path) -> None:
        self._allowed = allowed
        self._places = {test: place for place, test in enumerate(allowed)}
        self._failed = failed

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid in self._places]
        items.sort(key=lambda item: self._places[item.nodeid])

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        until = int(time.process_time() + self._allowed[item.nodeid]) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (until, most))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.write_text(report.nodeid)
