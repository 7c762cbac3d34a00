"""One Hub, asked through huggingface_hub: tries again where that helps, explains where not."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from actstore.errors import OfflineError, RemoteStoreError, TransferError
from actstore.remote.address import check
from actstore.remote.hub_errors import HubCall, judge
from actstore.remote.redaction import guard_logs

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import HfApi

Reply = TypeVar("Reply")
KIND = "dataset"
MAIN = "main"
_BAR_SWITCH = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often and how long to try again."""

    attempts: int = 5
    first: float = 1.0
    """Seconds before the second attempt; every further pause is twice as long."""
    most: float = 90.0
    """Longest pause, in seconds; a Hub that asks for more gets an error instead."""
    silence: float = 60.0
    """Seconds without a byte after which a connection counts as lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file of a repository at one commit."""

    path: str
    size: int
    sha256: str | None
    """Of large files (the shards); None for those that git itself keeps."""
    blob: str
    """Git's name for the content: equal content, equal name."""


class Client:
    """A Hub and who asks it. Threads may share one.

    Args:
        endpoint: ``https://huggingface.co`` unless given or named by HF_ENDPOINT.
        token: access token; None takes HF_TOKEN or the one of ``hf auth login``, False none.
        patience: how often to try again.
    """

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        token: str | bool | None = None,
        patience: Patience | None = None,
    ) -> None:
        from huggingface_hub import HfApi, get_token

        guard_logs()
        self.patience = patience or Patience()
        endpoint = endpoint or os.environ.get("HF_ENDPOINT") or None
        self.api: HfApi = HfApi(
            endpoint=endpoint and endpoint.rstrip("/"), token=token, library_name="actstore"
        )
        self.endpoint: str = self.api.endpoint
        self.token: str | None = get_token() if token in (None, True) else (token or None)  # type: ignore[assignment]  # True is gone
        """The token in use, if any. Never to be shown."""

    def __repr__(self) -> str:
        return f"Client({self.endpoint!r})"

    def call(
        self,
        doing: str,
        function: Callable[[], Reply],
        *,
        repository: str,
        revision: str | None = None,
        attempts: int | None = None,
    ) -> Reply:
        """Return ``function()``; failures of network and Hub become errors of ours.

        Args:
            doing: what ``cannot`` is followed by in an error's message.
            function: calls huggingface_hub; it may run several times.
            repository: ``org/name``, for the message.
            revision: the same.
            attempts: how often to try; as ``patience`` says when missing.

        Raises:
            HubError: the leaf that says why; what went wrong below is not shown with it,
                because it may name tokens and signed links.
        """
        call = HubCall(doing, self.endpoint, repository, revision, self.token)
        left = self.patience.attempts if attempts is None else attempts
        pause = self.patience.first
        while True:
            left -= 1
            try:
                self._limit_silence()
                return function()
            except Exception as error:
                explained = judge(error, call)
                if explained is None:
                    raise
            # Raised out here, so that the error does not carry the one below it along.
            if isinstance(explained.error, OfflineError):
                left = min(left, 2)  # nobody there: that is soon certain
            wait = explained.wait if explained.wait is not None else pause
            if not explained.transient or left <= 0 or wait > self.patience.most:
                raise explained.error
            self.rest(wait)
            pause *= 2

    def rest(self, seconds: float) -> None:
        """Wait about that long; not all clients at the same moment."""
        time.sleep(min(seconds, self.patience.most) * random.uniform(0.75, 1.25))

    def _limit_silence(self) -> None:
        """Let no request wait for ever: huggingface_hub's client has no time limit by itself."""
        import httpx2
        from huggingface_hub import get_session

        session = get_session()
        if session.timeout == httpx2.Timeout(None):
            session.timeout = httpx2.Timeout(self.patience.silence, connect=15.0, pool=None)

    def head(self, repository: str, revision: str | None = None) -> str:
        """Return the commit that a branch, tag, ``refs/pr/N`` or commit prefix stands for.

        Raises:
            RepositoryNotFoundError, RevisionError, AccessError, OfflineError and the like.
        """
        check(repository)

        def ask() -> str:
            info = self.api.dataset_info(repository, revision=revision)
            if not info.sha:
                raise TransferError(f"the Hub names no commit of {repository}: try again later")
            return info.sha

        return self.call(f"open {repository}", ask, repository=repository, revision=revision)

    def files(self, repository: str, commit: str) -> dict[str, RemoteFile]:
        """Return every file of a commit, by path.

        Raises:
            HubError: as :meth:`call`.
        """

        from huggingface_hub.hf_api import RepoFile

        def ask() -> dict[str, RemoteFile]:
            tree = self.api.list_repo_tree(
                repository, recursive=True, revision=commit, repo_type=KIND
            )
            return {
                item.path: RemoteFile(
                    path=item.path,
                    size=item.size,
                    sha256=item.lfs.sha256 if item.lfs else None,
                    blob=item.blob_id,
                )
                for item in tree
                if isinstance(item, RepoFile)
            }

        # The listing is already tried again page by page; this is for what falls through.
        doing = f"list the files of {repository}"
        return self.call(doing, ask, repository=repository, revision=commit, attempts=2)

    def read(self, repository: str, path: str, commit: str, *, most: int = 64 << 20) -> bytes:
        """Return a small file, such as the card or a manifest.

        Raises:
            RemoteFileError: there is no such file.
            RemoteStoreError: it is larger than ``most`` bytes.
            HubError: as :meth:`call`.
        """

        def ask() -> bytes:
            found = bytearray()
            with self.stream(repository, path, commit) as blocks:
                for block in blocks:
                    found += block
                    if len(found) > most:
                        raise RemoteStoreError(
                            f"{path} of {repository} is larger than {most:,} bytes: "
                            "actstore writes no such file"
                        )
            return bytes(found)

        doing = f"read {path} of {repository}"
        return self.call(doing, ask, repository=repository, revision=commit)

    def read_range(self, repository: str, path: str, commit: str, start: int, stop: int) -> bytes:
        """Return bytes ``start`` to ``stop`` of a file, by one range request.

        Raises:
            HubError: as :meth:`call`.
        """

        def ask() -> bytes:
            with self.stream(repository, path, commit, start=start, stop=stop) as blocks:
                return b"".join(blocks)

        doing = f"read {path} of {repository}"
        return self.call(doing, ask, repository=repository, revision=commit)

    @contextlib.contextmanager
    def stream(
        self,
        repository: str,
        path: str,
        commit: str,
        *,
        start: int = 0,
        stop: int | None = None,
    ) -> Iterator[Iterator[bytes]]:
        """Give a file's bytes block by block, once: to be used inside :meth:`call`.

        The token goes to the Hub only; the redirect to its storage is followed without it.
        Fewer bytes than asked for are an error.

        Raises:
            huggingface_hub's and the HTTP client's own errors; ``call`` explains them.
        """
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        url = hf_hub_url(repository, path, repo_type=KIND, revision=commit, endpoint=self.endpoint)
        headers = build_hf_headers(token=self.token or False, library_name="actstore")
        headers["Accept-Encoding"] = "identity"
        partial = start > 0 or stop is not None
        if partial:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        self._limit_silence()
        with get_session().stream("GET", url, headers=headers) as answer:
            if answer.status_code >= 400:
                answer.read()
            hf_raise_for_status(answer)
            if partial and answer.status_code != 206:
                raise TransferError(
                    f"the Hub sends all of {path} of {repository} where a part was asked for: a "
                    "proxy in between may not pass range requests on"
                )
            yield _whole(answer, None if stop is None else stop - start)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Keep huggingface_hub's own progress bars off the screen while the block runs."""
        from huggingface_hub import constants
        from huggingface_hub.utils import (
            are_progress_bars_disabled,
            disable_progress_bars,
            enable_progress_bars,
        )

        with _BAR_SWITCH:
            free = constants.HF_HUB_DISABLE_PROGRESS_BARS is None
            ours = free and not are_progress_bars_disabled()
            if ours:
                disable_progress_bars()
        try:
            yield
        finally:
            if ours:
                enable_progress_bars()


def _whole(answer: httpx2.Response, expected: int | None) -> Iterator[bytes]:
    """Pass an answer's body on; too few bytes are a lost connection."""
    import httpx2

    if expected is None and "Content-Length" in answer.headers:
        expected = int(answer.headers["Content-Length"])
    got = 0
    # As they come: of blocks of a given size, a lost connection would take the last one along.
    for block in answer.iter_bytes():
        got += len(block)
        yield block
    if expected is not None and got != expected:
        raise httpx2.RemoteProtocolError(f"{got:,} of {expected:,} bytes came")
