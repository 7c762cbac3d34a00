"""The store's README.md: a data-set card whose configs name exactly the live shards."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from actstore import schema
from actstore.errors import CommitError
from actstore.storage import layout
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Manifest, ShardEntry

_BEGIN = "<!-- actstore: generated, edits between these marks are overwritten -->"
_END = "<!-- actstore: end -->"
_YAML_BEGIN = "# actstore: generated"
_YAML_END = "# actstore: end"
_METADATA = "metadata"
"""Name of the config that leaves the vectors out."""
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")


def refresh(root: Path) -> None:
    """Bring README.md up to the latest commit; text that the user wrote around stays.

    Written again until no newer commit has come, so that of two writers the later one's
    card remains. The card is replaced in one step and names immutable files only, so
    ``load_dataset`` sees one commit or the next, whatever happens in between.

    Raises:
        CommitError: the card could not be written; the commits it is about stand.
    """
    path = root / layout.CARD
    while True:
        manifest = manifests.latest(root)
        try:
            present = [
                file.relative_to(root).as_posix()
                for file in (root / layout.ACTIVATIONS).rglob("*.parquet")
            ]
            card = render(manifest, present, _read(path))
            layout.replace_durably(path, card.encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise CommitError(
                f"commit {manifest.number} of {root} is made, but its {layout.CARD} could not be "
                f"brought up to date: {error}; the next command that writes does it"
            ) from error
        if manifests.latest(root).number == manifest.number:
            return


def catch_up(root: Path) -> None:
    """Refresh the card if it is not about the latest commit: its writer was killed in between.

    Raises:
        CommitError: as :func:`refresh`.
    """
    numbers = manifests.numbers(root)
    try:
        card = _read(root / layout.CARD)
    except OSError:
        card = ""
    if numbers and f"commit {numbers[-1]} of " not in card[card.find(_BEGIN) :]:
        refresh(root)


def _read(path: Path) -> str:
    # Bytes that are no UTF-8 are the user's, and go back as they came.
    return path.read_text("utf-8", "surrogateescape") if path.exists() else ""


def render(manifest: Manifest, present: Iterable[str], old: str = "") -> str:
    """Return the card of a commit.

    Args:
        manifest: the commit.
        present: paths of all shard files on disk; some belong to other commits, and a
            pattern must not match those.
        old: the card so far, whose own text is kept.
    """
    by_folder: dict[str, list[str]] = {}
    for path in present:
        folder, _, name = path.rpartition("/")
        by_folder.setdefault(folder, []).append(name)
    front, body = _split(old)
    front = _replace_block(front, _YAML_BEGIN, _YAML_END, "")
    # A program that rewrote the YAML has dropped the marks and kept what stood between them.
    front = _without_configs(front)
    lines = [_YAML_BEGIN, *_front_matter(manifest, by_folder, _keys(front)), _YAML_END]
    front = "\n".join([*filter(None, [front.strip()]), *lines])
    generated = "\n".join([_BEGIN, *_tables(manifest), _END])
    if not body.strip():
        body = "# Activations\n\n"
    return f"---\n{front.strip()}\n---\n{_replace_block(body, _BEGIN, _END, generated)}"


def config_name(entry: ShardEntry) -> str:
    """Return the name of the ``load_dataset`` config of a shard's model, site and layer."""
    layer = layout.layer_folder(entry.layer)
    return f"{layout.slug(entry.model)}.{layout.slug(entry.site)}.{layer}"


def _split(card: str) -> tuple[str, str]:
    if card.startswith("---\n") and "\n---\n" in card[3:]:
        front, _, body = card[4:].partition("\n---\n")
        return front, body
    return "", card


def _replace_block(text: str, begin: str, end: str, block: str) -> str:
    start = text.find(begin)
    stop = text.find(end, start)
    if start < 0 or stop < 0:
        return f"{text.rstrip()}\n\n{block}\n" if text.strip() else f"{block}\n"
    return text[:start] + block + text[stop + len(end) :]


def _keys(front: str) -> set[str]:
    """Return the keys that the user's own front matter sets."""
    return set(re.findall(r"^([\w-]+):", front, re.MULTILINE))


def _without_configs(front: str) -> str:
    kept = []
    inside = False
    for line in front.splitlines():
        inside = line.startswith("configs:") or (inside and line[:1] in ("", " ", "-"))
        if not inside:
            kept.append(line)
    return "\n".join(kept)


def _front_matter(manifest: Manifest, by_folder: dict[str, list[str]], own: set[str]) -> list[str]:
    size = min(len(str(max(1, manifest.rows))) - 3, len(_SIZES) - 1)
    lines = []
    if "tags" not in own:
        lines.append("tags: [activations, interpretability, actstore]")
    if "size_categories" not in own:
        lines.append(f"size_categories: [{json.dumps(_SIZES[max(0, size)])}]")
    lines.append("configs:")
    taken = {_METADATA}
    default = True
    for name, entries in _groups(manifest).items():
        lines += _config(_free(name, taken), entries, by_folder, default=default)
        default = False
    everything = list(manifest.shards)
    lines += _config(_METADATA, everything, by_folder, columns=list(schema.metadata_names()))
    layers: dict[str, list[ShardEntry]] = {}
    for entry in manifest.shards:
        layers.setdefault(config_name(entry), []).append(entry)
    for name, entries in layers.items():
        for suffix, same in _by_type(entries):
            lines += _config(_free(name + suffix, taken), same, by_folder)
    return lines


