"""Downloads of whole files: resumed where they broke off, checked against their SHA-256."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from actstore.errors import TransferError
from actstore.remote.client import Client
from actstore.storage.file_hashes import sha256_of

_TRIES = 3


def download(
    client: Client,
    repository: str,
    commit: str,
    path: str,
    target: Path,
    *,
    size: int,
    sha256: str,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Bring one file to ``target``, which is complete and right when it is there at all.

    What an earlier attempt left in ``target`` with ``.part`` behind its name is continued.

    Args:
        client: the Hub.
        repository: ``org/name``.
        commit: at which the file is read.
        path: in the repository.
        target: where it goes; its folder exists.
        size: bytes that it must have.
        sha256: that it must have.
        progress: called with the number of bytes each time some have arrived.

    Raises:
        TransferError: what arrives is again and again not what it should be.
        HubError: as :meth:`Client.call`.
        OSError: the disk is full or failed.
    """
    part = target.with_name(target.name + ".part")
    for _ in range(_TRIES):
        _fill(client, repository, commit, path, part, size, progress)
        if sha256_of(part) == (sha256, size):
            part.replace(target)
            return
        part.unlink()
        if progress is not None:
            progress(-size)
    raise TransferError(
        f"{path} of {repository} arrives damaged: its SHA-256 is not {sha256}; if this goes on, "
        "the copy on the Hub is broken, and whoever pushed it must push it anew"
    )


def _fill(
    client: Client,
    repository: str,
    commit: str,
    path: str,
    part: Path,
    size: int,
    progress: Callable[[int], None] | None,
) -> None:
    """Append to ``part`` until it has all bytes; every attempt goes on where the last stopped."""

    def have() -> int:
        return part.stat().st_size if part.exists() else 0

    if have() > size:
        part.unlink()
    if progress is not None:
        progress(have())

    def append() -> None:
        with (
            part.open("ab") as file,
            client.stream(repository, path, commit, start=file.tell(), stop=size) as blocks,
        ):
            for block in blocks:
                file.write(block)
                if progress is not None:
                    progress(len(block))

    while (before := have()) < size:
        try:
            client.call(f"download {path} of {repository}", append, repository=repository)
        except TransferError:
            # Where some bytes came, the connection was worth something, and so may the next be.
            if have() == before:
                raise
