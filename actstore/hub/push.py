"""Pushing a store: shards first and unseen, then one commit with card, manifest and deletions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypedDict, Unpack

from actstore.errors import (
    AccessError,
    HubError,
    OfflineError,
    RateLimitError,
    RemoteChangedError,
    TransferError,
    UsageError,
)
from actstore.hub import origin, repository
from actstore.hub.label_folding import Folded, folded
from actstore.hub.push_commit import Draft, Drafter
from actstore.hub.upload import Uploads
from actstore.remote import address
from actstore.remote.address import Address
from actstore.remote.client import KIND, MAIN, Client
from actstore.remote.state import State, read_state
from actstore.storage import card_configs
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Manifest, ShardEntry
from actstore.storage.scratch import scratch

_ATTEMPTS = 8
_REFUSALS = 3
_FOLDED = "folded"
_BAD_POINTER = "LFS pointer pointed to a file that does not exist"
"""What the Hub says of a commit whose objects it has lost or never got."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What a push did; of a dry run, what it would do."""

    repository: str
    revision: str
    url: str
    created: bool
    """Whether the repository is new."""
    commit: str | None
    """The repository's new commit; None when nothing had changed."""
    number: int
    """Number of the actstore commit that the repository holds now."""
    rows: int
    """Rows in the repository."""
    shards: int
    """Shards in the repository."""
    sent: int
    """Shards that came with this push."""
    sent_bytes: int
    """Their size. What Xet finds to be there already does not travel."""
    removed: int
    """Files that this push deleted."""
    theirs: int
    """Shards in the repository that came from elsewhere."""
    duplicates: int
    """Rows left out because the repository had them from elsewhere."""
    folded: int
    """Rows whose labels were written into their shards first."""
    pull_request: str | None
    dry_run: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PushSettings:
    """What the caller of :func:`push` chose."""

    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    only: Sequence[str] = ()
    archive: bool = False
    message: str | None = None
    license: str | None = None
    pretty_name: str | None = None
    dry_run: bool = False


class PushOptions(TypedDict, total=False):
    """The fields of :class:`PushSettings` as keywords, for editors and type checkers."""

    private: bool
    revision: str | None
    create_pr: bool
    only: Sequence[str]
    archive: bool
    message: str | None
    license: str | None
    pretty_name: str | None
    dry_run: bool


