"""A process that has imported the libraries that tests use, and forks for each run of tests.

Most of a short run is importing; what is imported once is there in all forks. The package and
its tests are never imported here: a fork finds them as they stand then.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
import warnings
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest
from hypothesis import Phase, settings

from tests.mutants.blocks import Marking
from tests.mutants.watching import Only, Watch

THREADED = ("polars",)
"""Start threads on being imported, which a fork would lack."""
_MEMORY, _FILE = 24 << 30, 4 << 30
"""Bytes of memory and in one file that a mutant may ask for."""
_OFTEN = 0.02
"""Seconds between two looks at a run."""


def serve(root: str, package: str) -> None:
    """Answer each line of the input, the run that is asked for, with its exit code.

    Args:
        root: where this module was imported from.
        package: the package that is changed.
    """
    answers = os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    signal.signal(signal.SIGTERM, _leave)
    for line in sys.stdin:
        asked = json.loads(line)
        _import(asked["libraries"])
        gc.collect()
        gc.freeze()
        child = os.fork()
        if child == 0:
            os.dup2(nothing, 0)
            answers.close()
            _run(asked, root, package)
        print(json.dumps(_ended(child, asked["wait"])), file=answers, flush=True)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _import(names: list[str]) -> None:
    for name in names:
        if name not in sys.modules and name.partition(".")[0] not in THREADED:
            with contextlib.suppress(Exception), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(name)


def _ended(child: int, wait: float) -> int | None:
    """Return a fork's exit code, less than 0 for a signal, None where it took too long."""
    until = time.monotonic() + wait
    try:
        while time.monotonic() < until:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(_OFTEN)
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):  # with all that it started
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def _run(asked: dict[str, Any], root: str, package: str) -> NoReturn:
    """Run pytest, as the first of a group of processes."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Not the address space: drivers of accelerators reserve more of it than there is memory.
        for kind, wanted in (
            (resource.RLIMIT_CPU, asked["seconds"]),
            (resource.RLIMIT_DATA, _MEMORY),
            (resource.RLIMIT_FSIZE, _FILE),
            (resource.RLIMIT_CORE, 0),
        ):
            _, most = resource.getrlimit(kind)
            limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
            resource.setrlimit(kind, (limit, most))
        # What fails need not be made small, and what made one mutant fail is not for the next.
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutants", database=None, deadline=None, phases=phases)
        settings.load_profile("mutants")
        words = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *asked["files"]]
        # Imported here already, so their assertions stay as they are.
        words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        words.append(f"--hypothesis-seed={asked['seed']}")
        plugin: object
        if asked["seen"] is None:
            words.append("-x")
            chosen = (asked["allowed"], asked["without"], asked["likely"])
            plugin = Only(*chosen, Path(asked["failed"]))
        else:
            marking = Marking(Path.cwd(), package)
            sys.meta_path.insert(0, marking)
            plugin = Watch(marking, Path(asked["seen"]))
        # The project's own tests are imported from where they lie.
        sys.path.remove(root)
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        code = int(pytest.main(words, plugins=[plugin]))
    finally:
        os._exit(code)
