"""Which files of a source belong to which recipe."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actstore import paths
from actstore.errors import ActstoreError, RecipeError, UsageError
from actstore.ingestion import containers, documents, fetching, inference, readers
from actstore.ingestion.gate import Gate
from actstore.ingestion.inference import FolderMapping, Hints, Inferred
from actstore.ingestion.options import Options
from actstore.ingestion.recipe import FilePattern, Recipe
from actstore.ingestion.sidecars import Sidecars
from actstore.ingestion.source_file import Entry, SourceFile, evenly
from actstore.ingestion.template import Match, recognisable
from actstore.ingestion.walking import Passed, readable, walk
from actstore.storage import layout
from actstore.storage.manifest import latest

_SAMPLES = 7
_SAMPLE_BYTES = 128 << 20
_BY_SHAPE = ("numpy", "safetensors")
"""Recipes that take matrices for rows of examples, whatever their names and lengths say."""
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".xz", ".bz2", ".zst", ".7z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What a source holds, seen through one recipe."""

    recipe: Recipe
    files: tuple[SourceFile, ...]
    """In natural order."""
    others: tuple[Entry, ...]
    """Files that no template fits."""
    detected: bool
    """Whether the recipe was found rather than named."""
    mapping: FolderMapping | None = None
    """Which part of a path or key became what; None where a Python reader decides."""
    links: tuple[str, ...] = ()
    """Links that were not followed, each with where it leads, pipes and devices."""
    refused: tuple[tuple[str, str], ...] = ()
    """Folders that could not be listed, and files that could not be looked at, and why."""


def assign(recipe: Recipe, entries: Sequence[Entry]) -> tuple[list[SourceFile], list[Entry]]:
    """Split files into those that a template of the recipe fits, and the others."""
    files: list[SourceFile] = []
    others: list[Entry] = []
    for entry in entries:
        file = _matched(recipe, entry)
        if file is None:
            others.append(entry)
        else:
            files.append(file)
    files, others = _without_inner_files(files, others)
    return _named_caches(files), others


def _without_inner_files(
    files: list[SourceFile], others: list[Entry]
) -> tuple[list[SourceFile], list[Entry]]:
    """Leave out what belongs to a folder that is one source as a whole."""
    whole = {file.path.parent: 0 for file in files if file.pattern.folder}
    if not whole:
        return files, others
    markers = {
        Path(os.path.normpath(file.path.parent / file.pattern.beside))
        for file in files
        if file.pattern.beside is not None
    }
    kept_others = []
    for entry in others:
        above = _above(entry.path, whole)
        if above is not None:
            whole[above] += entry.size
        elif entry.path not in markers:
            kept_others.append(entry)
    for file in files:
        above = _above(file.path, whole)
        if above is not None:
            whole[above] += file.size
    kept = [
        replace(file, size=whole[file.path.parent]) if file.pattern.folder else file
        for file in files
        if file.pattern.folder or _above(file.path, whole) is None
    ]
    return kept, kept_others


def _above(path: Path, folders: Mapping[Path, int]) -> Path | None:
    return next((folder for folder in path.parents if folder in folders), None)


def _matched(recipe: Recipe, entry: Entry) -> SourceFile | None:
    for pattern in recipe.files:
        found = _match(pattern, entry)
        if found is not None and pattern.beside is not None:
            beside = entry.path.parent / pattern.beside
            found = found if beside.exists() and _inside_source(beside, entry) else None
        if found is not None:
            match, start = found
            above = entry.spelled[:start].rstrip("/")
            return SourceFile(
                path=entry.path,
                relative=entry.relative,
                parts={**pattern.constants, **match.parts},
                pattern=pattern,
                root=entry.root,
                folder=Path(above or "/"),
                size=entry.size,
            )
    return None


def _inside_source(path: Path, entry: Entry) -> bool:
    return paths.lies_in(path, [paths.real(entry.root)])