def push(
    store: Path | str,
    to: str,
    *,
    client: Client | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Unpack[PushOptions],
) -> Pushed:
    """Push the latest commit of a store to a repository on the Hub, as one commit.

    Shards are uploaded first; nobody sees them until the commit that names them all, so a
    reader finds the repository before it or after it. A push that was interrupted, run
    again, uploads what is missing. Labels are written into the shards they belong to; the
    store takes these shards over when the push is made, and is not changed when it fails (nor
    by a pull request). What others have pushed meanwhile stays, if they only added.

    Args:
        store: folder of the store.
        to: ``org/name``; made when there is none.
        client: the Hub to push to.
        progress: called with the bytes sent and the bytes to send.
        options: fields of :class:`PushSettings`; one by one:
        private: make it private, if it is made.
        revision: branch; made from ``main`` when there is none.
        create_pr: open a pull request instead of committing to ``main``.
        only: names of ``load_dataset`` configs, with ``*`` if wanted: push nothing else.
        archive: compress the shards; smaller, but a reader has to decode them.
        message: title of the commit.
        license: for the card, such as ``apache-2.0``.
        pretty_name: the same.
        dry_run: change nothing, here or there; say what would be done.

    Raises:
        StoreNotFoundError: there is no store.
        DamageError: a shard or label file of it is missing or damaged; nothing was pushed.
        UsageError: an argument cannot work.
        RepositoryNotFoundError, AccessError, RevisionError, OfflineError, RateLimitError,
        TransferError: the Hub did not take it; the repository is as it was.
        RemoteStoreError: the repository is used for something else, or damaged.
        RemoteChangedError: others have replaced what this push would replace.
        ConflictError: it holds one of the rows with a different vector.
        CardError: the Hub refuses the metadata of the card.
    """
    chosen = PushSettings(**options)
    where = address.parse(to)
    branch = _branch(where, to, chosen)
    root = Path(store)
    chosen_from(manifests.load(root), chosen.only)  # wrong names are told before anything is done
    client = client or Client()
    if client.token is None:
        raise AccessError(
            "pushing needs an access token with write permission: make one at "
            f"{client.endpoint}/settings/tokens and set HF_TOKEN, or run: hf auth login"
        )
    created = repository.ensure(
        client, where.repository, private=chosen.private, dry_run=chosen.dry_run
    )
    if not (created and chosen.dry_run):
        repository.ensure_branch(client, where.repository, branch, dry_run=chosen.dry_run)
    with (
        scratch("push") as temporary,
        _as_pushed(root, temporary / _FOLDED, dry_run=chosen.dry_run) as local,
    ):
        uploads = Uploads(
            client,
            where.repository,
            branch,
            create_pr=chosen.create_pr,
            archive=chosen.archive,
            folder=temporary,
            progress=progress,
        )
        drafter = Drafter(
            client=client,
            folded=local,
            chosen=chosen_from(local.manifest, chosen.only),
            repository=where.repository,
            branch=branch,
            archive=chosen.archive,
            fields={
                key: value
                for key, value in (("license", chosen.license), ("pretty_name", chosen.pretty_name))
                if value is not None
            },
            uploads=uploads,
            folder=temporary,
        )
        pushing = _Pushing(client, drafter, uploads, branch, chosen.create_pr, chosen.message)
        if chosen.dry_run:
            state = None
            if not created:
                read = repository.look_at_branch(client, where.repository, branch)
                state = read_state(client, where.repository, read)
            draft = drafter.survey(state)
            draft, labels = drafter.with_labels(draft)
            made = _PushOutcome(None)
            return _summary(pushing, draft, made, created=created, folded=labels, dry_run=True)
        draft, made = pushing.run()
        if not chosen.create_pr:
            pushing.remember(draft, made)
        drafter.take_over_card(draft)
    return _summary(pushing, draft, made, created=created, folded=local.labels, dry_run=False)


def _branch(where: Address, to: str, chosen: PushSettings) -> str:
    """Return the branch to push to.

    Raises:
        UsageError: it is given twice, or what is named is no whole repository.
    """
    if where.path:
        raise UsageError(f"{to!r} names a path: a store is pushed to a whole repository")
    if chosen.revision is not None and where.revision is not None:
        raise UsageError(f"the revision is given twice: in {to!r} and as {chosen.revision!r}")
    branch = chosen.revision or where.revision or MAIN
    if chosen.create_pr and branch != MAIN:
        raise UsageError("a pull request is made against main: leave out the revision")
    return branch


@contextlib.contextmanager
def _as_pushed(root: Path, links: Path, *, dry_run: bool) -> Iterator[Folded]:
    """Give the store as it is to be pushed; for a dry run as it is."""
    if dry_run:
        yield Folded(root=root, manifest=manifests.load(root).whole())
    else:
        with folded(root, links) as store:
            yield store


def chosen_from(manifest: Manifest, only: Sequence[str]) -> tuple[ShardEntry, ...]:
    """Return the shards of the configs that the patterns name; all, without patterns.

    Raises:
        UsageError: a pattern fits no config.
    """
    from fnmatch import fnmatchcase

    if not only:
        return manifest.shards
    known = [config for config in card_configs.configs(manifest) if config.columns is None]
    paths: set[str] = set()
    for pattern in only:
        found = [config for config in known if fnmatchcase(config.name, pattern)]
        if not found:
            names = ", ".join(config.name for config in known[:8])
            more = f" and {len(known) - 8} more" if len(known) > 8 else ""
            raise UsageError(f"no config is called {pattern!r}: there are {names}{more}")
        paths |= {entry.path for config in found for entry in config.entries}
    return tuple(entry for entry in manifest.shards if entry.path in paths)


class _PushOutcome(NamedTuple):
    """What came of an attempt."""

    commit: str | None
    """The repository's new commit, if it has one."""
    request: str | None = None
    """Address of the pull request, if it became one."""


