"""What the demo's stories are told with: paragraphs, commands, Python, a Hub on loopback."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actstore import cli
from tests.hub_server.clients import hub_env
from tests.hub_server.server import Hub

ROOT = Path(__file__).resolve().parents[1]


def say(text: str) -> None:
    """Print a paragraph of the story."""
    print(f"\n{textwrap.fill(' '.join(text.split()), 88)}\n", flush=True)


def shell(line: str) -> None:
    """Show a command, run it, and stop the demo if it fails."""
    print(f"$ {line}", flush=True)
    words = shlex.split(line)
    if words[0] == "python":
        child([sys.executable, *words[1:]])
        return
    code = cli.run(words[1:])
    if code:
        sys.exit(f"the demo stopped: `{line}` ended with code {code}")


def python(names: dict[str, Any], code: str) -> None:
    """Show a piece of Python and run it."""
    lines = textwrap.dedent(code).strip()
    print(textwrap.indent(lines, ">>> "), flush=True)
    exec(lines, names)


def child(command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    """Run a command of its own, with the checkout importable; stop the demo if it fails."""
    known = dict(os.environ) if environment is None else environment
    path = os.pathsep.join(filter(None, [str(ROOT), known.get("PYTHONPATH", "")]))
    done = subprocess.run(command, env={**known, "PYTHONPATH": path}, check=False)
    if done.returncode:
        sys.exit(f"the demo stopped: {shlex.join(command)} ended with code {done.returncode}")


@contextmanager
def hub(folder: Path, home: Path) -> Iterator[dict[str, str]]:
    """Run a Hub on loopback; what comes back is the environment of its clients.

    huggingface_hub and datasets read where the Hub is when they are imported, so that these are
    processes of their own.
    """
    with Hub(folder) as running:
        place = home.absolute()
        yield {**hub_env(running, place), "XDG_CACHE_HOME": str(place)}


def far(words: Sequence[str], environment: dict[str, str]) -> None:
    """Show and run an actstore command that talks to the Hub."""
    print(f"$ actstore {shlex.join(words)}", flush=True)
    child([sys.executable, "-m", "actstore", *words], environment)
    print(flush=True)


def far_python(code: str, environment: dict[str, str]) -> None:
    """Show and run Python that talks to the Hub."""
    print(textwrap.indent(code, ">>> "), flush=True)
    child([sys.executable, "-c", code], environment)
