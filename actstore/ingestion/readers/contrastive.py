"""Reads caches of contrastive pairs and validation examples, stacked or one file each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from actstore.errors import IngestError, LayoutError, SidecarError
from actstore.ingestion.axes import Grid, interpret
from actstore.ingestion.documents import to_json
from actstore.ingestion.readers import Arrangement, Reader, reader
from actstore.ingestion.readers.assembly import batches, constants
from actstore.ingestion.sidecar_table import Record
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.tensor import Tensor
from actstore.storage.rows import RowBatch

STACKED = {3: ("example", "batch", "hidden"), 2: ("example", "hidden")}
INDIVIDUAL = {3: ("batch", "token", "hidden"), 2: ("token", "hidden")}
_CUT = 100
"""Validation metadata keep this many characters of a question, then three dots."""


@dataclass(frozen=True, slots=True)
class Cache:
    """What the tables of one cache say."""

    entries: Mapping[int, Record]
    """By index; empty where there is no ``metadata.json``."""
    info: Mapping[str, Any]
    """``layer_info.json``; empty where there is none."""
    dataset: Sequence[Record]
    """The data set's entries by index, where they belong to this cache."""

    @property
    def examples(self) -> int | None:
        """How many examples there should be, or None where nothing says so."""
        number = self.info.get("num_examples")
        return number if isinstance(number, int) else len(self.entries) or None

    def layout_of(self, pattern: str | None) -> bool:
        """Say whether files of this pattern are of the form that the cache was last written in."""
        return not self.info or (self.info.get("storage_format") == "individual") == (
            pattern in ("individual", "validation-individual")
        )


