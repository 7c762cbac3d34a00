"""One bucket, asked through obstore: tries again where that helps, explains where not."""

from __future__ import annotations

import configparser
import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from actstore.errors import (
    BucketConditionError,
    BucketConnectionError,
    BucketError,
    BucketFileError,
    MissingExtraError,
)
from actstore.remote.bucket_address import BucketAddress
from actstore.remote.bucket_errors import conditions, judge
from actstore.remote.client import Patience
from actstore.remote.ranges import Meter

if TYPE_CHECKING:
    from obstore.store import MemoryStore, ObjectStore

Reply = TypeVar("Reply")
_users: list[int] = []
"""The process that was the first to use a bucket, here or where this one was forked from."""
_trusted: set[str] = set()
"""Stores on whose servers this process has found conditions to hold."""
PATIENCE = Patience(attempts=6, first=0.2, most=20.0, silence=60.0)
"""How often and how long requests are tried again, unless a bucket is given another."""
_EXTRA = "bucket"
PROBE = "manifests/probe"
"""What the names of objects begin with that are there for a moment only."""
_AT_ONCE = 1000
_LONGEST = "3600s"
"""For one request, however slow: what no longer moves ends after ``Patience.silence``."""


class StoredObject(NamedTuple):
    """One object in a bucket."""

    path: str
    """Below the store."""
    size: int
    modified: datetime
    """By the server's clock."""
    e_tag: str | None = None


class Part(NamedTuple):
    """Some bytes of an object, and what they are of."""

    data: bytes
    size: int
    """Bytes of the whole object."""
    e_tag: str | None


