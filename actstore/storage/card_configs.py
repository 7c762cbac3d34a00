"""The `load_dataset` configs of a store: which there are, and patterns that match their shards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from actstore import schema
from actstore.storage import layout
from actstore.storage.manifest import Manifest, ShardEntry

METADATA = "metadata"
"""Name of the config that leaves the vectors out."""


class Config(NamedTuple):
    """One named selection of shards, all of one stored type and width."""

    name: str
    entries: tuple[ShardEntry, ...]
    whole_model: bool = False
    """Whether it holds all of a model's rows of one type."""
    columns: tuple[str, ...] | None = None
    """The only columns it shows."""


def configs(manifest: Manifest) -> list[Config]:
    """Return all configs: the models' (the default first), `metadata`, then the layers'."""
    taken = {METADATA}
    found = [
        Config(_free(name, taken), tuple(entries), whole_model=True)
        for name, entries in _models(manifest)
    ]
    found.append(Config(METADATA, manifest.shards, columns=schema.metadata_names()))
    layers: dict[str, list[ShardEntry]] = {}
    for entry in manifest.shards:
        layers.setdefault(layer_name(entry), []).append(entry)
    for name, entries in layers.items():
        found += [
            Config(_free(name + suffix, taken), tuple(same)) for suffix, same in _by_type(entries)
        ]
    return found


def layer_name(entry: ShardEntry) -> str:
    """Return the name of the config of a shard's model, site and layer."""
    layer = layout.layer_folder(entry.layer)
    return f"{layout.slug(entry.model)}.{layout.slug(entry.site)}.{layer}"


def as_yaml(found: Sequence[Config], present: Iterable[str]) -> list[str]:
    """Return the lines of a card's `configs` and `dataset_info`.

    Features are declared for the whole models and the metadata, the layers' are the same as
    their model's. Sizes of splits are left out: `datasets` refuses a set that has grown.

    Args:
        found: all configs.
        present: paths of all shard files that lie where the card does; a pattern must not
            match those that are in no config.
    """
    by_folder: dict[str, list[str]] = {}
    for path in present:
        folder, _, name = path.rpartition("/")
        by_folder.setdefault(folder, []).append(name)
    lines = ["configs:"]
    for number, config in enumerate(found):
        lines.append(f"- config_name: {quoted(config.name)}")
        if number == 0 and config.whole_model:
            lines.append("  default: true")
        if config.columns is not None:
            lines.append(f"  columns: {json.dumps(config.columns)}")
        lines += ["  data_files:", "  - split: train", "    path:"]
        lines += [f"    - {quoted(path)}" for path in _patterns(config.entries, by_folder)]
    lines.append("dataset_info:")
    for config in found:
        if config.whole_model or config.columns is not None:
            lines += [f"- config_name: {quoted(config.name)}", "  features:"]
            lines += [f"  - {feature}" for feature in _features(config)]
    return lines


def quoted(text: str) -> str:
    """Return text as YAML takes it on one line."""
    return json.dumps(text, ensure_ascii=False)


def _features(config: Config) -> list[str]:
    types = {column.name: column.type for column in schema.columns()}
    found = []
    for name, type_ in types.items():
        if name != schema.VECTOR:
            found.append(f"{{name: {name}, dtype: {type_}}}")
        elif config.columns is None and config.entries:
            first = config.entries[0]
            found.append(f"{{name: {name}, list: {first.dtype}, length: {first.width}}}")
    return found


def _free(name: str, taken: set[str]) -> str:
    """Return ``name``, or with a number what no config is called yet: names must differ."""
    found = name
    number = 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found


def _by_type(entries: Sequence[ShardEntry]) -> list[tuple[str, list[ShardEntry]]]:
    """Split shards by stored type and width; the type that came first needs no suffix.

    One config never mixes types: ``datasets`` takes the first file's and casts the others.
    """
    groups: dict[str, list[ShardEntry]] = {}
    for entry in sorted(entries, key=_age):
        groups.setdefault(layout.vector_tag(entry.width, entry.dtype), []).append(entry)
    return [
        (f".{tag}" if number else "", same) for number, (tag, same) in enumerate(groups.items())
    ]


def _models(manifest: Manifest) -> list[tuple[str, list[ShardEntry]]]:
    """Return the configs that hold all of a model's rows of one type, the oldest first."""
    models: dict[str, list[ShardEntry]] = {}
    for entry in sorted(manifest.shards, key=_age):
        models.setdefault(layout.slug(entry.model), []).append(entry)
    return [
        (model + suffix, same)
        for model, entries in models.items()
        for suffix, same in _by_type(entries)
    ]


def _age(entry: ShardEntry) -> tuple[int, str]:
    """Order by when rows came: compaction must not change which config bears which name."""
    return entry.since, entry.path.rpartition("/")[2].partition("-")[2]


def _patterns(entries: Sequence[ShardEntry], by_folder: dict[str, list[str]]) -> list[str]:
    """Return patterns that match exactly these shards: one per commit and folder, or less."""
    live = {entry.path for entry in entries}
    found: list[str] = []
    stems: dict[tuple[str, str], list[str]] = {}
    for path in sorted(live):
        folder, _, name = path.rpartition("/")
        stems.setdefault((folder, name.rpartition("-")[0]), []).append(path)
    for (folder, stem), paths in stems.items():
        if not stem:  # not named by this program
            found += paths
            continue
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
