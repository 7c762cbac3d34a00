"""An ingest by Ray: actors read pieces of the files, and store them one after the other.

Pieces are read side by side and committed in the order of the source: so rows stand in the order in
which one process would have stored them, and what repeats or contradicts an earlier file is left
out or refused as there. What is to be stored whole or not at all is committed so to a draft, and
that becomes one commit of the store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from actstore.ingestion import fetching
from actstore.ingestion.readers import Reader
from actstore.ingestion.reading import Outcome, Reading
from actstore.ingestion.report import Progress
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.width_check import Widths
from actstore.ingestion.workers import draft as drafts
from actstore.ingestion.workers.draft import Draft
from actstore.ingestion.workers.driver import Driver, Made
from actstore.ingestion.workers.pieces import cut, fingerprint, finished
from actstore.ingestion.workers.worker import Work
from actstore.remote.bucket_address import check_seen_by_others, is_bucket
from actstore.remote.mirror import Mirror
from actstore.storage import narrowing
from actstore.storage.manifest import Run
from actstore.storage.partition import StoredRows
from actstore.storage.transaction import Transaction
from actstore.workers.moving import moved


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """What it takes to store all pieces or none."""

    agree: Callable[[Outcome, Sequence[StoredRows]], None]
    """Shown what came of all pieces and which rows would be replaced; raises to store nothing."""
    replace: bool = False
    """Whether rows take the place of stored ones with another vector."""


def ingest_with_ray(
    reading: Reading,
    reader: Reader,
    files: Sequence[SourceFile],
    widths: Widths,
    *,
    run: Run,
    place: str | Path,
    root: Path,
    message: str,
    workers: int,
    address: str | None,
    whole: Whole | None,
    mirrors: Sequence[Mirror],
    progress: Callable[[Progress], None] | None,
    note: Callable[[str], None],
) -> Made:
    """Read and store files with so many actors; lost ones are replaced.

    Pieces that are stored are not read again, whether the driver, a worker or a node was lost:
    the same call goes on.

    Args:
        reading: how files are read.
        reader: has ordered them; what workers note is noted in its context.
        files: what to read.
        widths: what most of them hold.
        run: whose rows these are.
        place: the store: a folder that all nodes see, or an address in a bucket.
        root: a folder that stands for it here.
        message: what the log says of the commits.
        workers: how many.
        address: of the cluster; see :func:`actstore.workers.cluster.joined`.
        whole: store all or nothing; when missing, pieces are committed as they come.
        mirrors: sources that lie elsewhere, as this process has them.
        progress: called after each piece, over all workers.
        note: told what the user should know meanwhile.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: the cluster is not there, or its nodes do not share the store.
        IngestError: a piece ended workers again and again.
        ActstoreError: what a worker failed with.
    """
    check_seen_by_others(place)
    for mirror in mirrors:
        check_seen_by_others(mirror.place.name, source=True)
    seen = reading.looked_ahead(files)
    further = {"seen": seen, "replace": whole is not None and whole.replace}
    known = fingerprint(run, reading, reader.context, further)
    # What is sent names files that lie elsewhere as no process has them, and what is kept of a
    # piece names no folder of this machine.
    there = {mirror.root: mirror.canonical for mirror in mirrors}
    names = _names(reading, files)
    here = {to: folder for folder, to in (there | names).items()}
    pieces = moved(list(cut(files, known, reader.together)), there)
    work = Work(
        store=place,
        folder=Path.cwd(),
        places=[mirror.place for mirror in mirrors],
        names=names,
        reading=moved(reading, there),
        widths=widths,
        run=run,
        fingerprint=known,
        message=message,
        seen=seen,
    )
    narrow = narrowing.narrow_of(reading.options.storage_dtype)
    driver = Driver(reading.labels, reader.context, run, pieces, here, progress, note)
    with contextlib.ExitStack() as held:
        if whole is None:
            driver.take_over(finished(root, known))
            driver.run(work, workers, address)
            return driver.made(narrow)
        change = held.enter_context(Transaction(root if is_bucket(place) else Path(place)))
        draft = held.enter_context(
            drafts.held(
                place,
                root,
                change.base,
                run=run,
                files=files,
                fingerprint=known,
                names=[piece.name for piece in pieces],
            )
        )
        driver.go_on(draft)
        work = replace(work, run=draft.run, draft=draft.place, replace=whole.replace)
        try:
            driver.run(work, workers, address, change)
        except BaseException:
            if not driver.has_some:
                draft.clear()
            raise
        return _agreed(driver.made(narrow), whole, draft, change, message)


def _names(reading: Reading, files: Sequence[SourceFile]) -> dict[Path, Path]:
    """Return what stands for the folders of this machine in which tables may lie."""
    folders = {file.root for file in files} | set(reading.gate.allowed)
    folders |= {path.parent for path in reading.options.sidecars.values()}
    own = sorted(folder for folder in folders if fetching.of(folder) is None)
    return {folder: Path("/folders", str(number)) for number, folder in enumerate(own)}


def _agreed(made: Made, whole: Whole, draft: Draft, change: Transaction, message: str) -> Made:
    """Make one commit of a draft, if it may be."""
    replaced = draft.replaced(made.going)
    try:
        whole.agree(made.outcome, replaced)
    except Exception:
        draft.clear()  # as one process, which keeps nothing either
        raise
    commit, overtaken = draft.take_over(change, made.shards, replaced, message)
    made.outcome.tally.overtake(overtaken)
    made.commit = None if commit is None else commit.number
    made.replaced = sum(len(each.rows) for each in replaced)
    made.run = draft.run
    return made
