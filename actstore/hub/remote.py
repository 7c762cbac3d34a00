"""A store in a repository, opened from afar: a snapshot whose files are fetched in pieces."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache as cached
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actstore.errors import (
    CorruptStoreError,
    HubError,
    RemoteStoreError,
    UsageError,
)
from actstore.hub import cache as caches
from actstore.hub.address import Address, parse
from actstore.hub.cache import RangeCache
from actstore.hub.client import Client
from actstore.hub.history import Found, find_commit
from actstore.hub.objects import Meter, RemoteObject
from actstore.hub.tails import RemoteReader
from actstore.hub.vectors import Pieces, RemoteShard
from actstore.storage import metadata
from actstore.storage.files import Traffic
from actstore.storage.manifest import LabelEntry, ShardEntry
from actstore.storage.mapping import DecodedShard, ShardReader
from actstore.storage.snapshot import Snapshot

if TYPE_CHECKING:
    import pyarrow as pa

_SHARDS = 8
"""Shards read side by side."""
_FOOTER = 256 << 10
"""Bytes at the end of a shard without mapped vectors that are fetched first."""
_MOST_LABELS = 1 << 30