def _match(pattern: FilePattern, entry: Entry) -> tuple[Match, int] | None:
    """Match the tail of the path; return also where in the whole path the match begins."""
    if not entry.relative.endswith(pattern.template.ending):  # most files, of most recipes
        return None
    inside = pattern.template.match_tail(entry.relative)
    whole = readable(entry.spelled)
    if inside is not None:
        return inside, len(whole) - len(entry.relative) + inside.start
    # SOURCE may lie deeper than the template begins. Any two folders above it would fit
    # two free names, so what is found up there must be recognisable.
    match = pattern.template.match_tail(whole)
    if match is None:
        return None
    boundary = len(whole) - len(entry.relative)
    levels = whole[match.start : boundary].count("/")
    tail = "/".join(pattern.template.text.split("/")[:levels])
    above = {name: text for name, text in match.texts.items() if "{" + name in tail}
    return (match, match.start) if recognisable(pattern.template, above) else None


def _named_caches(files: list[SourceFile]) -> list[SourceFile]:
    sources = {file.folder: file.root for file in files}
    if len(sources) < 2:
        return files
    names = cache_names(sources)
    return [replace(file, cache=names[file.folder]) for file in files]


def cache_names(sources: Mapping[Path, Path]) -> dict[Path, str]:
    """Name each folder by what sets it apart from the others.

    Names are stored: of the folders above a source they have no more than it takes to do that.

    Args:
        sources: of each folder the source that it was found in.
    """
    folders = sorted(sources)
    split = {folder: folder.parts for folder in folders}
    start = 0
    while all(len(parts) > start for parts in split.values()) and (
        len({parts[start] for parts in split.values()}) == 1
    ):
        start += 1
    end = 0
    while all(len(parts) - end > start for parts in split.values()) and (
        len({parts[len(parts) - end - 1] for parts in split.values()}) == 1
    ):
        end += 1
    apart = {folder: parts[start : len(parts) - end] for folder, parts in split.items()}
    above = {
        folder: max(0, min(len(sources[folder].parts) - 1 - start, len(parts) - 1))
        for folder, parts in apart.items()
    }
    for fewer in range(max(above.values()), -1, -1):
        # The folder that holds the others has nothing left of its own: it keeps its name.
        names = {
            folder: "/".join(parts[min(fewer, above[folder]) :]) or folder.name
            for folder, parts in apart.items()
        }
        if len(set(names.values())) == len(names):
            break
    return names


def discover(
    sources: Sequence[Path],
    *,
    recipe: Recipe | None,
    recipes: Iterable[Recipe] = (),
    options: Options | None = None,
    hints: Hints | None = None,
    undescribed: bool = False,
    gate: Gate | None = None,
) -> Discovery:
    """Find the files of ``recipe``, or the one recipe of ``recipes`` that fits.

    A recipe fits when its path templates match files and one of a few opened samples
    holds its keys. Generic recipes count only where no other fits. Where none does, one is
    made up from paths, keys and shapes, as it is where ``hints`` say where things stand, or
    where the folder is said to be ``undescribed``.

    Raises:
        UsageError: a source does not exist or holds no file.
        RecipeError: no file fits the recipe; or no recipe, or more than one, fits.
    """
    passed = Passed()
    entries, links = walk(sources, passed), passed.links
    where = ", ".join(str(source) for source in sources)
    if not entries:
        unlisted = "".join(f"; {path}: {why}" for path, why in passed.refused[:3])
        why = f"(hidden ones are left out){_unfollowed(links)}{unlisted}"
        raise UsageError(f"{where}: holds no file {why}")
    hints = hints or Hints()
    said = hints.layer_from is not None or hints.example_from is not None
    if undescribed or (said and recipe is None):
        found = _described(describe(sources, hints), entries)
    else:
        found = _discovered(
            entries, sources, recipe, recipes, options, hints, links, gate or Gate()
        )
    _check_stores(found.files)
    return replace(found, links=tuple(links), refused=tuple(passed.refused))


def _check_stores(files: Iterable[SourceFile]) -> None:
    """Refuse the shards of a store that say something else than the store does.

    Raises:
        UsageError: rows were dropped since, or labels changed; says how to take the store's.
    """
    mark = f"/{layout.ACTIVATIONS}/"
    found: dict[str, set[str]] = {}
    for file in files:
        if file.relative.endswith(".parquet"):
            root, marked, inside = file.path.as_posix().rpartition(mark)
            if marked:
                found.setdefault(root, set()).add(f"{layout.ACTIVATIONS}/{inside}")
    for root, shards in found.items():
        of_commits = Path(root, layout.MANIFESTS)
        if not of_commits.is_dir() or not all(map(fetching.is_here, of_commits.iterdir())):
            continue
        manifest = latest(Path(root))
        if manifest.labels or not shards <= {shard.path for shard in manifest.shards}:
            raise UsageError(
                f"{root} is a store, and its Parquet files alone are not what commit "
                f"{manifest.number} holds: files of earlier commits lie among them, or labels "
                "beside them; `actstore sync` copies a store, and `actstore export STORE FOLDER "
                "--to parquet` writes its rows as files to ingest"
            )


