"""The `load_dataset` configs of a store: which there are, and patterns that match their shards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from actstore import schema
from actstore.storage import layout
from actstore.storage.manifest import Manifest, ShardEntry

METADATA = "metadata"
"""Name of the config that leaves the vectors out."""
OWN = "own-columns"
"""Name of the config that leaves them out too, and has the fields of ``extra`` as columns."""
_DEFAULT = "default"
"""What `datasets` takes for the default by its name alone."""
OWN_FILE = "own-columns.parquet"
"""Its file, at the top of a repository."""

OwnColumns = Sequence[tuple[str, str]]
"""Name and type of each field of ``extra``, in the words of ``datasets``."""


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
    taken = {METADATA, OWN}
    found = []
    for name, entries in _models(manifest):
        found.append(Config(_free(name, taken), tuple(entries), whole_model=True))
        taken.add(_DEFAULT)  # the first one is, whatever it is called
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


def as_yaml(found: Sequence[Config], present: Iterable[str], own: OwnColumns = ()) -> list[str]:
    """Return the lines of a card's `configs` and `dataset_info`.

    Features are declared for the whole models and the metadata, the layers' are the same as
    their model's. Sizes of splits are left out: `datasets` refuses a set that has grown.

    Args:
        found: all configs.
        present: paths of all shard files that lie where the card does; a pattern must not
            match those that are in no config.
        own: the own columns of :data:`OWN_FILE`, where that lies there too.
    """
    files = _Files(present)
    lines = ["configs:"]
    for number, config in enumerate(found):
        lines.append(f"- config_name: {quoted(config.name)}")
        if number == 0 and config.whole_model:
            lines.append("  default: true")
        if config.columns is not None:
            lines.append(f"  columns: {json.dumps(config.columns)}")
        lines += ["  data_files:", "  - split: train", "    path:"]
        lines += [f"    - {quoted(path)}" for path in _patterns(config.entries, files)]
    if own:
        lines += [f"- config_name: {OWN}", "  data_files:", "  - split: train"]
        lines += ["    path:", f"    - {OWN_FILE}"]
    lines.append("dataset_info:")
    for config in found:
        if config.whole_model or config.columns is not None:
            lines += [f"- config_name: {quoted(config.name)}", "  features:"]
            lines += [f"  - {feature}" for feature in _features(config)]
    if own:
        metadata = Config(METADATA, (), columns=schema.metadata_names())
        lines += [f"- config_name: {OWN}", "  features:"]
        lines += [f"  - {feature}" for feature in _features(metadata)]
        lines += [f"  - {{name: {quoted(name)}, dtype: {kind}}}" for name, kind in own]
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
            if first.dtype == "int8":
                found.append(f"{{name: {schema.SCALE}, dtype: float32}}")
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


def _age(entry: ShardEntry) -> tuple[int, int, str]:
    """Order by when rows came: what is written anew must not change which config bears a name.

    A shard that takes another's place keeps the commit and the number, but not the transaction.
    """
    return entry.since, entry.number, entry.path.rpartition("/")[2].partition("-")[2]


class _Files:
    """Shard files by the patterns that match them: a card of any size asks for each once."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._in_folder: dict[tuple[str, str], list[str]] = {}
        self._below: dict[tuple[str, str], list[str]] = {}
        for path in paths:
            folder, _, name = path.rpartition("/")
            top = "/".join(folder.split("/")[:2])
            for dash in re.finditer("-", name):
                start = name[: dash.start()]
                self._in_folder.setdefault((folder, start), []).append(path)
                self._below.setdefault((top, start), []).append(path)

    def strangers_in(self, folder: str, start: str, live: set[str]) -> bool:
        """Say whether ``folder/start-*`` matches more than the live files."""
        return any(path not in live for path in self._in_folder.get((folder, start), ()))

    def strangers_below(self, top: str, start: str, live: set[str]) -> bool:
        """Say whether ``top/**/start-*`` matches more than the live files."""
        return any(path not in live for path in self._below.get((top, start), ()))


def _patterns(entries: Sequence[ShardEntry], files: _Files) -> list[str]:
    """Return patterns that match exactly these shards: one per commit and model, or more."""
    live = {entry.path for entry in entries}
    found: list[str] = []
    stems: dict[tuple[str, str], list[str]] = {}
    for path in sorted(live):
        folder, _, name = path.rpartition("/")
        stems.setdefault((folder, name.rpartition("-")[0]), []).append(path)
    folders: dict[tuple[str, str], list[str]] = {}
    for (folder, stem), paths in stems.items():
        if not stem or files.strangers_in(folder, stem, live):  # no stem: not named by this program
            found += paths
        else:
            folders.setdefault(("/".join(folder.split("/")[:2]), stem), []).append(folder)
    for (top, stem), members in folders.items():
        # One pattern for all folders of a model, where nothing else matches it.
        if len(members) > 1 and not files.strangers_below(top, stem, live):
            found.append(f"{top}/**/{stem}-*.parquet")
        else:
            found += [f"{folder}/{stem}-*.parquet" for folder in members]
    return sorted(found)
