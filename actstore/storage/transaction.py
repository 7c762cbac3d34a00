"""One change of a store: staged, written, committed under the next number, shown on the card."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType

from actstore.errors import StoreError
from actstore.storage import backing, card, layout, lease, turns
from actstore.storage import manifest as manifests
from actstore.storage.disk_errors import writing
from actstore.storage.lease import Lease
from actstore.storage.manifest import Manifest
from actstore.storage.staging import Staging, prepare

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
      the card of the commit before, which the next writer brings up to date. Where shards are
      many it may be about an earlier commit than the latest: see :func:`card.may_lag`.

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
        self._build_on(manifests.latest(root, lazily=True) if base is None else base)
        self._behind = backing.of(root)
        self._cards = cards and self._behind is None
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
        held = None
        if base.number:
            try:
                held = lease.of_commit(self.root, base.number)
            except FileNotFoundError:
                base, held = lease.pin(self.root)
        if self._lease is not None:
            self._lease.release()
        self.base, self._lease = base, held

    def take_back(self, paths: Iterable[str]) -> None:
        """Remove files that are in their place, from inside of a ``build`` that does without."""
        for path in paths:
            self._staging.take_back(path)

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
                    stack.enter_context(turns.turn(self.root))
                    before, made = self._publish(build)
            except BaseException:
                self._staging.withdraw()
                with contextlib.suppress(StoreError):  # what others committed meanwhile
                    self._build_on(manifests.latest(self.root, lazily=True))
                raise
            if made is None:
                self._staging.withdraw()
                return None
            self._staging.done()
            self.base = made
            if then is not None:
                then(made)
        if self._cards and not card.may_lag(before, made):
            card.refresh(self.root, made)
        return made

    def _publish(self, build: Build) -> tuple[Manifest, Manifest | None]:
        """Make the next commit on top of the latest one, whichever that is by then.

        Returns that one, and what :meth:`commit` returns.
        """
        while True:
            if manifests.newest(self.root) not in (0, self.base.number):
                self._build_on(manifests.load(self.root, lazily=True))
            before = self.base
            following = build(before)
            if following is None:
                return before, None
            segment = layout.segment_path(layout.new_transaction())
            following = self._in_segments(following, segment)
            if self._make(following):
                return before, following
            self.take_back([segment])  # somebody else was first: it is made anew

    def _make(self, following: Manifest) -> bool:
        if self._behind is not None:
            return self._behind.publish(following, self._staging.placed, self.folder)
        with turns.naming(self.root):
            if not manifests.publish(self.root, following, self.folder):
                return False
            # Before anybody can prune it. It is made, even where descriptors are too few for that.
            with contextlib.suppress(OSError):
                self._build_on(following)
            return True

    def _in_segments(self, following: Manifest, path: str) -> Manifest:
        """Put what the next manifest would list into a segment at ``path``, if it is much."""
        made = following.in_segments(self.root, path)
        if made is None:
            return following
        manifest, content = made
        draft = self.folder / path.rpartition("/")[2]
        layout.write_durably(draft, content)
        self._staging.place({path: draft})
        return manifest
