"""Leaves damaged shards out of a commit, so that what is sound of it can still be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from actstore.errors import DamageError, UsageError
from actstore.storage import checks
from actstore.storage.manifest import LabelEntry, Manifest, ShardEntry
from actstore.storage.threads import in_parallel
from actstore.wording import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A damaged shard that was left out."""

    path: str
    reason: str
    model: str
    site: str
    layer: int | None
    rows: int

    def __str__(self) -> str:
        layer = "" if self.layer is None else f", layer {self.layer}"
        return (
            f"{counted(self.rows)} of {self.model}, {self.site}{layer} in {self.path}: "
            f"{self.reason}"
        )


def damaged(root: Path, manifest: Manifest) -> tuple[Skipped, ...]:
    """Return the shards of a commit that are missing or changed, by SHA-256 of all their bytes.

    What this process found sound before is not read again while the file stays as it is.

    Raises:
        DamageError: a label file is damaged, so that nothing says what labels rows have now; or
            every shard is.
    """
    files = manifest.files
    reasons = in_parallel(lambda entry: _reason(root, entry), files.values())
    found = {path: why for path, why in zip(files, reasons, strict=True) if why is not None}
    labels = [(entry.path, found[entry.path]) for entry in manifest.labels if entry.path in found]
    if labels:
        path, reason = labels[0]
        raise DamageError(
            f"{path} of {root} is damaged: {reason}. It holds labels that were set afterwards, and "
            "nothing says of which rows: without it others would be wrong, so it cannot be left "
            f"out. Bring it back from a copy: actstore repair {root} --from COPY; or read a commit "
            f"from before it with --at N (see: actstore log {root})",
            labels,
        )
    if found and len(found) == len(manifest.shards):
        raise DamageError(
            f"each of the {counted(len(found), 'shard')} of {root} is damaged, so nothing is left "
            f"to read. Bring them back from a copy: actstore repair {root} --from COPY",
            list(found.items()),
        )
    return tuple(
        Skipped(
            path=shard.path,
            reason=found[shard.path],
            model=shard.model,
            site=shard.site,
            layer=shard.layer,
            rows=shard.rows,
        )
        for shard in manifest.shards
        if shard.path in found
    )


def without(manifest: Manifest, skipped: Collection[Skipped]) -> Manifest:
    """Return a commit without some shards; it has another fingerprint than the whole."""
    paths = {each.path for each in skipped}
    return dataclasses.replace(
        manifest, shards=tuple(shard for shard in manifest.shards if shard.path not in paths)
    )


def require_whole(name: str, skipped: Collection[Skipped], what: str) -> None:
    """Refuse what must not be done with a part of a store.

    Raises:
        UsageError: some shards were left out.
    """
    if skipped:
        raise UsageError(
            f"{name} is open without {counted(len(skipped), 'damaged shard')}, for reading only: "
            f"{what} is refused. Bring them back from a copy with: actstore repair {name} --from "
            "COPY; then open it without skip_damaged"
        )


def _reason(root: Path, entry: ShardEntry | LabelEntry) -> str | None:
    path = root / entry.path
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            return f"it has {size} bytes, the manifest says {entry.bytes}"
        with path.open("rb") as file:
            checks.check_whole(root, entry, file.fileno())
    except FileNotFoundError:
        return "the file is missing"
    except DamageError as error:
        return error.problems[0][1]
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    return None