def _title(sources: Sequence[Path]) -> str:
    return f"As found in {', '.join(path.absolute().name for path in sources)}"


def describe(sources: Sequence[Path], hints: Hints) -> Inferred:
    """Make up the recipe of some folders from paths, keys and shapes.

    Raises:
        UsageError: a source does not exist, or has no such place as the hints name.
        RecipeError: it holds no vectors that can become rows; says what was found.
    """
    entries = walk(sources)
    try:
        return inference.infer(entries, hints, _title(sources))
    except RecipeError as error:
        where = ", ".join(str(source) for source in sources)
        problem = str(error) or "there are no files of activations among them"
        raise RecipeError(
            f"{where}: no vectors that can become rows: {problem}; it holds {_seen(entries)}"
        ) from error


def _described(found: Inferred, entries: Sequence[Entry]) -> Discovery:
    files, others = assign(found.recipe, entries)
    return Discovery(
        recipe=found.recipe,
        files=tuple(files),
        others=tuple(others),
        detected=True,
        mapping=found.mapping,
    )


def _discovered(
    entries: list[Entry],
    sources: Sequence[Path],
    recipe: Recipe | None,
    recipes: Iterable[Recipe],
    options: Options | None,
    hints: Hints,
    links: Sequence[str],
    gate: Gate,
) -> Discovery:
    where = ", ".join(str(source) for source in sources)
    if recipe is not None:
        files, others = assign(recipe, entries)
        if not files:
            patterns = ", ".join(pattern.template.text for pattern in recipe.files)
            raise RecipeError(
                f"{where}: no file fits recipe {recipe.name} ({patterns}); "
                f"the source holds {_seen(entries)}{_unfollowed(links)}"
            )
        return Discovery(
            recipe=recipe,
            files=tuple(files),
            others=tuple(others),
            detected=False,
            mapping=inference.of_recipe(recipe),
        )
    found = _detect(list(recipes), entries, where, options or Options(), gate)
    if isinstance(found, Discovery) and found.recipe.name not in _BY_SHAPE:
        return found
    try:
        inferred = inference.infer(entries, hints, _title(sources))
    except RecipeError as error:
        if isinstance(found, Discovery):
            raise RecipeError(
                f"{where}: recipe {found.recipe.name} would fit, but {error}; name it with "
                f"--recipe {found.recipe.name} where that is meant"
            ) from error
        problem = found or (f"{error}. " if str(error) else "")
        raise RecipeError(
            f"{where}: no recipe fits; the source holds {_seen(entries)}{_unfollowed(links)}. "
            f"{_packed(entries)}{problem}"
            f"Known recipes: {', '.join(recipe.name for recipe in recipes)}. "
            "Choose one with --recipe NAME to see why it refuses the files, or describe the layout "
            "in a recipe of your own (`actstore recipes NAME` prints one to start from)"
        ) from error
    if (
        isinstance(found, Discovery)
        and not inferred.beyond_rows
        and _reads_paths(found, inferred.in_paths)
    ):
        kinds = {each.container or inferred.recipe.container for each in inferred.recipe.files}
        if kinds == {found.recipe.container}:
            return found
    return _described(inferred, entries)


def _packed(entries: Sequence[Entry]) -> str:
    """Say what to do where the source holds archives, which nothing here opens."""
    names = [entry.relative for entry in entries if entry.relative.lower().endswith(_ARCHIVES)]
    return f"{names[0]} is packed: unpack such files, and give their folder. " if names else ""


def _reads_paths(found: Discovery, told: frozenset[str]) -> bool:
    """Say whether a recipe reads what paths tell; by shape it takes a layer from names at most."""
    return told <= {"layer"} and (not told or all("layer" in file.parts for file in found.files))


