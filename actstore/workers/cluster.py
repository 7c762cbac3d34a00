"""A Ray cluster: joined or started, and what the failures of its workers mean."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from actstore.errors import ActstoreError, MissingExtraError, UsageError
from actstore.wording import counted


@contextlib.contextmanager
def joined(address: str | None, doing: str) -> Iterator[None]:
    """Be connected to a cluster while the block runs.

    Args:
        address: of the cluster. When missing: the one that is joined already, or that
            ``RAY_ADDRESS`` names, or that runs on this machine; else a new one here.
        doing: what needs it, in words.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: the cluster is not there.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError(doing, "ray") from None
    mine = not ray.is_initialized()
    if mine:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise UsageError(f"Ray cluster {address or ''}: {error}") from error
    try:
        yield
    finally:
        if mine:
            ray.shutdown()


def no_room(gpus: float, loading: str) -> str:
    """Return what to tell where no worker is ready after a while: what each needs, what is there.

    Args:
        gpus: of each worker.
        loading: what workers do before they are ready.
    """
    import ray

    there = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's
    return (
        f"no worker is ready yet; each needs 1 CPU and {gpus:g} GPUs, the cluster has "
        f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs: they {loading}, "
        "or wait for room (ray status)"
    )


def unshared(host: str, store: Path | str) -> UsageError:
    """Return the error for a node that sees another store, or not the same locks."""
    return UsageError(
        f"node {host} does not see the store {store} as this machine "
        "does, or not its locks: put it on a file system that all nodes share, with locks "
        "that count for all of them (NFS 4, or Lustre mounted with flock)"
    )


def raise_own(error: Exception) -> None:
    """Raise what a worker failed with, where that is an error of ours: it would come again."""
    for each in (getattr(error, "cause", None), error):
        if isinstance(each, ActstoreError):
            raise each from None


def reason_of(error: Exception) -> str:
    """Return the first line that says why a worker is gone, and where, if code of it failed."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    reason = f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__
    places = re.findall(r'File "(?:.*/)?([^"/]+)", line (\d+)', str(error))
    return f"{reason} ({':'.join(places[-1])})" if places else reason


def lost(rank: int, reason: str, left: int) -> str:
    """Return what to tell of a worker that is gone, and of so many pieces that it had."""
    return f"worker {rank} was lost ({reason}): another one is started" + (
        f", {counted(left, 'piece')} not stored yet handed out again" if left else ""
    )


@contextlib.contextmanager
def sendable() -> Iterator[None]:
    """Turn errors that do not survive being sent into the nearest one above them that does."""
    try:
        yield
    except ActstoreError as error:
        for kind in type(error).__mro__:
            with contextlib.suppress(TypeError):
                if issubclass(kind, ActstoreError) and str(kind(str(error))) == str(error):
                    raise kind(str(error)) from None
        raise
