"""Pushes and pulls for child processes, which are killed at a chosen call of the system."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants

from actstore.hub.pull import pull
from actstore.hub.push import push
from actstore.remote.client import Client
from tests.hub.pushing import ID, QUICK
from tests.storage.crashing import no_trap, run_and_die, trapped


def pushing(url: str, root: Path) -> None:
    """Push a store, its labels written into the shards."""
    constants.HF_HUB_DISABLE_XET = True
    push(root, ID, client=Client(endpoint=url, token="hf_write", patience=QUICK))


def pulling(url: str, root: Path) -> None:
    """Pull what was pushed."""
    constants.HF_HUB_DISABLE_XET = True
    pull(ID, root, client=Client(endpoint=url, token="hf_write", patience=QUICK))


WORK = {"push": pushing, "pull": pulling}


def transfer_and_die(name: str, url: str, root: Path, at: int) -> None:
    """Do it, and be killed at call number ``at``; 0 is never."""
    with _apart(root):
        if at:
            run_and_die(root, lambda root: WORK[name](url, root), at)
        else:
            with trapped(0, no_trap):
                WORK[name](url, root)


def calls_of(name: str, url: str, root: Path) -> int:
    """Do it and return how many calls it takes."""
    calls: list[str] = []
    with _apart(root), trapped(1, lambda call, arguments: calls.append(call), lasting=True):
        WORK[name](url, root)
    return len(calls)


@contextlib.contextmanager
def _apart(root: Path) -> Iterator[None]:
    """Use a folder for temporary files where no other process has left any to be cleared."""
    usual = tempfile.tempdir
    tempfile.tempdir = str(root.with_name(f"{root.name} temporary"))
    Path(tempfile.tempdir).mkdir(exist_ok=True)
    try:
        yield
    finally:
        tempfile.tempdir = usual
