"""What changes a store that is open: each call is one commit, and the store is then open at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from actstore.errors import UsageError
from actstore.querying.reader import StoreReader
from actstore.remote.bucket_address import is_bucket
from actstore.storage import fencing
from actstore.storage import manifest as manifests

if TYPE_CHECKING:
    from actstore.hub.push import Pushed, PushOptions
    from actstore.ingestion.labeling import Labelled
    from actstore.ingestion.memory import WriteOptions, WriteSummary
    from actstore.ingestion.write_session import WriteSession
    from actstore.querying.changes import Assignments, CheckedOut, Dropped, Renamed


class StoreChanges(StoreReader):
    """A store at one commit that goes on to those that it makes."""

    def write(
        self, activations: Any, metadata: Any = None, **options: Unpack[WriteOptions]
    ) -> WriteSummary:
        """Store activations that are in memory, as one commit; the store is then open at it.

        Args:
            activations: ``{name or (site, layer): array}``, a cache of TransformerLens or
                nnsight, or transformers' ``hidden_states``; an array is ``[examples, width]``
                or ``[examples, tokens, width]``.
            metadata: columns, records or a table; ``example_id`` is required.
            options: ``model``, ``dataset``, ``pool``, ``mask``, ``token_ids``, ``replace`` and
                the others that :func:`actstore.ingestion.memory.write` describes.

        Raises:
            as :func:`actstore.ingestion.memory.write`.
        """
        from actstore.ingestion.memory import write

        fencing.require_whole(self.name, self.skipped, "write")
        with self._folder() as root:
            done = write(root, activations, metadata, **options)
        self.refresh()
        return done

    def writer(self, *, seconds: float = 300.0, message: str | None = None) -> WriteSession:
        """Return a session for many writes, which gathers them into few commits of full shards.

        ::

            with store.writer() as session:
                for batch in batches:
                    session.write(cache_of(batch), metadata_of(batch), model="gpt2")
            store.refresh()

        An exception that leaves the block commits the writes that were complete; a process that
        is killed leaves what was committed. The store stays open where it is: ``refresh()`` it.

        Args:
            seconds: after which a write commits what waits.
            message: what the log says of each commit.

        Raises:
            UsageError: ``seconds`` is negative, the store is on the Hub, or damaged shards of it
                were left out.
        """
        from actstore.ingestion.write_session import WriteSession

        fencing.require_whole(self.name, self.skipped, "writer")
        return WriteSession(self._place, seconds=seconds, message=message)

    def push(self, to: str, **options: Unpack[PushOptions]) -> Pushed:
        """Push the store to a repository on the Hugging Face Hub, as one commit.

        Labels are written into the shards they belong to first; the store is then open at
        the commit that was pushed. The token is the one of ``hf auth login``, or HF_TOKEN.

        Args:
            to: ``org/name``; made when there is none.
            options: as keywords:
            private: make it private, if it is made.
            revision: branch; made from ``main`` when there is none.
            create_pr: open a pull request instead of committing to ``main``.
            only: names of ``load_dataset`` configs, with ``*`` if wanted: push nothing else.
            archive: compress the shards; smaller, but a reader has to decode them.
            message: title of the commit.
            license: for the card, such as ``apache-2.0``.
            pretty_name: the same.
            dry_run: change nothing; say what would be done.

        Raises:
            UsageError: it is not the store's latest commit that is open, or a wrong argument.
            HubError: the leaf that says why it failed; the repository is as it was.
            ConflictError: the repository holds one of the rows with a different vector.
        """
        from actstore.hub import push as hub

        with self._latest("push takes", history=True, dry=options.get("dry_run", False)) as root:
            done = hub.push(root, to, **options)
        self.refresh()
        return done

    def label(
        self,
        to: str | Callable[[dict[str, Any]], str | None],
        where: str | None = None,
        *,
        message: str | None = None,
    ) -> Labelled:
        """Set the labels of rows, as one commit; the store is then open at it.

        Args:
            to: an SQL expression over the columns, such as
                ``"CASE WHEN prediction = oracle THEN 'right' ELSE 'wrong' END"``; or a function
                that is given a row's metadata as a dict and returns its label. None takes the
                label away.
            where: an SQL condition; rows that do not meet it keep their label.
            message: what the log says.

        Raises:
            SqlError: the expression or condition is refused or fails.
            UsageError: the function returned something else than text or None, or the store
                is on the Hub.
        """
        from actstore.ingestion import labeling

        fencing.require_whole(self.name, self.skipped, "label")
        with self._folder() as root:
            if callable(to):
                done = labeling.label_by_function(root, to, where=where, message=message)
            else:
                done = labeling.label_by_expression(root, to, where=where, message=message)
        self.refresh()
        return done

    def drop(self, where: str, *, prune: bool = False, dry_run: bool = False) -> Dropped:
        """Commit the store without the rows that meet a condition; it is then open at that.

        Args:
            where: an SQL condition; ``"true"`` means every row.
            prune: remove the bytes for good, with all older commits. A commit that somebody
                else has open stays: ``erased.held`` of the result names it.
            dry_run: change nothing; say what would be done.

        Raises:
            UsageError: it is not the store's latest commit that is open, or it is on the Hub.
            SqlError: ``where`` is not one condition.
            DamageError: a file is not what the manifest says; nothing was removed.
            CommitError: another writer changed the same shards meanwhile, or the disk failed.
        """
        from actstore.querying.changes import Drop

        with self._latest("drop changes", dry=dry_run) as root:
            drop = Drop(root, where, prune=prune)
            if prune and not dry_run:
                self._snapshot.release()  # or it would keep the rows itself
            done = drop.outlook if dry_run else drop.apply()
        self.refresh()
        return done

    def rename(
        self, set: Assignments, where: str | None = None, *, dry_run: bool = False
    ) -> Renamed:
        """Give rows other metadata, keys too, as one commit; the store is then open at it.

        No vector is computed or changed. Labels change with ``actstore label``.

        Args:
            set: ``"column = expression"`` in SQL, one or several; or a mapping of columns to
                plain values.
            where: an SQL condition; all rows when missing.
            dry_run: change nothing; say what would be done.

        Raises:
            UsageError: a column cannot be set, a value does not fit the schema, it is not the
                store's latest commit that is open, or it is on the Hub.
            SqlError: an expression or the condition is refused or fails.
            ConflictError: rows would share a key afterwards; the message names them.
            DamageError: a file is not what the manifest says; nothing changed.
            CommitError: another writer changed the same shards meanwhile, or the disk failed.
        """
        from actstore.querying.changes import Rename

        with self._latest("rename changes", dry=dry_run) as root:
            rename = Rename(root, set, where)
            done = rename.outlook if dry_run else rename.apply()
        self.refresh()
        return done

    def checkout(self, at: int, *, dry_run: bool = False) -> CheckedOut:
        """Commit again what commit ``at`` held; the store is then open at the new commit.

        The history stays, so that this too can be undone.

        Args:
            at: number of the commit.
            dry_run: change nothing; say what would be done.

        Raises:
            UsageError: it is not the store's latest commit that is open, or it is on the Hub.
            SnapshotNotFoundError: the store has no such commit.
            DamageError: a file of that commit is not what its manifest says; nothing changed.
            CommitError: another writer has committed meanwhile, or the disk failed.
        """
        from actstore.querying.changes import Checkout

        with self._latest("checkout changes", at=at, dry=dry_run) as root:
            checkout = Checkout(root, at)
            done = checkout.outlook if dry_run else checkout.apply()
        self.refresh()
        return done

    @property
    def _place(self) -> str | Path:
        """Where the store can be written to: its folder, or its address in a bucket."""
        return self.name if is_bucket(self.name) else self.path

    def _folder(self) -> AbstractContextManager[Path]:
        """Give a folder that stands for the store while something is written to it."""
        from actstore.remote.working import working

        return working(self._place)

    @contextmanager
    def _latest(
        self, call: str, *, at: int | None = None, history: bool = False, dry: bool = False
    ) -> Iterator[Path]:
        """Give such a folder, if it is the latest commit that is open, as ``call`` needs.

        Args:
            call: what is called and does that, for messages.
            at: an earlier commit that is needed too.
            history: whether all of them are.
            dry: whether nothing will be written.
        """
        from actstore.remote.working import working

        self._open()
        fencing.require_whole(self.name, self.skipped, call.partition(" ")[0])
        with working(self._place, there=True, at=at, history=history, dry=dry) as root:
            newest = manifests.load(root, lazily=True).number
            if newest != self.commit:
                raise UsageError(
                    f"{self.name} is open at commit {self.commit}, its latest is {newest}, and "
                    f"that is what {call}: refresh() first"
                )
            yield root
