"""Objects of the loopback Hub on disk, each under its sha256."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


class ObjectStore:
    """A folder of immutable files named by their content."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        return self._root / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        return self.path(sha256).is_file()

    def size(self, sha256: str) -> int:
        return self.path(sha256).stat().st_size

    def read(self, sha256: str) -> bytes:
        return self.path(sha256).read_bytes()

    def write(self, data: bytes) -> str:
        """Keep `data`; its sha256."""
        sha256 = hashlib.sha256(data).hexdigest()
        return sha256 if self.has(sha256) else self.keep(*self.receive([data]))

    def receive(self, chunks: Iterable[bytes]) -> tuple[Path, str]:
        """Stream a body to a file that nobody sees yet; the file and the sha256 of what came."""
        digest = hashlib.sha256()
        handle, name = tempfile.mkstemp(dir=self._incoming)
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in chunks:
                    digest.update(chunk)
                    file.write(chunk)
        except BaseException:
            os.unlink(name)
            raise
        return Path(name), digest.hexdigest()

    def keep(self, received: Path, sha256: str) -> str:
        """Make a received file visible under its sha256."""
        target = self.path(sha256)
        target.parent.mkdir(exist_ok=True)
        os.replace(received, target)
        return sha256


def git_blob_oid(data: bytes) -> str:
    """The name git gives to a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The text that git keeps in place of a large file."""
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return text.encode()
