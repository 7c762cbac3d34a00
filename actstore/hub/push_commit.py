"""The next commit of a repository: its manifest, its card, what comes and what goes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from actstore import schema
from actstore.errors import ActstoreError, RemoteStoreError, UsageError
from actstore.hub import origin
from actstore.hub.diff import PushDiff, in_order, push_diff
from actstore.hub.label_folding import Folded
from actstore.hub.origin import Origin
from actstore.hub.overlap import Fresh, leave_out
from actstore.hub.own_table import OwnTable, make
from actstore.hub.row_changes import rewritten, row_changes
from actstore.hub.upload import Uploads
from actstore.remote.client import Client
from actstore.remote.state import State, manifest_name
from actstore.storage import card, card_overview, card_text, layout, shard_columns
from actstore.storage import manifest as manifests
from actstore.storage.card_configs import OWN_FILE
from actstore.storage.card_overview import LabelCounts
from actstore.storage.card_text import Own
from actstore.storage.manifest import Manifest, ShardEntry
from actstore.storage.threads import in_parallel

if TYPE_CHECKING:
    import pyarrow as pa
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

Read = Callable[[ShardEntry, "list[str]"], "pa.Table"]
"""Returns metadata columns of a shard."""
MOST_IN_FOLDER = 10_000
MOST_FILES = 100_000
_OURS = (f"{layout.ACTIVATIONS}/", f"{layout.LABELS}/", f"{layout.MANIFESTS}/")
"""Folders of a repository in which files that the commit does not name are removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One commit, not made yet. Empty bytes: not worked out, because it is only a survey."""

    base: str
    """Commit of the repository that it goes on top of."""
    manifest: Manifest
    manifest_bytes: bytes
    card: bytes
    own: Own
    """The owner's part of the card."""
    sent: tuple[ShardEntry, ...]
    deleted: tuple[str, ...]
    replaced: dict[str, str | None]
    """Shards of the store that go under another name, or not at all."""
    theirs: int
    duplicates: int
    changes: bool
    message: str
    own_table: OwnTable | None = None
    """Goes with the shards where some row has columns of its own."""

    @property
    def title(self) -> str:
        """What the repository's history shows unless the user names a title."""
        return (
            f"actstore commit {self.manifest.number}: {self.manifest.rows:,} rows in "
            f"{len(self.manifest.shards):,} shards"
        )

    @property
    def description(self) -> str:
        """Says which actstore commit it is, for people and for `--at N`."""
        print_ = card_overview.fingerprint(self.manifest.shards)
        return (
            f"{self.message}\n\nactstore-commit: {self.manifest.number}\n"
            f"actstore-rows: {self.manifest.rows}\nactstore-fingerprint: {print_}\n"
        )

    def is_in(self, state: State) -> bool:
        """Say whether a repository holds what this would make of it."""
        return (
            state.holds_bytes(manifest_name(self.manifest.number), self.manifest_bytes)
            and state.holds_bytes(layout.CARD, self.card)
            and (self.own_table is None or state.holds(OWN_FILE, self.own_table.sha256))
            and all(state.holds(entry.path, entry.sha256) for entry in self.sent)
        )

    def operations(self, uploads: Uploads) -> list[CommitOperationAdd | CommitOperationDelete]:
        """Return what the commit consists of."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        name = manifest_name(self.manifest.number)
        return [
            *(uploads.operation(entry.path) for entry in self.sent),
            CommitOperationAdd(path_in_repo=layout.CARD, path_or_fileobj=self.card),
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=self.manifest_bytes),
            *([self.own_table.operation()] if self.own_table is not None else []),
            *(CommitOperationDelete(path_in_repo=path) for path in self.deleted),
        ]


@dataclass(kw_only=True)
class Drafter:
    """Works out drafts for one push, as often as the repository changes meanwhile."""

    client: Client
    folded: Folded
    """The store."""
    chosen: tuple[ShardEntry, ...]
    repository: str
    branch: str
    archive: bool
    fields: dict[str, str]
    """Metadata of the card to set."""
    uploads: Uploads
    folder: Path
    """Temporary folder."""
    _compared: PushDiff | None = None
    _last: tuple[PushDiff, list[Fresh]] | None = None
    _origin: Origin | None = None

    @property
    def root(self) -> Path:
        """The store's folder."""
        return self.folded.root

    @property
    def local(self) -> Manifest:
        """What the store holds, labels in their shards."""
        return self.folded.manifest

    def survey(self, state: State | None) -> Draft:
        """Return what a push would send and remove, without sending anything.

        Args:
            state: the repository; None when it is yet to be made.
        """
        state = state or State(
            repository=self.repository, commit="", files={}, manifest=None, card=""
        )
        diff, fresh = self._compare(state)
        sent = tuple(item.entry for item in fresh if item.entry.rows)
        shards = in_order(self.local, diff, sent)
        manifest = self._manifest(state, shards)
        return self._draft(state, diff, fresh, sent, manifest, b"", self._own(state))

    def with_labels(self, survey: Draft) -> tuple[Draft, int]:
        """Return a survey with the shards into which labels would be written, and their rows."""
        overlays = shard_columns.overlays(self.root, self.local.labels)
        touched = tuple(entry for entry in self.chosen if entry.path in overlays)
        there = {entry.path for entry in survey.manifest.shards} - {e.path for e in survey.sent}
        sent = tuple(dict.fromkeys((*survey.sent, *touched)))
        gone = tuple(entry.path for entry in touched if entry.path in there)
        found = dataclasses.replace(survey, sent=sent, deleted=(*survey.deleted, *gone))
        return found, sum(len(overlays[entry.path]) for entry in touched)

    def draft(self, state: State) -> Draft:
        """Send what is missing and return the commit on top of ``state``.

        Raises:
            RemoteStoreError, RemoteChangedError, ConflictError, HubError: see ``push``.
        """
        diff, fresh = self._compare(state)
        sent = tuple(self.uploads.send([item for item in fresh if item.entry.rows]))
        shards = in_order(self.local, diff, sent)
        manifest = self._manifest(state, shards)
        own = self._own(state)
        places = {item.entry.path: item for item in fresh if item.entry.rows}
        read = self._reader(state, places)
        counts, has_own = _counted(manifest, read)
        own_table = None
        if has_own:
            names = list(schema.metadata_names())
            own_table = make((read(entry, names) for entry in manifest.shards), self.folder)
        text = card.render(
            manifest,
            [entry.path for entry in shards],
            own,
            name=self.repository,
            labels=counts,
            own_columns=own_table.columns if own_table is not None else (),
        )
        # The Hub takes UTF-8 only.
        data = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode()
        return self._draft(state, diff, fresh, sent, manifest, data, own, own_table)

    def _draft(
        self,
        state: State,
        diff: PushDiff,
        fresh: list[Fresh],
        sent: tuple[ShardEntry, ...],
        manifest: Manifest,
        card_bytes: bytes,
        own: Own,
        own_table: OwnTable | None = None,
    ) -> Draft:
        named = {entry.path for entry in manifest.shards} | {manifest_name(manifest.number)}
        strays = sorted(path for path in state.files if path.startswith(_OURS))
        if card_bytes and own_table is None and OWN_FILE in state.files:
            strays.append(OWN_FILE)
        deleted = tuple(path for path in strays if path not in named)
        encoded = manifest.encode()
        same = state.holds_bytes(manifest_name(manifest.number), encoded) and (
            not card_bytes or state.holds_bytes(layout.CARD, card_bytes)
        )
        if own_table is not None:
            same = same and state.holds(OWN_FILE, own_table.sha256)
        replaced = {
            item.original.path: item.entry.path if item.entry.rows else None
            for item in fresh
            if item.entry.path != item.original.path or not item.entry.rows
        }
        return Draft(
            base=state.commit,
            manifest=manifest,
            manifest_bytes=encoded,
            card=card_bytes,
            own=own,
            sent=sent,
            deleted=deleted,
            replaced=replaced,
            theirs=len(diff.theirs),
            duplicates=sum(item.original.rows - item.entry.rows for item in fresh),
            changes=bool(sent or deleted or not same),
            message=self.local.message or self.local.operation,
            own_table=own_table,
        )

    def _compare(self, state: State) -> tuple[PushDiff, list[Fresh]]:
        if state.foreign:
            raise RemoteStoreError(
                f"{self.repository} holds no store but {', '.join(state.foreign[:3])}"
                f"{' and more' if len(state.foreign) > 3 else ''}: nothing was pushed; push to a "
                "new name, or to a repository that holds nothing but a README.md"
            )
        remote = state.manifest or manifests.EMPTY
        known = None
        if state.manifest is not None:
            known = origin.load(self.root, self.repository, self.branch, self.client.endpoint)
            if known is not None and self._met_since(known):
                known = None
        lost = self._lost(state, remote)
        remote = _without(remote, lost)
        if known is not None:
            kept = tuple(path for path in known.shards if path not in lost)
            known = self.folded.met(dataclasses.replace(known, shards=kept), remote.shards)
        self._origin = known
        diff = push_diff(
            self.repository,
            self.local,
            self.chosen,
            remote,
            origin=self._origin,
            once_local=self._once_local,
            archive=self.archive,
        )
        if self._last is not None and self._compared == diff:
            return self._last
        self._compared = diff
        fresh: list[Fresh] = []
        if diff.theirs:
            changes = row_changes(self.folded, known, self.chosen)
            anew = rewritten(self.client, state, known, diff.theirs, changes, self.folder)
            fresh = [item for items in anew.values() for item in items]
            theirs = tuple(entry for entry in diff.theirs if entry.path not in anew)
            theirs += tuple(item.entry for item in fresh)
            stays = tuple(entry for entry in diff.kept if entry.path not in anew)
            diff = dataclasses.replace(diff, kept=stays, theirs=theirs)
            fresh += leave_out(self.client, state, self.folded, diff.missing, theirs, self.folder)
        else:
            fresh = [Fresh(entry, entry, self.folded.folder(entry)) for entry in diff.missing]
        self._last = diff, fresh
        _check_counts([*diff.kept, *(item.entry for item in fresh if item.entry.rows)])
        return self._last

    def _met_since(self, known: Origin) -> bool:
        """Say whether a pull came after what is remembered: into a copy that was synced back."""
        place = {
            "repository": known.repository,
            "revision": known.revision,
            "endpoint": known.endpoint,
        }
        numbers = [
            run.settings.get("number")
            for run in self.local.runs
            if run.kind == "pull" and place.items() <= run.settings.items()
        ]
        return any(isinstance(number, int) and number > known.number for number in numbers)

    def _lost(self, state: State, remote: Manifest) -> set[str]:
        """Return the shards whose files are gone up there, all of which the store can bring back.

        Raises:
            RemoteStoreError: there are others among them.
        """
        lost = {e.path for e in remote.shards if not state.holds(e.path, e.sha256)}
        beyond = sorted(lost - {entry.path for entry in self.local.shards})
        if beyond:
            raise RemoteStoreError(
                f"the store in {self.repository} is damaged: {beyond[0]} is missing or another "
                "file than its manifest says; restore it from the repository's history"
            )
        return lost

    @cached_property
    def _once_local(self) -> frozenset[str]:
        """Paths of all shards that any commit of the store names, and no pull has taken away.

        Those a pull of another state of some repository took: nobody here has given them up.
        """
        found: set[str] = set()
        before: set[str] = set()
        for number in manifests.numbers(self.root):
            with contextlib.suppress(ActstoreError):  # an old one may be damaged or just pruned
                commit = manifests.load(self.root, number)
                now = {entry.path for entry in commit.shards}
                if commit.operation == "pull":
                    found -= before - now
                found |= now
                before = now
        return frozenset(found | {entry.path for entry in self.local.shards})

    def _manifest(self, state: State, shards: tuple[ShardEntry, ...]) -> Manifest:
        held, local = state.manifest, self.local
        if held is not None and held.shards == shards and not held.labels:
            return held
        known = {run.run_id for run in held.runs} if held is not None else set()
        runs = (*(held.runs if held else ()), *(r for r in local.runs if r.run_id not in known))
        if held is not None and held.number >= local.number:
            return Manifest(
                number=held.number + 1,
                parent=held.number,
                parent_sha256=held.sha256,
                created_at=manifests.now(),
                operation="push",
                message=local.message,
                shards=shards,
                runs=runs,
            )
        if local.shards == shards and {run.run_id for run in local.runs} == {
            run.run_id for run in runs
        }:
            return local  # so that both have the very same manifest
        return dataclasses.replace(local, shards=shards, labels=(), runs=runs)

    def _own(self, state: State) -> Own:
        """Return what the owner wrote, in the store's card or in the repository's."""
        base = card_text.take_apart(self._origin.card if self._origin is not None else "")
        local = card_text.take_apart(card.read(self.root))
        there = card_text.take_apart(state.card) if state.card else base
        joined = card_text.merge(base, local, there)
        return card_text.with_fields(joined, self.fields)

    def _reader(self, state: State, places: dict[str, Fresh]) -> Read:
        """Return what reads columns of the commit's shards, of those from elsewhere too."""
        live = {entry.path: entry for entry in self.local.shards}
        remote = state.remote_files(self.client) if state.manifest is not None else None

        def read(entry: ShardEntry, columns: list[str]) -> pa.Table:
            here = places.get(entry.path)
            if here is not None:
                return shard_columns.read_columns(here.folder, here.entry, columns)
            if entry.path in live:
                own = live[entry.path]
                return shard_columns.read_columns(self.folded.folder(own), own, columns)
            assert remote is not None
            return remote.columns(entry, columns)

        return read

    def remembered(self, draft: Draft, commit: str) -> Origin:
        """Return what the store is to remember after the repository became this draft."""
        before = self._origin
        live = {entry.path for entry in self.local.shards}
        known = {**(before.replaced if before else {}), **draft.replaced}
        there = {entry.path for entry in draft.manifest.shards}
        candidates = [*(before.shards if before else self._once_local), *live]
        common = {
            path
            for path in candidates
            if known.get(path, path) in there or (path in live and known.get(path, path) is None)
        }
        return Origin(
            repository=self.repository,
            revision=self.branch,
            endpoint=self.client.endpoint,
            commit=commit,
            number=draft.manifest.number,
            shards=tuple(sorted(common)),
            replaced={path: at for path, at in known.items() if path in common},
            card=draft.card.decode(),
        )

    def take_over_card(self, draft: Draft) -> None:
        """Write into the store's card what its owner wrote on the Hub, and the new fields."""
        if draft.own != card_text.take_apart(card.read(self.root)):
            with contextlib.suppress(ActstoreError):  # a store that cannot be written to
                card.refresh(self.root, own=draft.own)


