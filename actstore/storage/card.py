"""The store's README.md: a data-set card whose configs name exactly the live shards."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from actstore.errors import CommitError
from actstore.storage import backing, card_configs, card_overview, card_text, layout
from actstore.storage import manifest as manifests
from actstore.storage.card_configs import OwnColumns, quoted
from actstore.storage.card_overview import LabelCounts
from actstore.storage.card_text import BEGIN, Own
from actstore.storage.manifest import Manifest

_SIZES = (
    *("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B"),
    *("1B<n<10B", "10B<n<100B", "100B<n<1T", "n>1T"),
)
_COMMIT = re.compile(r"\bcommit ([0-9]+) of [0-9]")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def refresh(root: Path, manifest: Manifest | None = None, *, own: Own | None = None) -> None:
    """Bring README.md up to the latest commit; text that the user wrote around stays.

    Written again until no newer commit has come, so that of two writers the later one's
    card remains. The card is replaced in one step and names immutable files only, so
    ``load_dataset`` sees one commit or the next, whatever happens in between.

    Args:
        root: folder of the store.
        manifest: the latest commit, from whoever has just made or read it.
        own: takes the place of what the user wrote.

    Raises:
        CommitError: the card could not be written; the commits it is about stand.
    """
    if backing.of(root) is not None:
        return  # the store lies elsewhere, and has no card of ours
    manifest = manifest or manifests.latest(root)
    while True:
        try:
            present = layout.shard_files(root)
            write(root, render(manifest, present, own or card_text.take_apart(read(root))))
        except OSError as error:
            raise CommitError(
                f"commit {manifest.number} of {root} is made, but its {layout.CARD} could not be "
                f"brought up to date: {error}; the next command that writes does it"
            ) from error
        if manifests.newest(root) in (0, manifest.number):
            return
        manifest = manifests.latest(root)


def may_lag(before: Manifest, made: Manifest) -> bool:
    """Say whether the card may stay about an earlier commit than the one that was just made.

    It may where a commit has added a few shards to many: of thousands it takes seconds to write,
    and an append milliseconds. Then the card says of which commit it is, and follows with the
    next segment of the manifest, with every other change, and when a long run ends.
    """
    return bool(made.segments) and (made.segments, made.labels) == (before.segments, before.labels)


def catch_up(root: Path, *, closely: bool = False) -> None:
    """Refresh the card if it is not about the latest commit: its writer was killed in between.

    Args:
        root: folder of the store.
        closely: also where it may lag.

    Raises:
        CommitError: as :func:`refresh`.
    """
    if backing.of(root) is not None:
        return  # the store lies elsewhere, and has no card of ours
    number = manifests.newest(root)
    about = commit(root)
    if not number or about == number:
        return
    latest = manifests.load(root, lazily=True)
    least = max((each.since for each in latest.segments), default=latest.number)
    if closely or not least <= about <= latest.number:
        refresh(root)


def commit(root: Path) -> int:
    """Return the number of the commit that the card is about; 0 where it does not say."""
    try:
        card = read(root)
    except OSError:
        return 0
    found = _COMMIT.search(card, max(0, card.find(BEGIN)))
    return int(found[1]) if found else 0


def read(root: Path) -> str:
    """Return the card as it stands, empty when there is none."""
    # Bytes that are no UTF-8 are the user's, and go back as they came.
    path = root / layout.CARD
    return path.read_text("utf-8", "surrogateescape") if path.exists() else ""


def write(root: Path, card: str) -> None:
    """Replace the card in one step."""
    layout.replace_durably(root / layout.CARD, card.encode("utf-8", "surrogateescape"))


def render(
    manifest: Manifest,
    present: Iterable[str],
    own: Own = card_text.EMPTY,
    *,
    name: str | None = None,
    labels: LabelCounts | None = None,
    own_columns: OwnColumns = (),
) -> str:
    """Return the card of a commit.

    Args:
        manifest: the commit.
        present: paths of all shard files that lie where the card does; some may belong to
            other commits, and a pattern must not match those.
        own: what the owner wrote; a template when there is nothing.
        name: ``org/name`` of the repository that the card is for, if it is for one.
        labels: rows per task and label, if they were counted.
        own_columns: those of the table that lies beside the shards, if one does.
    """
    title = _title(manifest)
    metadata = [f"{key}: {value}" for key, value in _fields(manifest, title) if key not in own.keys]
    metadata += card_configs.as_yaml(card_configs.configs(manifest), present, own_columns)
    if not own.before and not own.after:
        own = Own(keys=own.keys, before=card_text.TEMPLATE.format(title=title), after="")
    text = card_overview.lines(manifest, name, labels, own_columns=bool(own_columns))
    return card_text.put_together(own, metadata, text)


def _title(manifest: Manifest) -> str:
    models = list(dict.fromkeys(shard.model.rpartition("/")[2] for shard in manifest.shards))
    shown = models[:3] + ([f"{len(models) - 3} more models"] if len(models) > 3 else [])
    return f"Activations of {', '.join(shown)}" if shown else "Activations"


def _fields(manifest: Manifest, title: str) -> list[tuple[str, str]]:
    """Return the metadata that the owner may set otherwise, and the size, which is a fact."""
    power = len(str(max(1, manifest.rows))) - 3
    size = _SIZES[min(max(0, power), len(_SIZES) - 1)]
    models = dict.fromkeys(s.model for s in manifest.shards if _HUB_ID.fullmatch(s.model))
    found = [
        ("pretty_name", quoted(title)),
        ("tags", "[activations, interpretability, actstore]"),
        ("task_categories", "[feature-extraction]"),
        ("size_categories", f"[{quoted(size)}]"),
    ]
    if models:
        found.append(("base_model", f"[{', '.join(map(quoted, models))}]"))
    return found