class Bucket:
    """The objects of one store in a bucket. Threads may share one; forked processes may not.

    Args:
        address: of the store.
        patience: how often to try again.

    Raises:
        MissingExtraError: obstore is not installed.
        BucketError: the address and the environment do not say enough.
    """

    def __init__(self, address: BucketAddress, patience: Patience | None = None) -> None:
        self.address = address
        self.meter = Meter()
        self._patience = patience or PATIENCE
        self._store = self._opened()

    def __repr__(self) -> str:
        return f"Bucket({str(self.address)!r})"

    @property
    def identity(self) -> str:
        """What tells it from every other, of the same name at another server too."""
        return f"{_endpoint(self.address.scheme)} {self.address}"

    def read(self, path: str, *, most: int = 1 << 30) -> bytes | None:
        """Return a whole object; None when there is none.

        Raises:
            BucketFileError: it is larger than ``most`` bytes.
            BucketError: it cannot be read; the leaf says why.
        """
        import obstore

        def ask() -> bytes:
            found = obstore.get(self._store, path)
            if found.meta["size"] > most:
                raise BucketFileError(
                    f"{path} of {self.address} is larger than {most:,} bytes: actstore writes no "
                    "such file"
                )
            return bytes(found.bytes())

        data = self._call(f"read {path}", ask)
        if data is not None:
            self.meter.add(received=len(data))
        return data

    def read_range(self, path: str, start: int, stop: int) -> Part | None:
        """Return some bytes of an object; None when there is none.

        Raises:
            BucketError: as :meth:`read`.
        """
        import obstore

        def ask() -> Part:
            found = obstore.get(self._store, path, options={"range": (start, stop)})
            size, e_tag = found.meta["size"], found.meta["e_tag"]
            return Part(bytes(found.bytes()), size, e_tag)

        part = self._call(f"read {path}", ask)
        if part is not None:
            self.meter.add(received=len(part.data))
        return part

    def blocks(self, path: str, start: int = 0) -> Iterator[bytes]:
        """Yield an object from ``start`` on, block by block; goes on where a connection broke.

        Raises:
            BucketFileError: there is no such object.
            BucketError: as :meth:`read`.
        """
        step = 8 << 20
        part = self.read_range(path, start, start + step)
        while part is not None:
            yield part.data
            start += len(part.data)
            if start >= part.size:
                return
            part = self.read_range(path, start, min(start + step, part.size))
        raise BucketFileError(f"{path} of {self.address} is missing")

    def put(self, path: str, content: bytes | Path) -> None:
        """Write an object, over what was there: for names that nobody else uses.

        Raises:
            BucketError: it cannot be written; the leaf says why.
        """
        import obstore

        self._must(f"write {path}", lambda: obstore.put(self._store, path, content))

    def copy(self, path: str, target: str) -> None:
        """Copy an object where it is, over what was there: for names that nobody else uses.

        Raises:
            BucketError: it is not there, or cannot be written; the leaf says why.
        """
        import obstore

        self._must(f"copy {path}", lambda: obstore.copy(self._store, path, target))

    def create(self, path: str, data: bytes) -> bool:
        """Write an object that is not there yet; False where another one is.

        An answer that was lost is settled by looking: where the object is there with just these
        bytes, it was this call that made it.

        Raises:
            BucketError: it cannot be written, or nobody can say whether it was.
        """
        import obstore
        from obstore import exceptions as theirs

        def ask() -> bool | None:
            try:
                obstore.put(self._store, path, data, mode="create", use_multipart=False)
                return True
            except theirs.AlreadyExistsError:
                pass
            there = self.read(path)
            # Not there: two puts met (409), and either may be the one that is to come again.
            return None if there is None else there == data

        pause = self._patience.first
        for _ in range(self._patience.attempts):
            try:
                made = self._must(f"create {path}", ask)
            except BucketConnectionError as error:
                there = self._last_look(path, error)
                made = None if there is None else there == data
                if made is None:
                    raise
            if made is not None:
                return made
            self._rest(pause)
            pause *= 2
        raise BucketConditionError(conditions(self.address, "the condition of a write"))

    def _last_look(self, path: str, error: BucketConnectionError) -> bytes | None:
        """Return what is there after a creation that no answer came to."""
        try:
            return self.read(path)
        except BucketError:
            raise BucketConnectionError(
                f"{error}. Whether {path} is there nobody can say before the server answers again "
                f"(see: actstore log {self.address})"
            ) from None

    def objects(self, prefix: str, *, after: str | None = None) -> list[StoredObject]:
        """Return the objects below a prefix, in the order of their names.

        Args:
            prefix: whole parts of a path, such as ``manifests``.
            after: only those whose names come later.

        Raises:
            BucketError: as :meth:`read`.
        """
        import obstore

        def ask() -> list[StoredObject]:
            stream = obstore.list(self._store, prefix, offset=after, chunk_size=_AT_ONCE)
            return [
                StoredObject(each["path"], each["size"], each["last_modified"], each["e_tag"])
                for page in stream
                for each in page
            ]

        found = self._must(f"list {prefix}", ask)
        self.meter.add(requests=len(found) // _AT_ONCE)
        return sorted(found)

    def top(self) -> list[str]:
        """Return what the names of objects begin with: parts before the first slash.

        Raises:
            BucketError: as :meth:`read`.
        """
        import obstore

        found = self._must("look", lambda: obstore.list_with_delimiter(self._store))
        return sorted([*found["common_prefixes"], *(each["path"] for each in found["objects"])])

    def delete(self, paths: list[str]) -> None:
        """Remove objects; those that are gone already are no error.

        Raises:
            BucketError: as :meth:`read`.
        """
        import obstore

        for first in range(0, len(paths), _AT_ONCE):
            some = paths[first : first + _AT_ONCE]
            self._call(f"remove {some[0]}", partial(obstore.delete, self._store, some))

    def check_conditions(self) -> None:
        """Refuse a server on which commits could overwrite each other.

        Creates a key twice and replaces it by a stale tag: the second of each must fail. Done once
        in a process.

        Raises:
            BucketConditionError: it did not.
            BucketError: the server cannot be asked.
        """
        import obstore
        from obstore import exceptions as theirs

        if self.identity in _trusted:
            return
        path = f"{PROBE}-{time.time_ns():x}{random.getrandbits(32):08x}"
        refusals = (theirs.AlreadyExistsError, theirs.PreconditionError)

        def put(data: bytes, mode: Any) -> dict[str, str] | None:
            """Return the tag of what was written; None where the condition held it off."""
            try:
                made = obstore.put(self._store, path, data, mode=mode, use_multipart=False)
            except refusals:
                return None
            # Without the parts that this server does not have: they must not go back to it.
            tags = {"e_tag": made["e_tag"], "version": made["version"]}
            return {name: tag for name, tag in tags.items() if tag is not None}

        def ask(doing: str, data: bytes, mode: Any) -> dict[str, str] | None:
            return self._must(doing, lambda: put(data, mode))

        try:
            # None is an answer that was lost, and the next attempt met what was made.
            stale = ask("write a probe", b"first", "create") or {"e_tag": "none"}
            if ask("write a probe again", b"second", "create") is not None:
                raise BucketConditionError(conditions(self.address, "If-None-Match (create only)"))
            ask("write over a probe", b"the third", "overwrite")
            if ask("replace a probe", b"fourth", stale) is not None:
                raise BucketConditionError(conditions(self.address, "If-Match (replace only)"))
        finally:
            with contextlib.suppress(BucketError):
                self.delete([path])
        _trusted.add(self.identity)

    def _must(self, doing: str, function: Callable[[], Reply]) -> Reply:
        """Return ``function()``, for which nothing has to be there."""
        found = self._call(doing, lambda: (function(),))
        if found is None:
            raise BucketError(f"cannot {doing} in {self.address}: the server says it is not there")
        return found[0]

    def _call(self, doing: str, function: Callable[[], Reply]) -> Reply | None:
        """Return ``function()``; None when it asked for what is not there.

        Raises:
            BucketError: the leaf that says why; what went wrong below is not shown with it,
                because it may name keys and signatures.
        """
        self._check_process()
        left = self._patience.attempts
        pause = self._patience.first
        while True:
            left -= 1
            self.meter.add(requests=1)
            try:
                return function()
            except BucketError:
                raise
            except Exception as error:
                if not _is_theirs(error):
                    raise
                explained = judge(error, doing, self.address)
                if explained is None:
                    return None
            if not explained.transient or left <= 0:
                raise explained.error
            self._rest(pause)
            pause *= 2

    def _check_process(self) -> None:
        """Refuse a process that was forked from one in which obstore has threads: it would hang.

        Raises:
            BucketError: says how to start it instead.
        """
        if self.address.scheme != "memory":
            if not _users:
                _users.append(os.getpid())
            if _users[0] != os.getpid():
                raise BucketError(
                    f"{self.address}: this process was forked from one that has used a bucket, and "
                    "connections do not outlive that: start workers by 'spawn', such as "
                    "DataLoader(…, multiprocessing_context='spawn')"
                )

    def _rest(self, seconds: float) -> None:
        time.sleep(min(seconds, self._patience.most) * random.uniform(0.75, 1.25))

    def _opened(self) -> ObjectStore:
        try:
            from obstore.store import from_url
        except ImportError:
            raise MissingExtraError(
                f"{self.address.scheme}:// (stores in buckets)", _EXTRA
            ) from None
        address = self.address
        if address.scheme == "memory":
            return _memory(str(address))
        settings: dict[str, Any] = {
            "client_options": {
                "allow_http": True,  # it is the endpoint that says so
                "connect_timeout": "15s",
                "read_timeout": f"{self._patience.silence:g}s",
                "timeout": _LONGEST,
                "user_agent": "actstore",
            },
            # Tried again above, where what happened is known.
            "retry_config": {"max_retries": 0},
        }
        if address.scheme == "s3":
            settings |= _aws()
        url = f"{address.scheme}://{address.bucket}"
        try:
            return from_url(url if not address.prefix else f"{url}/{address.prefix}", **settings)
        except Exception as error:
            if not _is_theirs(error):
                raise
            explained = judge(error, "open the store", address)
        raise explained.error if explained else BucketError(f"cannot open {address}")


def _is_theirs(error: Exception) -> bool:
    from obstore.exceptions import BaseError

    return isinstance(error, BaseError | OSError | NotImplementedError | ValueError)


@cache
def _memory(name: str) -> MemoryStore:
    """Return the objects under a name in this process's memory."""
    from obstore.store import MemoryStore

    return MemoryStore()


def _endpoint(scheme: str) -> str:
    names = {
        "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
        "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT", "AZURE_STORAGE_ACCOUNT_NAME"),
    }
    return next(filter(None, (os.environ.get(name) for name in names.get(scheme, ()))), scheme)


