"""Where the pieces of an ingest wait that is committed as one: a draft beside what the store has.

It lies in the store's folder for derived files, or below its address. A process that is killed
leaves it there, and the same ingest goes on with it, as long as the store is what it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from actstore.errors import ActstoreError, CommitError
from actstore.ingestion import fetching
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.workers.answers import Kept, Read, Stored, decoded, encoded
from actstore.ingestion.workers.pieces import Piece
from actstore.remote.bucket import Bucket
from actstore.remote.bucket_address import is_bucket, parse_bucket
from actstore.remote.working import working
from actstore.storage import layout
from actstore.storage import manifest as manifests
from actstore.storage.disk_errors import writing
from actstore.storage.drafting import Part, Takeover, going_on_from, parts_of, take_over
from actstore.storage.manifest import Manifest, Run, ShardEntry
from actstore.storage.partition import StoredRows
from actstore.storage.piece_writer import LeftOut
from actstore.storage.transaction import Transaction

_HEAD = "draft"
"""Kind of the run by which a draft begins: whose rows it holds, and what it goes on from."""
_LOCK = "lock"
_RECORDS = "records"


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftPlace:
    """Where a draft lies, as whoever writes to it needs to know."""

    place: Path | str
    """Its folder, which all see, or its address in a bucket."""
    base: int
    """Number of the commit that it goes on from."""

    @contextlib.contextmanager
    def opened(self, root: Path) -> Iterator[Path]:
        """Give it as a folder to write to while the block runs.

        Args:
            root: folder of the store that it goes on from.
        """
        at = self.base or None
        with working(self.place, at=at) as folder, going_on_from(folder, root, self.base):
            yield folder

    def number_of(self, piece: Piece) -> int:
        """Return the number of the commit by which a piece comes: one begins the draft."""
        return self.base + 2 + piece.place

    def keep(self, name: str, kept: Kept) -> str:
        """Keep what came of a piece; return under which name."""
        path = f"{_RECORDS}/{name}.{layout.new_transaction()}.json"
        if is_bucket(self.place):
            Bucket(parse_bucket(self.place)).put(path, encoded(kept))
            return path
        target = Path(self.place) / path
        with writing(target.parent):
            target.parent.mkdir(exist_ok=True)
            layout.replace_durably(target, encoded(kept))
        return path

    def kept(self, part: Part) -> tuple[Read, Stored]:
        """Return what came of a piece, and of its commit.

        Raises:
            ValueError, KeyError, TypeError, OSError: it is not there, or damaged.
            BucketError: it cannot be read.
        """
        path = part.note["record"]
        if is_bucket(self.place):
            data = Bucket(parse_bucket(self.place)).read(path)
            if data is None:
                raise FileNotFoundError(path)
        else:
            data = (Path(self.place) / path).read_bytes()
        read, replaced = decoded(data)
        return read, stored_of(part, replaced)


def stored_of(part: Part, replaced: Mapping[str, list[int]]) -> Stored:
    """Return what came of a piece's commit to a draft."""
    return Stored(None, LeftOut(*part.note["left_out"]), part.shards, None, replaced)


