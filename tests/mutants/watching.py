"""A pytest plugin of the mutants' runs: which test enters which block, and only some tests."""

from __future__ import annotations

import json
import os
import resource
import sys
import sysconfig
import time
from collections.abc import Generator, Mapping, Sequence
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
        if isinstance(item, pytest.Function):
            for definitions in item._fixtureinfo.name2fixturedefs.values():
                shared = shared.union(*(self._made.get(each, ()) for each in definitions))
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
    """Runs some tests, each with seconds of computing that it may take.

    Args:
        allowed: the seconds of each test in the order that they run in, or those of each in a file.
        without: tests that are left out.
        likely: a word; of a file the tests that speak of it come first.
        failed: where the name of a test that fails is written.
    """

    def __init__(
        self, allowed: Mapping[str, float], without: Sequence[str], likely: str, failed: Path
    ) -> None:
        self._allowed = allowed
        self._without = set(without)
        self._likely = likely
        self._failed = failed
        self._places = {test: place for place, test in enumerate(allowed)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        names = {item: _named(item.nodeid, self._allowed) for item in items}
        items[:] = [item for item in items if names[item] and item.nodeid not in self._without]
        items.sort(key=lambda item: (self._places[names[item]], not self._speaks(item)))

    def _speaks(self, item: pytest.Item) -> bool:
        code = getattr(getattr(item, "function", None), "__code__", None)
        return code is not None and self._likely in code.co_names

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        allowed = self._allowed[_named(item.nodeid, self._allowed)]
        until = int(time.process_time() + allowed) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (until, most))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.write_text(report.nodeid)


def _named(test: str, allowed: Mapping[str, float]) -> str:
    """Return the test's name, or its file's, whichever is among these; empty where none is."""
    return next((name for name in (test, test.partition("::")[0]) if name in allowed), "")