@reader("contrastive")
class Contrastive(Reader):
    """Reads the four kinds of files of such a cache."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._caches: dict[Path, Cache] = {}

    def fits(self, document: Any) -> bool:
        """Say whether the document is a bare tensor of two or three axes."""
        return isinstance(document, Tensor) and document.ndim in (2, 3)

    def recognises(self, files: Sequence[SourceFile]) -> bool:
        """Say whether a side is named, or the cache says what it is.

        ``layer_3/0.pt`` alone could be anybody's.
        """
        return any(
            "side" in file.parts
            or any((file.folder / name).exists() for name in ("metadata.json", "layer_info.json"))
            for file in files
        )

    def arrange(self, files: Sequence[SourceFile]) -> Arrangement:
        """Go by cache, layer, side and index; files past the count are left over."""
        kept: list[SourceFile] = []
        refused: list[tuple[str, str]] = []
        unmatched: list[str] = []
        groups: dict[tuple[Path, str], list[SourceFile]] = {}
        for file in files:
            try:
                cache = self._cache(file)
            except IngestError:
                kept.append(file)  # reading it names what is wrong
                continue
            if not cache.layout_of(file.pattern.name):
                unmatched.append(file.relative)
                self.context.notes.count(
                    "files left by an earlier run in another form than layer_info.json says"
                )
            elif "index" not in file.parts:
                kept.append(file)
            elif cache.examples is not None and file.parts["index"] >= cache.examples:
                unmatched.append(file.relative)
                self.context.notes.count("files past the number of examples in layer_info.json")
            else:
                kept.append(file)
                groups.setdefault((file.folder, _parent(file)), []).append(file)
        for (_, parent), members in groups.items():
            count = self._cache(members[0]).examples or 0
            present = {file.parts["index"] for file in members}
            refused += [
                (f"{parent}/{index}.pt", f"missing: the cache should hold {count} examples")
                for index in range(count)
                if index not in present
            ]
        return Arrangement(sorted(kept, key=_order), refused, unmatched)

    def read(self, file: SourceFile, document: Any) -> Iterator[RowBatch]:
        """Yield one row per example, or one per token where whole sequences were kept.

        Raises:
            LayoutError: no bare tensor, an unexpected shape, or numbers of examples or
                values that contradict ``metadata.json`` and ``layer_info.json``.
            SidecarError: one of these cannot be read.
        """
        cache = self._cache(file)
        pattern = str(file.pattern.name)
        if not isinstance(document, Tensor):
            raise LayoutError(f"expected a bare tensor, got a {type(document).__name__}")
        grid = _grid(document, pattern, cache)
        indices = [file.parts["index"]] if "index" in file.parts else list(range(grid.count))
        _check_counts(cache, pattern, grid)
        self.context.forms.note(
            file.relative, kind=pattern, dtype=document.dtype, rank=document.ndim
        )
        side = file.parts.get("side")
        region = "all" if side else "question"
        constant = constants(
            self.context,
            file,
            document,
            layer=file.parts["layer"],
            site=self._site(pattern),
            pooling="last",
            region=region,
            variant=side,
            source=file.relative,
        )
        columns = _columns(cache, indices, side)
        if side is None and not any(columns["label"]):
            self.context.notes.say(
                "no types beside the validation examples: rows have no label; name the data "
                "set with --sidecar dataset=PATH"
            )
        if not cache.entries:
            self.context.notes.say("no metadata.json beside a cache: rows are only numbered")
        yield from batches(self.context, grid, constant, columns, pooled_region=region)

    def _site(self, pattern: str) -> str:
        site = "resid_pre" if pattern == "stacked" else "resid_post"
        if self.context.options.site is None:
            why = {
                "stacked": "as the first script took them (the second one took resid_post)",
            }.get(pattern, "as the scripts that write this form took them")
            self.context.notes.say(
                f"{pattern} files do not say where they were taken: {site} is assumed, {why}; "
                "--site changes it"
            )
        return site

    def _cache(self, file: SourceFile) -> Cache:
        if file.folder not in self._caches:
            self._caches[file.folder] = self._read_cache(file)
        return self._caches[file.folder]

    def _read_cache(self, file: SourceFile) -> Cache:
        metadata = self._beside("metadata", file)
        entries: dict[int, Record] = {}
        if metadata is not None:
            table = self.context.sidecars.table("metadata", file)
            assert table is not None
            for number, entry in enumerate(table.records):
                entries[entry.get("idx", number)] = entry
        info_path = self._beside("layer-info", file)
        info: Mapping[str, Any] = {}
        if info_path is not None:
            info = self.context.sidecars.document("layer-info", info_path, file)
            if not isinstance(info, dict):
                raise SidecarError(f"{info_path}: expected an object, got a {type(info).__name__}")
            self.context.sidecars.used.setdefault("layer-info", set()).add(info_path)
        return Cache(entries, info, self._dataset(file, entries))

    def _beside(self, name: str, file: SourceFile) -> Path | None:
        """Return the sidecar of this very cache: one further up describes another."""
        path = self.context.sidecars.path(name, file)
        if path is None or name in self.context.options.sidecars:
            return path
        return path if path.parent == file.folder else None

    def _dataset(self, file: SourceFile, entries: Mapping[int, Record]) -> Sequence[Record]:
        table = self.context.sidecars.table("dataset", file)
        if table is None:
            return ()
        for index, entry in entries.items():
            whole = (table.at(index) or {}).get("question")
            cut = None if whole is None else whole[:_CUT] + "..."
            if entry.get("question") not in (whole, cut):
                if "dataset" in self.context.options.sidecars:
                    raise SidecarError(
                        f"{table.path}: entry {index} is another question than in "
                        f"{file.folder.name}/metadata.json: it is not the data set of this cache"
                    )
                return ()
        return table.records


def _order(file: SourceFile) -> tuple[Any, ...]:
    parts = file.parts
    # As the original reads them: test before deploy, and 2.pt before 10.pt.
    side = ("test", "deploy").index(parts["side"]) if "side" in parts else 2
    return (str(file.folder), parts["layer"], side, parts.get("index", -1))


def _parent(file: SourceFile) -> str:
    return str(PurePosixPath(file.relative).parent)


def _grid(tensor: Tensor, pattern: str, cache: Cache) -> Grid:
    if pattern in ("stacked", "validation"):
        return interpret(tensor, STACKED)
    shapes = cache.info.get("sample_shapes") or []
    # Among sequences, one of a single token is a token; where all are single, they were pooled.
    return interpret(tensor, INDIVIDUAL, squeeze=all(shape[-2] == 1 for shape in shapes))


def _check_counts(cache: Cache, pattern: str, grid: Grid) -> None:
    shape = cache.info.get("activation_shape")
    if shape and shape[-1] != grid.width:
        raise LayoutError(
            f"vectors of {grid.width} values, but layer_info.json says {shape[-1]}: they are "
            "from different runs"
        )
    counts = {
        "layer_info.json": cache.info.get("num_examples"),
        "metadata.json": len(cache.entries) or None,
    }
    if pattern in ("stacked", "validation"):
        counts["the file"] = grid.count
    found = {name: count for name, count in counts.items() if count is not None}
    if len(set(found.values())) > 1:
        words = ", ".join(f"{name} {count}" for name, count in found.items())
        raise LayoutError(
            f"the numbers of examples differ: {words}; they are from different runs, so that "
            "which question a row belongs to cannot be told"
        )


def _columns(cache: Cache, indices: Sequence[int], side: str | None) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for index in indices:
        entry = cache.entries.get(index)
        if entry is None and cache.entries:
            raise LayoutError(f"metadata.json has no entry with idx {index}")
        whole = cache.dataset[index] if index < len(cache.dataset) else {}
        for name, value in _row(index, dict(entry or {}), whole, side).items():
            columns.setdefault(name, []).append(value)
    return columns


def _row(index: int, entry: dict[str, Any], whole: Record, side: str | None) -> dict[str, Any]:
    entry.pop("idx", None)
    question = whole.get("question", entry.pop("question", None))
    entry.pop("question", None)
    kind = entry.pop("type", None) or whole.get("type")
    extra: dict[str, Any] = {}
    for name in ("answer", "token_type"):
        for each in ("test", "deploy"):
            value = entry.pop(f"{each}_{name}", None)
            if each == side and value is not None:
                extra[name] = value  # what was appended to the question on this side
    return {
        "example_id": str(index),
        "example_index": index,
        "question": question,
        "label": kind or side,
        "extra": to_json({**extra, **entry}),
    }