def _aws() -> dict[str, Any]:
    """Return what the user's AWS profile says, where the environment itself names no key."""
    named = os.environ.get("AWS_PROFILE")
    own = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE")
    if named is None and any(os.environ.get(name) for name in own):
        return {}
    profile = _profile(named or "default")
    kept = {
        "aws_access_key_id": profile.get("aws_access_key_id"),
        "aws_secret_access_key": profile.get("aws_secret_access_key"),
        "aws_session_token": profile.get("aws_session_token"),
        "region": None if os.environ.get("AWS_REGION") else profile.get("region"),
        "endpoint": None if _endpoint("s3") != "s3" else profile.get("endpoint_url"),
    }
    config = {name: value for name, value in kept.items() if value}
    if named is None or "aws_access_key_id" in config:
        return {"config": config} if config else {}
    try:  # single sign-on and assumed roles, which Amazon's own library knows
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        return {"config": config} if config else {}
    return {"config": config, "credential_provider": Boto3CredentialProvider()}


def _profile(name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for variable, place, section in (
        ("AWS_CONFIG_FILE", "~/.aws/config", name if name == "default" else f"profile {name}"),
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", name),
    ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(Path(os.environ.get(variable) or place).expanduser(), encoding="utf-8")
            found |= dict(parser[section]) if section in parser else {}
        except (configparser.Error, OSError, RuntimeError, UnicodeDecodeError):
            continue
    return found
