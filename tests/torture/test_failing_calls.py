"""Calls of the system fail in the C library, whoever makes them: the store stands all the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.storage.crashing import SCENARIOS
from tests.torture.effort import TORTURE

SOURCE = Path(__file__).with_name("failing.c")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the C library's part that fails."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("a C compiler on Linux makes the calls fail")
    made = tmp_path_factory.mktemp("failing") / "failing.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, SOURCE, "-ldl"], check=True)
    return made


@pytest.mark.parametrize("name", ["reading", *(SCENARIOS if TORTURE else ["label"])])
def test_a_failing_call_is_an_error_of_ours(library: Path, tmp_path: Path, name: str) -> None:
    child = subprocess.run(
        [sys.executable, "-m", "tests.torture.failing", name, tmp_path],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "LD_PRELOAD": str(library)},
    )
    assert child.returncode == 0, child.stderr
