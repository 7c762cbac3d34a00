"""Runs real clients against the loopback Hub: the environment they need, and child processes.

huggingface_hub and datasets read HF_ENDPOINT, HF_HOME and the rest once, on import. A test that
needs the defaults (`load_dataset("org/name")`, the `hf` command) therefore runs in a child process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.hub_server.server import Hub

CHECKOUT = Path(__file__).parents[2]
DROPPED = ("proxy", "hf_", "hugging_face", "huggingface", "datasets_", "actstore_")
"""Prefixes and suffixes of variables that would lead a client elsewhere."""


def hub_env(
    hub: Hub,
    home: Path,
    *,
    token: str | None = "hf_write",
    xet: bool = False,
    extra: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The whole environment of a child process that talks to `hub` and to nothing else.

    `home` becomes HF_HOME: caches, and the token file when one is there. `token=None` is an
    anonymous user.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().startswith(DROPPED) and not name.lower().endswith("_proxy")
    }
    settings = hub_settings(hub, home, token=token, xet=xet)
    return {**kept, **settings, **(extra or {})}


def hub_settings(
    hub: Hub, home: Path, *, token: str | None = "hf_write", xet: bool = False
) -> dict[str, str]:
    """Only the variables that point a client at `hub`."""
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_XET": "0" if xet else "1",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    return settings if token is None else {**settings, "HF_TOKEN": token}


def run_python(
    code: str,
    env: Mapping[str, str],
    *,
    cwd: Path | None = None,
    check: bool = True,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a child process, with the checkout importable.

    Raises AssertionError with the child's output when it fails and `check` is set.
    """
    path = os.pathsep.join(filter(None, [str(CHECKOUT), env.get("PYTHONPATH", "")]))
    command = [sys.executable, "-c", code]
    return run(command, {**env, "PYTHONPATH": path}, cwd=cwd, check=check, timeout=timeout)


def run_hf(
    arguments: Sequence[str],
    env: Mapping[str, str],
    *,
    cwd: Path | None = None,
    check: bool = True,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run the `hf` command that stands next to this Python."""
    command = [str(Path(sys.executable).with_name("hf")), *arguments]
    return run(command, env, cwd=cwd, check=check, timeout=timeout)


def run(
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    cwd: Path | None = None,
    check: bool = True,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        env=dict(env),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if check and done.returncode != 0:
        raise AssertionError(
            f"{command[0]} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
    return done