class _Pushing:
    """The commit, tried until it is made or cannot be made."""

    def __init__(
        self,
        client: Client,
        drafter: Drafter,
        uploads: Uploads,
        branch: str,
        create_pr: bool,
        message: str | None,
    ) -> None:
        self.client = client
        self.drafter = drafter
        self._uploads = uploads
        self.branch = branch
        self._create_pr = create_pr
        self._message = message

    def look(self) -> State:
        return read_state(self.client, self.drafter.repository, self.branch)

    def run(self) -> tuple[Draft, _PushOutcome]:
        """Return what is in the repository now, and the commit that made it so, if one did."""
        pending: Draft | None = None
        pause = self.client.patience.first
        problem: HubError = TransferError("")
        refusals = 0
        for _ in range(_ATTEMPTS):
            state = self.look()
            if pending is not None:
                landed = self._landed(pending, state)
                if landed is not None:
                    return pending, landed
                refused = isinstance(problem, RemoteChangedError)
                refusals = refusals + 1 if refused and state.commit == pending.base else 0
                if refusals == _REFUSALS:
                    raise AccessError(
                        f"{self.drafter.repository} refuses the commit as if somebody had pushed "
                        "meanwhile, but nobody has: the token in use may be allowed to open pull "
                        "requests only; push with --create-pr, or take another token"
                    )
            draft = self.drafter.draft(state)
            if not draft.changes:
                return draft, _PushOutcome(None)
            try:
                made = self._commit(draft)
            except RateLimitError as error:
                if (error.seconds or 0) > self.client.patience.most:
                    raise
                problem = error
            except (RemoteChangedError, OfflineError) as error:
                problem = error
            except TransferError as error:
                if _BAD_POINTER in error.said:
                    self._uploads.forget()
                elif error.status is not None and error.status < 500 and error.status != 408:
                    raise
                problem = error
            else:
                return draft, made
            pending = draft
            self.client.rest(pause)
            pause *= 2
        raise problem

    def _commit(self, draft: Draft) -> _PushOutcome:
        operations = draft.operations(self._uploads)
        title = self._message or draft.title

        def commit() -> _PushOutcome:
            info = self.client.api.create_commit(
                self.drafter.repository,
                operations,
                commit_message=title,
                commit_description=draft.description,
                repo_type=KIND,
                revision=self.branch,
                parent_commit=draft.base,
                create_pr=self._create_pr,
            )
            return _PushOutcome(info.oid, info.pr_url)

        doing = f"commit to {self.drafter.repository}"
        with self.client.quiet():
            return self.client.call(
                doing,
                commit,
                repository=self.drafter.repository,
                revision=self.branch,
                attempts=1,
            )

    def _landed(self, draft: Draft, state: State) -> _PushOutcome | None:
        """Return the commit of an attempt whose answer was lost, if it was made after all."""
        if not self._create_pr:
            return _PushOutcome(state.commit) if draft.is_in(state) else None
        for request, commit in repository.open_pull_requests(
            self.client, self.drafter.repository, self._message or draft.title
        ):
            found = read_state(self.client, self.drafter.repository, commit=commit)
            if draft.is_in(found):
                return _PushOutcome(commit, request)
        return None

    def remember(self, draft: Draft, made: _PushOutcome) -> None:
        """Note what the repository holds, and let the store take over what was made for it.

        The note comes first, so that nothing is lost if the store is not reached any more.
        """
        store = self.drafter.folded
        met = self.drafter.remembered(draft, made.commit or draft.base)
        origin.save(store.root, store.without(met))
        if store.take_over() and store.renamed:
            origin.save(store.root, met)


def _summary(
    pushing: _Pushing,
    draft: Draft,
    made: _PushOutcome,
    *,
    created: bool,
    folded: int,
    dry_run: bool,
) -> Pushed:
    name = pushing.drafter.repository
    return Pushed(
        repository=name,
        revision=pushing.branch,
        url=f"{pushing.client.endpoint}/datasets/{name}",
        created=created,
        commit=made.commit,
        number=draft.manifest.number,
        rows=draft.manifest.rows,
        shards=len(draft.manifest.shards),
        sent=len(draft.sent),
        sent_bytes=sum(entry.bytes for entry in draft.sent),
        removed=len(draft.deleted),
        theirs=draft.theirs,
        duplicates=draft.duplicates,
        folded=folded,
        pull_request=made.request,
        dry_run=dry_run,
    )
