"""Files of a source that no template fits: joined tables, damaged strays, and the rest."""

from __future__ import annotations

from collections.abc import Sequence

from actstore.errors import ActstoreError, UnreadableFileError, UnsafeFileError
from actstore.ingestion import containers, fetching
from actstore.ingestion.discovery import Discovery
from actstore.ingestion.report import Refusal
from actstore.ingestion.sidecars import Sidecars

# Opening every checkpoint of a project would take longer than the ingest.
_LARGEST = 64 << 20
_MOST = 500


def without_sidecars(unmatched: Sequence[str], found: Discovery, sidecars: Sidecars) -> list[str]:
    """Return the unmatched paths but for the tables that were joined."""
    used = {path.absolute() for paths in sidecars.used.values() for path in paths}
    inside = {
        entry.relative
        for entry in found.others
        if used and (entry.path in used or not used.isdisjoint(entry.path.parents))
    }
    return [name for name in unmatched if name not in inside]


def damaged(found: Discovery) -> list[Refusal]:
    """Open files that look like the recipe's own and return those that are unsafe or damaged.

    A pickled object among tensors is named with its reason rather than passed over.
    """
    suffixes = {file.path.suffix for file in found.files if not file.pattern.folder}
    alike = [
        entry
        for entry in found.others
        if entry.path.suffix in suffixes and entry.size <= _LARGEST and fetching.is_here(entry.path)
    ]
    refused = []
    for entry in alike[:_MOST]:
        try:
            containers.read(found.recipe.container, entry.path, within=entry.root)
        except (UnsafeFileError, UnreadableFileError) as error:
            refused.append(Refusal.of(entry, error.reason))
        except (ActstoreError, OSError, MemoryError):
            continue  # it is no activation file, and stays unmatched
    return refused
