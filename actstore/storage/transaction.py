"""One change of a store: staged, written, committed under the next number, shown on the card."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from actstore.errors import StoreError
from actstore.storage import card, layout
from actstore.storage import manifest as manifests
from actstore.storage.lease import Lease, pin
from actstore.storage.manifest import Manifest
from actstore.storage.staging import Staging, prepare, writing
from actstore.storage.turns import turn

Build = Callable[[Manifest], Manifest | None]
"""Makes of the latest commit the next one; None: there is nothing left to commit."""


class Transaction:
    """A place for new files in a store, and the commits that make them part of it.

    ::

        with Transaction(root) as change:
            write(change.folder / "new.parquet")
            change.commit({"labels/new.parquet": change.folder / "new.parquet"}, build)

    What it guarantees, at whatever instant an error, a signal or a power failure comes:

    - Readers see the store as it was before a commit or as it is after it, and nothing
      between. A commit is there once its manifest has its name; by then all its files are on
      the disk and in their place.
    - Without a commit nothing is changed. Leaving the block, by an error or Ctrl-C too, removes
      what was written and placed and no commit names. After a kill the next writer does that.
    - Of two writers that commit at once one comes second: it is shown the other's commit and
      builds on that, or gives up. No commit is lost or taken for another.
    - The commit that is built on is kept from pruning until the transaction ends.
    - The card names the files of one commit, whole. A kill between a commit and its card leaves
      the card of the commit before, which the next writer brings up to date.

    The base manifest is read once and handed on: it is read again only when somebody else has
    committed meanwhile.

    Args:
        root: folder of the store, made when missing.
        base: a commit of the store, from a caller that has read it: the latest one, most likely.
        cards: whether a commit brings the card up to date. Only a caller that writes a card of
            its own right afterwards does without.

    Raises:
        StoreError: the path is a file or holds other things.
        CommitError: it cannot be written.
        CorruptStoreError: the latest manifest is damaged.
    """

    base: Manifest
    """The latest commit, as far as this transaction has seen."""

    def __init__(self, root: Path, base: Manifest | None = None, *, cards: bool = True) -> None:
        prepare(root)
        self.root = root
        self._lease: Lease | None = None
        self._build_on(manifests.latest(root) if base is None else base)
        self._cards = cards
        self._staging = Staging(root)

    @property
    def folder(self) -> Path:
        """Where to write: files here are nobody's before a commit and gone after it."""
        return self._staging.folder

    def __enter__(self) -> Transaction:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove what is not committed and give the place back; may be called twice."""
        self._staging.close()
        if self._lease is not None:
            self._lease.release()

    def _build_on(self, base: Manifest) -> None:
        """Keep a commit from being pruned: one that is gone gives way to the latest."""
        lease = None
        if base.number:
            try:
                lease = Lease(layout.manifest_path(self.root, base.number))
            except FileNotFoundError:
                base, lease = pin(self.root)
        if self._lease is not None:
            self._lease.release()
        self.base, self._lease = base, lease

    def commit(
        self,
        files: Mapping[str, Path],
        build: Build,
        *,
        then: Callable[[Manifest], None] | None = None,
    ) -> Manifest | None:
        """Put files in their places and make the next commit, as one step.

        Args:
            files: by path in the store, finished and synced files in :attr:`folder`.
            build: called with the latest commit, and again with each that comes in between;
                may raise to give up, or return None when nothing is left to commit.
            then: called once the commit is made, before the card is brought up to date.

        Returns:
            The new commit; None when ``build`` returned that. Then the files are gone again.

        Raises:
            CommitError: the disk is full or failed. Either nothing has changed, or the message
                says that the commit is made.
        """
        with contextlib.ExitStack() as stack:
            try:
                with writing(self.root):
                    self._staging.place(dict(files))
                    stack.enter_context(turn(self.root))
                    made = self._publish(build)
            except BaseException:
                self._staging.withdraw()
                with contextlib.suppress(StoreError):  # what others committed meanwhile
                    self._build_on(manifests.latest(self.root))
                raise
            if made is None:
                self._staging.withdraw()
                return None
            self._staging.done()
            self._build_on(made)
            if then is not None:
                then(made)
            if self._cards:
                card.refresh(self.root, made)
            return made

    def _publish(self, build: Build) -> Manifest | None:
        """Make the next commit on top of the latest one, whichever that is by then."""
        while True:
            numbers = manifests.numbers(self.root)
            if numbers and numbers[-1] != self.base.number:
                self._build_on(manifests.load(self.root))
            following = build(self.base)
            if following is None or manifests.publish(self.root, following, self.folder):
                return following
