"""A repository on the Hub as the place where a commit's files lie."""

from __future__ import annotations

from actstore.errors import RemoteStoreError, UsageError
from actstore.remote.address import Address
from actstore.remote.client import Client
from actstore.remote.objects import RemoteObject
from actstore.remote.ranges import Meter
from actstore.remote.resolve import ResolvedStore
from actstore.storage.manifest import LabelEntry, ShardEntry


class HubSource:
    """One commit of a repository.

    Args:
        client: the Hub.
        address: what the user called the repository.
        held: the store in it.
    """

    vouches = True

    def __init__(self, client: Client, address: Address, held: ResolvedStore) -> None:
        self._client = client
        self._address = address
        self._held = held
        self.meter = Meter()

    @property
    def name(self) -> str:
        return str(self._address)

    @property
    def identity(self) -> str:
        return f"{self._client.endpoint} {self._held.repository}"

    @property
    def commits(self) -> int:
        return len(self._held.numbers)

    def ranged(self, entry: ShardEntry) -> RemoteObject:
        return RemoteObject(
            self._client,
            self._held.repository,
            self._held.commit,
            entry.path,
            size=entry.bytes,
            sha256=entry.sha256,
            meter=self.meter,
        )

    def read(self, entry: LabelEntry) -> bytes:
        data = self._client.read(
            self._held.repository, entry.path, self._held.commit, most=entry.bytes
        )
        self.meter.add(requests=1, received=len(data))
        return data

    def needs_folder(self) -> UsageError:
        return UsageError(
            f"{self._address} is on the Hub, and this needs a store on this machine: fetch it "
            f"with: actstore pull {self._address.repository} FOLDER"
        )

    def damaged(self, path: str, reason: str) -> RemoteStoreError:
        return RemoteStoreError(
            f"{path} of {self._held.repository} is not what its manifest says ({reason}): whoever "
            "pushed it must push it anew"
        )
