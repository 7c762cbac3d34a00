"""Addresses in object stores: ``s3://bucket/store``, ``gs://``, ``az://`` and ``memory://``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from actstore.errors import UsageError
from actstore.paths import BUCKETS

# A Path has one slash where the text had two.
_ADDRESS = re.compile(rf"({'|'.join(BUCKETS)}):/{{1,2}}([^/]*)(?:/(.*))?", re.DOTALL)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f?#\\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketAddress:
    """A store in a bucket."""

    scheme: str
    bucket: str
    """Of Azure the container; of ``memory`` any name."""
    prefix: str
    """What the names of all its objects begin with; empty for the whole bucket."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}{'/' if self.prefix else ''}{self.prefix}"

    @property
    def root(self) -> str:
        """The bucket alone, as an address."""
        return f"{self.scheme}://{self.bucket}"


def is_bucket(place: str | Path) -> bool:
    """Say whether a place is meant as an address in an object store."""
    return _ADDRESS.match(os.fspath(place)) is not None


def check_seen_by_others(place: str | Path, *, source: bool = False) -> None:
    """Refuse a store, or a source, that no other process can see.

    Raises:
        UsageError: says where to put it instead.
    """
    doing, what, name = (
        ("read", "the source", "FOLDER") if source else ("write", "the store", "STORE")
    )
    if is_bucket(place) and parse_bucket(place).scheme == "memory":
        raise UsageError(
            f"{parse_bucket(place)} is in the memory of this process, where no worker can {doing}: "
            f"give {what} a folder that all nodes see, or an address such as s3://BUCKET/{name}"
        )


def parse_bucket(place: str | Path) -> BucketAddress:
    """Parse an address.

    Raises:
        UsageError: it is none, or names what no bucket can hold.
    """
    text = os.fspath(place)
    found = _ADDRESS.fullmatch(text)
    if found is None or not _NAME.fullmatch(found[2]):
        raise UsageError(
            f"{text!r} names no bucket: write such as s3://BUCKET/STORE, with gs:// for Google "
            "Cloud Storage and az:// for a container on Azure"
        )
    prefix = (found[3] or "").strip("/")
    if _CONTROL.search(prefix) or any(part in ("", ".", "..") for part in prefix.split("/")[:-1]):
        raise UsageError(
            f"{text!r}: the part behind the bucket is no name of a store: no empty part, '.', "
            "'..', '?', '#', backslash or control character may be in it"
        )
    if prefix.rpartition("/")[2] in (".", ".."):
        raise UsageError(f"{text!r}: a store cannot be called '.' or '..'")
    return BucketAddress(scheme=found[1], bucket=found[2], prefix=prefix)