def _free(name: str, taken: set[str]) -> str:
    """Return ``name``, or with a number what no config is called yet: names must differ."""
    found = name
    number = 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found


def _by_type(entries: list[ShardEntry]) -> list[tuple[str, list[ShardEntry]]]:
    """Split shards by stored type and width; the type that came first needs no suffix.

    One config never mixes types: ``datasets`` takes the first file's and casts the others.
    """
    groups: dict[str, list[ShardEntry]] = {}
    for entry in sorted(entries, key=_transaction):
        groups.setdefault(layout.vector_tag(entry.width, entry.dtype), []).append(entry)
    return [
        (f".{tag}" if number else "", same) for number, (tag, same) in enumerate(groups.items())
    ]


def _groups(manifest: Manifest) -> dict[str, list[ShardEntry]]:
    """Return the configs that hold all of a model's rows of one type, the oldest first."""
    models: dict[str, list[ShardEntry]] = {}
    for entry in sorted(manifest.shards, key=_transaction):
        models.setdefault(layout.slug(entry.model), []).append(entry)
    return {
        model + suffix: same
        for model, entries in models.items()
        for suffix, same in _by_type(entries)
    }


def _transaction(entry: ShardEntry) -> str:
    return entry.path.rpartition("/")[2].partition("-")[2]


def _config(
    name: str,
    entries: list[ShardEntry],
    by_folder: dict[str, list[str]],
    *,
    default: bool = False,
    columns: list[str] | None = None,
) -> list[str]:
    lines = [f"- config_name: {json.dumps(name)}"]
    if default:
        lines.append("  default: true")
    if columns:
        lines.append(f"  columns: {json.dumps(columns)}")
    lines += ["  data_files:", "  - split: train", "    path:"]
    return lines + [f"    - {json.dumps(path)}" for path in _patterns(entries, by_folder)]


def _patterns(entries: list[ShardEntry], by_folder: dict[str, list[str]]) -> list[str]:
    """Return patterns that match exactly these shards: one per commit and folder, or less."""
    live = {entry.path for entry in entries}
    found: list[str] = []
    stems: dict[tuple[str, str], list[str]] = {}
    for path in sorted(live):
        folder, _, name = path.rpartition("/")
        stems.setdefault((folder, name.rpartition("-")[0]), []).append(path)
    for (folder, stem), paths in stems.items():
        others = [
            name
            for name in by_folder.get(folder, ())
            if name.startswith(stem + "-") and f"{folder}/{name}" not in live
        ]
        found += paths if others else [f"{folder}/{stem}-*.parquet"]
    return _across_folders(found, by_folder, live)


def _across_folders(
    patterns: list[str], by_folder: dict[str, list[str]], live: set[str]
) -> list[str]:
    """Join the patterns of one commit in all folders of a model, where nothing else matches."""
    found: list[str] = []
    groups: dict[tuple[str, str], list[str]] = {}
    for pattern in patterns:
        if pattern.endswith("-*.parquet"):
            top = "/".join(pattern.split("/")[:2])
            groups.setdefault((top, pattern.rpartition("/")[2]), []).append(pattern)
        else:
            found.append(pattern)
    for (top, last), members in groups.items():
        stem = last.removesuffix("*.parquet")
        strangers = any(
            folder.startswith(top + "/")
            and any(name.startswith(stem) and f"{folder}/{name}" not in live for name in names)
            for folder, names in by_folder.items()
        )
        found += members if len(members) == 1 or strangers else [f"{top}/**/{last}"]
    return sorted(found)


def _tables(manifest: Manifest) -> list[str]:
    rows: dict[tuple[str, str], Counter[int | None]] = {}
    types: dict[tuple[str, str], set[str]] = {}
    for entry in manifest.shards:
        rows.setdefault((entry.model, entry.site), Counter())[entry.layer] += entry.rows
        types.setdefault((entry.model, entry.site), set()).add(f"{entry.dtype} x {entry.width}")
    lines = [
        f"{manifest.rows:,} activation vectors in {len(manifest.shards)} shards, "
        f"commit {manifest.number} of {manifest.created_at}.",
        "",
        "| model | site | layers | rows | vectors |",
        "|---|---|---|---|---|",
    ]
    for (model, site), layers in rows.items():
        lines.append(
            f"| {model} | {site} | {_spans(layers)} | {layers.total():,} | "
            f"{', '.join(sorted(types[model, site]))} |"
        )
    example = config_name(manifest.shards[0]) if manifest.shards else "CONFIG"
    return [
        *lines,
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'load_dataset("PATH_OR_REPOSITORY", split="train")  # all rows of the first model',
        f'load_dataset("PATH_OR_REPOSITORY", "{example}", split="train")  # one layer',
        'load_dataset("PATH_OR_REPOSITORY", "metadata", split="train")  # without vectors',
        "```",
        "",
        "Each vector stands in `activation`, beside its question, oracle answer, prediction,",
        "label, task, layer, site and pooling. Written by actstore.",
    ]


def _spans(layers: Iterable[int | None]) -> str:
    """Return layer numbers as text, runs of three and more joined: ``0-30``."""
    numbers = sorted(layer for layer in layers if layer is not None)
    parts: list[str] = []
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            run = numbers[start:at]
            joined = [f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(number) for number in run]
            parts += joined
            start = at
    if None in set(layers):
        parts.append("unknown")
    return ", ".join(parts)
