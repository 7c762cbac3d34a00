"""The public way in: an ingest run, then labels by an SQL expression over what it stored."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Unpack

from actstore.ingestion import fetching, run
from actstore.ingestion.inference import FolderMapping
from actstore.ingestion.options import IngestOptions
from actstore.ingestion.report import IngestSummary
from actstore.querying import quoting
from actstore.remote import source_places
from actstore.remote.bucket_address import is_bucket
from actstore.remote.mirror import Mirror, mirrored, named
from actstore.remote.working import working
from actstore.storage.partition import StoredRows


def ingest(
    sources: str | Path | Sequence[str | Path],
    store: str | Path,
    *,
    label_set: str | None = None,
    confirm: Callable[[FolderMapping], bool] | None = None,
    confirm_replacing: Callable[[Sequence[StoredRows]], None] | None = None,
    confirm_parent: Callable[[Sequence[Path]], bool] | None = None,
    note: Callable[[str], None] = lambda text: None,
    **options: Unpack[IngestOptions],
) -> IngestSummary:
    """Turn folders of activation files into rows of a store.

    The rows of one file are stored all or not at all. A file that cannot be read or does
    not fit is refused with its reason, and the others go on; the summary and a report in
    the store list them. Rows that the store already holds bit for bit are not stored
    again, so an ingest that was cut off is completed by running it again.

    Args:
        sources: folders or files; ``hf://datasets/org/name`` is a repository on the Hugging
            Face Hub, with ``@revision`` and a path behind it if wanted, ``s3://bucket/folder``
            (``gs://``, ``az://``) one in a bucket: their files are fetched one after the other.
        store: folder of the store, made when missing, or its address in a bucket.
        label_set: SQL expression over a row's columns that becomes its label, such as
            ``CASE WHEN contains(lower(prediction), lower(oracle)) THEN 'correct' END``;
            for the rows of this run and the unlabelled ones of the same models and data sets.
        confirm: shown what was guessed about a folder, says whether it is so; unless ``yes``.
        confirm_parent: shown tables in folders above a source that belong to it by the recipe,
            says whether they may be read; ``yes`` does not answer that, ``allow_parent`` does.
        confirm_replacing: called before rows are replaced, with those that would be; may raise.
        note: told what the user should know while workers of a cluster read.
        options: ``recipe``, ``model``, ``dataset``, ``labels``, ``labels_on``, ``site``,
            ``layer``, ``pool``, ``storage_dtype``, ``allow_rounding``, ``allow_nonfinite``,
            ``contract``, ``first_k``, ``replace``, ``dry_run``, ``strict``, ``sidecars``,
            ``allow_parent``, ``map``, ``layer_from``, ``example_from``, ``yes``, ``progress``,
            ``engine``, ``workers`` and ``address``, as :func:`actstore.ingestion.run.ingest`
            describes them.

    Raises:
        UsageError: an option cannot work, the source does not exist, or what was guessed about
            a folder was not confirmed.
        RecipeError: the recipe is malformed, or none or several fit.
        RefusedError: ``strict``, and files were refused; lists them.
        ContractError: the rows break the contract; lists every violation.
        SqlError: ``label_set`` cannot be run; nothing is stored.
        CommitError: the store cannot be written.
        BucketError: the store's bucket cannot be read or written; the leaf says why.
        HubError, BucketError: a source cannot be read; what was read before is stored.
    """
    if label_set is not None:
        from actstore.ingestion import labeling

        labeling.check_expression(label_set)
    given = [sources] if isinstance(sources, str | Path) else list(sources)
    with (
        working(store, dry=options.get("dry_run", False)) as root,
        _here(given) as (paths, called, mirrors),
    ):
        summary = run.ingest(
            paths,
            root,
            called=called,
            confirm=confirm,
            confirm_replacing=confirm_replacing,
            confirm_parent=confirm_parent,
            mirrors=mirrors,
            place=str(store) if is_bucket(store) else None,
            note=note,
            **options,
        )
    if label_set is None or summary.dry_run:
        return summary
    condition = (
        f"run_id IN ({_texts([summary.run_id, *summary.continued])}) OR (label IS NULL "
        f"AND model IN ({_texts(summary.models)}) "
        f"AND (dataset IS NULL OR dataset IN ({_texts(summary.datasets)})))"
    )
    with working(store) as root:
        done = labeling.label_by_expression(root, label_set, where=condition)
    return dataclasses.replace(summary, commit=done.commit or summary.commit, labels=done.labels)


@contextlib.contextmanager
def _here(
    sources: Sequence[str | Path],
) -> Iterator[tuple[list[str | Path], dict[Path, str], list[Mirror]]]:
    """Give sources as paths, what those that lie elsewhere are called, and their mirrors."""
    paths: list[str | Path] = []
    called: dict[Path, str] = {}
    mirrors: list[Mirror] = []
    with contextlib.ExitStack() as stack:
        for source in sources:
            if not source_places.is_elsewhere(source):
                paths.append(source)
                continue
            mirror = stack.enter_context(mirrored(source_places.place_of(source)))
            stack.enter_context(fetching.registered(mirror))
            paths.append(mirror.source)
            called[mirror.source] = mirror.place.pinned
            mirrors.append(mirror)
        with named(mirrors):
            yield paths, called, mirrors


def _texts(values: Iterable[str]) -> str:
    """Return values as a list of SQL texts, NULL where there are none."""
    return ", ".join(map(quoting.text, values)) or "NULL"