def _counted(manifest: Manifest, read: Read) -> tuple[LabelCounts, bool]:
    """Count rows per task and label, and say whether any has something in ``extra``."""

    def count(entry: ShardEntry) -> tuple[LabelCounts, bool]:
        table = read(entry, ["task", "label", "extra"])
        return card_overview.count_labels(table), table["extra"].null_count < table.num_rows

    total: LabelCounts = Counter()
    has_own = False
    for counts, more in in_parallel(count, manifest.shards):
        total.update(counts)
        has_own = has_own or more
    return total, has_own


def _without(manifest: Manifest, paths: set[str]) -> Manifest:
    shards = tuple(entry for entry in manifest.shards if entry.path not in paths)
    return dataclasses.replace(manifest, shards=shards) if paths else manifest


def _check_counts(shards: list[ShardEntry]) -> None:
    """Refuse more files than the Hub takes well, before any of them is sent."""
    folders = Counter(entry.path.rpartition("/")[0] for entry in shards)
    folder, most = folders.most_common(1)[0] if folders else ("", 0)
    if most > MOST_IN_FOLDER or len(shards) > MOST_FILES:
        what = f"{most:,} in {folder}" if most > MOST_IN_FOLDER else "in all"
        raise UsageError(
            f"the repository would hold {len(shards):,} shards, {what}; the Hub takes "
            f"{MOST_IN_FOLDER:,} files in a folder and {MOST_FILES:,} in all: join small ones "
            "with actstore compact, then push"
        )