class _Home(Protocol):
    """Where the drafts of an ingest lie."""

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Keep other processes out while the block runs, as far as they can be seen."""

    def names(self) -> list[str]:
        """Return the drafts that are there."""

    def place_of(self, name: str) -> Path | str:
        """Return where a draft lies."""

    def begin(self, name: str, paths: Sequence[str]) -> None:
        """Make a draft that has some files of the store, by their paths in it."""

    def clear(self) -> None:
        """Remove all drafts."""

    def takeover(self, name: str) -> dict[str, Any]:
        """Return how shards of a draft come over into the store: fields of a Takeover."""


class _Folder:
    """In the store's folder for derived files."""

    def __init__(self, root: Path, mark: str) -> None:
        self._root = root
        self._folder = root / layout.CACHE / mark

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        lock = self._locked()
        try:
            yield
        finally:
            if not self.names():
                with contextlib.suppress(OSError):
                    (self._folder / _LOCK).unlink()
                    self._folder.rmdir()
                    self._folder.parent.rmdir()  # unless something else is in it
            os.close(lock)

    def _locked(self) -> int:
        path = self._folder / _LOCK
        with writing(self._root):
            while True:
                self._folder.mkdir(parents=True, exist_ok=True)
                lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.path.samestat(os.fstat(lock), path.stat()):
                        return lock
                except BlockingIOError:
                    os.close(lock)
                    raise CommitError(
                        f"another ingest of these files into {self._root} is under way: wait for "
                        "it, then run the command again"
                    ) from None
                except FileNotFoundError:  # who had it has just come to its end
                    pass
                os.close(lock)

    def names(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(each.name for each in self._folder.iterdir() if each.is_dir())
        return []

    def place_of(self, name: str) -> Path:
        return self._folder / name

    def begin(self, name: str, paths: Sequence[str]) -> None:
        with writing(self._root):
            (self._folder / name / layout.MANIFESTS).mkdir(parents=True)
            for path in paths:
                target = self._folder / name / path
                target.parent.mkdir(exist_ok=True)
                os.link(self._root / path, target)

    def clear(self) -> None:
        for name in self.names():
            shutil.rmtree(self._folder / name, ignore_errors=True)

    def takeover(self, name: str) -> dict[str, Any]:
        def fetch(path: str, target: Path) -> None:
            os.link(self._folder / name / path, target)

        return {"fetch": fetch}


class _Prefix:
    """Below the address of a store in a bucket."""

    def __init__(self, place: str, mark: str) -> None:
        self._bucket = Bucket(parse_bucket(place))
        self._prefix = f"{layout.CACHE}/{mark}"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        yield  # nobody can see there who else writes

    def names(self) -> list[str]:
        start = len(self._prefix) + 1
        found = self._bucket.objects(self._prefix)
        return sorted({each.path[start:].partition("/")[0] for each in found})

    def place_of(self, name: str) -> str:
        root = self._bucket.address
        return f"{root}/{self._prefix}/{name}"

    def begin(self, name: str, paths: Sequence[str]) -> None:
        for path in paths:
            self._bucket.copy(path, f"{self._prefix}/{name}/{path}")

    def clear(self) -> None:
        self._bucket.delete([each.path for each in self._bucket.objects(self._prefix)])

    def takeover(self, name: str) -> dict[str, Any]:
        def fetch(path: str, target: Path) -> None:
            with target.open("wb") as file:
                for block in self._bucket.blocks(f"{self._prefix}/{name}/{path}"):
                    file.write(block)

        def send(path: str, new: str) -> None:
            self._bucket.copy(f"{self._prefix}/{name}/{path}", new)

        def unsend(paths: Sequence[str]) -> None:
            self._bucket.delete(list(paths))

        return {"fetch": fetch, "send": send, "unsend": unsend}


@dataclass(slots=True, kw_only=True)
class Draft:
    """The draft of one ingest, as the process has it that hands the pieces out."""

    place: DraftPlace
    run: Run
    """Whose rows these are: of the process that began it."""
    done: dict[str, tuple[Read, Stored]] = field(default_factory=dict)
    """By its name, what came of each piece that was stored when it was opened."""
    _home: _Home
    _name: str
    _root: Path
    _base: Manifest

    def clear(self) -> None:
        """Remove it; what is left of it somebody else removes one day."""
        with contextlib.suppress(OSError, ActstoreError):
            self._home.clear()

    def replaced(self, rows: Mapping[str, set[int]]) -> list[StoredRows]:
        """Return rows of stored shards, given by the shards' paths, in the order of the store."""
        import numpy as np

        return [
            StoredRows(entry, np.array(sorted(rows[entry.path]), np.int64))
            for entry in self._base.shards
            if entry.path in rows
        ]

    def take_over(
        self,
        change: Transaction,
        shards: set[str],
        replaced: Sequence[StoredRows],
        message: str,
    ) -> tuple[Manifest | None, int]:
        """Commit its shards to the store, and remove it; see :func:`drafting.take_over`.

        Args:
            change: of the store.
            shards: those that count.
            replaced: stored rows whose place theirs take.
            message: what the log says.
        """
        found = Takeover(
            entries=[entry for entry in self._shards() if entry.path in shards],
            replaced=replaced,
            run=self.run,
            **self._home.takeover(self._name),
        )
        try:
            made = take_over(change, found, operation="ingest", message=message)
        except ActstoreError:
            if change.base.number != self._base.number:
                self.clear()  # the store is another by now: nobody would go on with it
            raise
        self.clear()
        return made

    def _shards(self) -> tuple[ShardEntry, ...]:
        with self.place.opened(self._root) as folder:
            return manifests.latest(folder).shards


@contextlib.contextmanager
def held(
    place: Path | str,
    root: Path,
    base: Manifest,
    *,
    run: Run,
    files: Sequence[SourceFile],
    fingerprint: str,
    names: Sequence[str],
) -> Iterator[Draft]:
    """Hold the draft of an ingest while the block runs: the one that was left, or a new one.

    One that was left counts while the store's latest commit is the one that it goes on from, and
    its pieces are the first ones of the ingest, in their order: so they are what they would be now.

    Args:
        place: the store: a folder, or an address in a bucket.
        root: a folder that stands for it here.
        base: its latest commit, which the caller keeps from being pruned.
        run: whose rows these are, if it is a new one.
        files: what is ingested.
        fingerprint: of all that decides what becomes of them.
        names: of the pieces, in their order.

    Raises:
        CommitError: it cannot be written, or another process holds it.
        BucketError: the bucket cannot be read or written.
    """
    text = "\n".join(sorted({fetching.called(file.root) for file in files}))
    home: _Home
    if is_bucket(place):
        # Others that are alive cannot be seen there: only those that do the same are disturbed.
        home = _Prefix(str(place), _mark(f"{text}\n{fingerprint}"))
    else:
        home = _Folder(Path(place), _mark(text))
    with home.alone():
        found = _found(home, root, base, fingerprint, names)
        if found is None:
            home.clear()
            found = _begun(home, root, base, fingerprint, run)
        yield dataclasses.replace(
            found,
            run=dataclasses.replace(run, run_id=found.run.run_id, started_at=found.run.started_at),
        )


def _mark(text: str) -> str:
    return f"ingest-{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"


def _about(base: Manifest, fingerprint: str) -> dict[str, Any]:
    """Return what a draft says of itself."""
    return {
        "of": fingerprint,
        "base": base.number,
        "base_sha256": base.sha256 if base.number else "",
    }


def _begun(home: _Home, root: Path, base: Manifest, fingerprint: str, run: Run) -> Draft:
    """Begin a draft."""
    name = layout.new_transaction()
    paths = [segment.path for segment in base.segments]
    if base.number:
        paths.append(layout.manifest_path(Path(), base.number).as_posix())
    home.begin(name, paths)
    place = DraftPlace(place=home.place_of(name), base=base.number)
    head = Run(
        run_id=run.run_id,
        kind=_HEAD,
        started_at=run.started_at,
        settings=_about(base, fingerprint),
    )
    with place.opened(root) as folder, Transaction(folder) as change:
        change.commit(
            {}, lambda latest: latest.adding((), run=head, operation="ingest", message="begun")
        )
    return Draft(place=place, run=head, _home=home, _name=name, _root=root, _base=base)


def _found(
    home: _Home, root: Path, base: Manifest, fingerprint: str, pieces: Sequence[str]
) -> Draft | None:
    """Return the draft that was left; None where there is none that counts."""
    names = home.names()
    if len(names) != 1:
        return None
    place = DraftPlace(place=home.place_of(names[0]), base=base.number)
    try:
        with place.opened(root) as folder:
            manifest = manifests.latest(folder)
            heads = [run for run in manifest.runs if run.kind == _HEAD]
            if [head.settings for head in heads] != [_about(base, fingerprint)]:
                return None
            parts = parts_of(manifest)
            if [*parts] != list(pieces[: len(parts)]):
                return None
            done = {piece: place.kept(part) for piece, part in parts.items()}
            entries = [each for each in manifest.shards if each.since > base.number]
            if not is_bucket(place.place) and not all(_is_whole(folder, e) for e in entries):
                return None
    except (ActstoreError, OSError, ValueError, KeyError, TypeError):
        return None  # it is begun anew, and says what is wrong with the place if that is it
    return Draft(
        place=place,
        run=heads[0],
        done=done,
        _home=home,
        _name=names[0],
        _root=root,
        _base=base,
    )


def _is_whole(folder: Path, entry: ShardEntry) -> bool:
    return (folder / entry.path).stat().st_size == entry.bytes