def _detect(
    recipes: Sequence[Recipe],
    entries: Sequence[Entry],
    where: str,
    options: Options,
    gate: Gate,
) -> Discovery | str:
    """Return the recipe that fits, or where none does why a file could not be opened."""
    opened = _Opened()
    for generic in (False, True):
        fitting: list[Discovery] = []
        for recipe in recipes:
            if recipe.generic is not generic:
                continue
            files, others = assign(recipe, entries)
            if files and _fits(recipe, files, options, opened, gate):
                fitting.append(
                    Discovery(
                        recipe=recipe,
                        files=tuple(files),
                        others=tuple(others),
                        detected=True,
                        mapping=inference.of_recipe(recipe),
                    )
                )
        if len(fitting) > 1:
            names = ", ".join(found.recipe.name for found in fitting)
            examples = "; ".join(
                f"{found.recipe.name}: {len(found.files)} files such as {found.files[0].relative}"
                for found in fitting
            )
            raise RecipeError(
                f"{where}: {len(fitting)} recipes fit ({names}); choose one with --recipe NAME "
                f"({examples})"
            )
        if fitting:
            return fitting[0]
    return opened.problem


class _Opened:
    """Samples that were opened, each once for all recipes while they are few and small."""

    def __init__(self) -> None:
        self._documents: dict[tuple[str, Path], Any] = {}
        self._size = 0
        self.problem = ""
        """Why the first file that its own container could not open was of no use."""

    def document(self, kind: str, file: SourceFile) -> Any:
        key = (kind, file.content)
        if key not in self._documents:
            if self._size + file.size > _SAMPLE_BYTES:
                self._documents.clear()
                self._size = 0
            try:
                self._documents[key] = containers.read(kind, file.content, within=file.root)
                self._size += file.size
            except fetching.FAILED:
                raise
            except (ActstoreError, OSError, MemoryError) as error:
                self._documents[key] = None
                if not self.problem and containers.sniff(file.content) in (kind, None):
                    reason = str(error).splitlines()[0].replace(str(file.content), file.relative)
                    self.problem = f"{reason.rstrip('.')}. "
        return self._documents[key]


def _fits(
    recipe: Recipe,
    files: Sequence[SourceFile],
    options: Options,
    opened: _Opened,
    gate: Gate,
) -> bool:
    sidecars = Sidecars(recipe, gate=gate)
    context = readers.Context(recipe=recipe, options=options, sidecars=sidecars)
    reader = readers.create(recipe, context)
    if not reader.recognises(files):
        return False
    for file in evenly(files, _SAMPLES):
        document = opened.document(file.pattern.container or recipe.container, file)
        if document is None:
            continue
        if all(documents.has(document, key) for key in recipe.required) and reader.fits(document):
            return True
    return False


def first_examples(
    files: Sequence[SourceFile], count: int, one_each: Callable[[SourceFile], bool]
) -> list[SourceFile]:
    """Return the files of the first ``count`` examples of each folder.

    ``one_each`` says whether a file holds one example; files that hold many all stay.
    """
    seen: dict[tuple[Path, str | None], list[Any]] = {}
    kept = []
    for file in files:
        if not one_each(file):
            kept.append(file)
            continue
        known = seen.setdefault((file.path.parent, file.pattern.name), [])
        example = _example(file)
        if example not in known and len(known) < count:
            known.append(example)
        if example in known:
            kept.append(file)
    return kept


def _example(file: SourceFile) -> Any:
    expression = file.pattern.example
    if expression is None:
        return file.relative
    return tuple(file.parts.get(ref.rest) for ref in expression.references)


def _seen(entries: Sequence[Entry]) -> str:
    kinds: dict[str, int] = {}
    for entry in entries:
        suffix = entry.path.suffix.lower() or "no suffix"
        kinds[suffix] = kinds.get(suffix, 0) + 1
    most = sorted(kinds.items(), key=lambda item: -item[1])[:6]
    counts = ", ".join(f"{number} {suffix}" for suffix, number in most)
    names = ", ".join(entry.relative for entry in entries[:3])
    files = "file" if len(entries) == 1 else "files"
    return f"{len(entries):,} {files} ({counts}), such as {names}"


def _unfollowed(links: Sequence[str]) -> str:
    if not links:
        return ""
    more = f" and {len(links) - 3:,} more" if len(links) > 3 else ""
    return (
        f"; links that lead out of the source are not followed: {', '.join(links[:3])}{more} "
        "(name such a link as a SOURCE of its own; pipes and devices are never opened)"
    )
