"""Tables beside the activations: where they lie, and which of them are read for which file."""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from actstore import paths as gateway
from actstore.errors import PathError, SidecarError, UsageError
from actstore.ingestion import fetching
from actstore.ingestion.expression import Expression, compile_expression
from actstore.ingestion.gate import Gate, whole
from actstore.ingestion.recipe import Recipe, SidecarSpec
from actstore.ingestion.sidecar_table import SidecarTable, read_records
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.template import part_value

_PARENTS = 4


class Sidecars:
    """Finds and reads the sidecar tables of one recipe."""

    def __init__(
        self,
        recipe: Recipe,
        overrides: Mapping[str, Path] | None = None,
        gate: Gate | None = None,
    ) -> None:
        """Take ``overrides`` (name: path) before any candidate path.

        Args:
            recipe: says which tables there are, and where they may lie.
            overrides: paths by name, which the user gave: these may lie anywhere.
            gate: lets candidates through; without it those that lie in the file's source.

        Raises:
            UsageError: an override names a sidecar that the recipe does not have.
        """
        self._recipe = recipe
        self._overrides = dict(overrides or {})
        self._gate = gate or Gate()
        names = [spec.name for spec in recipe.sidecars]
        for name, path in self._overrides.items():
            if name not in names:
                raise UsageError(
                    f"--sidecar {name}=…: recipe {recipe.name} has no such sidecar; "
                    f"it has {', '.join(names) or 'none'}"
                )
            if gateway.kind_of(gateway.local(path)) not in ("a file", "a folder"):
                raise UsageError(f"--sidecar {name}={path}: no such file or folder")
        self._tables: dict[tuple[str, tuple[Path, ...]], SidecarTable] = {}
        self._found: dict[tuple[Any, ...], list[Path]] = {}
        self.used: dict[str, set[Path]] = {}
        """Name: the files that were read for it."""
        self.outside: set[Path] = set(self._overrides.values())
        """What was found that may lie outside of the sources, files and folders."""
        self._asked: dict[str, dict[Hashable, bool]] = {}
        self._withheld: dict[str, dict[Path, Withheld]] = {}

    def table(self, name: str, file: SourceFile) -> SidecarTable | None:
        """Return the table ``name`` that belongs to ``file``, or None where there is none.

        Raises:
            SidecarError: it is required and missing, several candidates fit, or it
                cannot be read.
        """
        spec = self._recipe.sidecar(name)
        paths = self._paths(spec, file)
        if not paths:
            if spec.required:
                raise SidecarError(
                    f"sidecar {name} is missing: looked for {', '.join(spec.paths)} near "
                    f"{file.relative}{self._kept_out(name)}; name it with --sidecar {name}=PATH"
                )
            return None
        key = (name, tuple(paths))
        if key not in self._tables:
            within = self.within(name, file)
            records = [record for path in paths for record in read_records(path, spec, within)]
            self._tables[key] = SidecarTable(paths[0], records, spec.many)
            self.used.setdefault(name, set()).update(paths)
        return self._tables[key]

    def asked(self, name: str, key: Hashable, found: bool) -> None:
        """Note that a row was looked up, and whether it was there."""
        self._asked.setdefault(name, {})[key] = found

    def notes(self) -> list[str]:
        """Say which tables were used and how well they joined."""
        lines = []
        for name, paths in self.used.items():
            files = _named(paths)
            answers = self._asked.get(name)
            joined = f", joined {sum(answers.values()):,} of {len(answers):,}" if answers else ""
            lines.append(f"sidecar {name}: {files}{joined}")
        for name in self._withheld.keys() - self.used.keys():
            lines.append(f"sidecar {name}: none was read{self._kept_out(name)}")
        return lines

    def taken(self) -> TableUse:
        """Return what was used and asked since the last time, and forget the answers."""
        asked, self._asked = self._asked, {}
        return TableUse(self.used, asked, self._withheld)

    def add(self, use: TableUse) -> None:
        """Take in what was used and asked elsewhere."""
        for name, paths in use.used.items():
            self.used.setdefault(name, set()).update(paths)
        for name, answers in use.asked.items():
            self._asked.setdefault(name, {}).update(answers)
        for name, withheld in use.withheld.items():
            self._withheld.setdefault(name, {}).update(withheld)

    def paths(self, files: Iterable[SourceFile]) -> set[Path]:
        """Return all tables that would be read for some files."""
        found: set[Path] = set()
        for file in files:
            for spec in self._recipe.sidecars:
                with contextlib.suppress(SidecarError):  # said where it is needed
                    found.update(self._paths(spec, file))
        return found

    def _kept_out(self, name: str) -> str:
        """Say which tables were found and not read, because they lie outside of the source."""
        found = sorted({each.shown for each in self._withheld.get(name, {}).values()})
        if not found:
            return ""
        more = f" and {len(found) - 3:,} more" if len(found) > 3 else ""
        lie = "lies" if len(found) == 1 else "lie"
        return (
            f"; {', '.join(found[:3])}{more} {lie} outside of the source: name the folder with "
            "--allow-parent if it is to be read"
        )

    def beside(self, files: Iterable[SourceFile]) -> list[Path]:
        """Return the tables above the source that the recipe's search finds and may not read.

        Those that are reached by ``..`` or through a link are not among them.
        """
        for file in files:
            for spec in self._recipe.sidecars:
                try:
                    self._paths(spec, file)
                except SidecarError:  # several fit: said where it is needed
                    continue
        found = [item for each in self._withheld.values() for item in each.items()]
        return sorted({path for path, each in found if each.searched})

    def within(self, name: str, file: SourceFile) -> tuple[Path, ...]:
        """Return the real folders, or files, that the table ``name`` of a file must lie in."""
        given = self._overrides.get(name)
        return self._gate.within(file.root) if given is None else (gateway.real(given),)

    def document(self, name: str, path: Path, file: SourceFile) -> Any:
        """Return the JSON of a file that is, or lies in, the sidecar ``name`` of ``file``.

        Raises:
            PathError: it cannot be opened, or leads out of what may be read.
            SidecarError: it is no JSON.
        """
        fetching.ensure(path)
        try:
            return json.loads(gateway.read_text(path, self.within(name, file)))
        except PathError:
            raise
        except (ValueError, RecursionError) as error:
            raise SidecarError(f"{path}: cannot be read as json: {error}") from error

    def path(self, name: str, file: SourceFile) -> Path | None:
        """Return where the table ``name`` of ``file`` lies, or None.

        Raises:
            SidecarError: several files fit one candidate path.
        """
        paths = self._paths(self._recipe.sidecar(name), file)
        return paths[0] if paths else None

    def _paths(self, spec: SidecarSpec, file: SourceFile) -> list[Path]:
        if spec.name in self._overrides:
            return [self._overrides[spec.name]]
        patterns = tuple(_filled_in(path, file.parts) for path in spec.paths)
        key = (spec.name, file.path.parent, file.folder, patterns)
        if key not in self._found:
            wanted = [pattern for pattern in patterns if pattern is not None]
            found = self._found[key] = self._search(spec, wanted, file)
            source = whole(file.root)
            self.outside.update(path for path in found if not path.is_relative_to(source))
        return self._found[key]

    def _search(self, spec: SidecarSpec, patterns: Iterable[str], file: SourceFile) -> list[Path]:
        kept_out = False
        for pattern in patterns:
            for folder in folders_near(file):
                fitting = _fitting(folder, pattern, spec)
                found = [path for path in fitting if self._gate.admits(path, file.root)]
                if fitting and not found and not kept_out:  # the nearest are what would be read
                    kept_out = True
                    for path in fitting:
                        self._withhold(spec, path, folder, pattern, file)
                if len(found) > 1 and not spec.merge:
                    names = ", ".join(path.name for path in found[:5])
                    inside = folder.is_relative_to(whole(file.root))
                    where = folder if inside else os.path.relpath(folder, file.root)
                    raise SidecarError(
                        f"sidecar {spec.name}: {len(found)} files fit {pattern} in {where} "
                        f"({names}); choose one with --sidecar {spec.name}=PATH"
                    )
                if found:
                    return found
        return []

    def _withhold(
        self, spec: SidecarSpec, path: Path, folder: Path, pattern: str, file: SourceFile
    ) -> None:
        # As it is spelled, not where a link leads: notes are stored, and pushed.
        shown = os.path.relpath(folder, file.root) + "/" + os.path.relpath(path, folder)
        plain = ".." not in pattern.split("/") and gateway.lies_in(path, [gateway.real(folder)])
        self._withheld.setdefault(spec.name, {})[path] = Withheld(
            shown.removeprefix("./"), searched=plain
        )


class TableUse(NamedTuple):
    """What a process has used of the tables."""

    used: Mapping[str, set[Path]]
    asked: Mapping[str, Mapping[Hashable, bool]]
    withheld: Mapping[str, Mapping[Path, Withheld]]


class Withheld(NamedTuple):
    """A table that fits and lies outside of what may be read."""

    shown: str
    """What messages call it: relative to its source."""
    searched: bool
    """Whether it lies in a folder above the source, as tables of a project do."""


@cache
def _compiled(path: str) -> Expression:
    return compile_expression(path)


def _filled_in(path: str, parts: Mapping[str, Any]) -> str | None:
    """Return a candidate path with the parts of the file's own, or None where one is missing."""
    if "{" not in path:
        return path
    words = []
    for piece in _compiled(path).pieces:
        if isinstance(piece, str):
            words.append(piece)
            continue
        found = [part_value(parts, ref.rest) for ref in piece if ref.root == "path"]
        value = next((each for each in found if each is not None), None)
        if value is None:
            return None
        words.append(glob.escape(str(value)))
    filled = "".join(words)
    # What a recipe may not write it may not put together of parts either.
    return None if filled.startswith("/") or "\0" in filled else filled


def folders_near(file: SourceFile) -> Iterator[Path]:
    """Yield the folders in which sidecars of ``file`` may lie, nearest first."""
    seen: set[Path] = set()
    for start in (file.path.parent, file.folder):
        for folder in (start, *list(start.parents)[:_PARENTS]):
            if folder not in seen:
                seen.add(folder)
                yield folder
    if file.root not in seen:
        yield file.root


def _fitting(folder: Path, pattern: str, spec: SidecarSpec) -> list[Path]:
    """Return what fits a candidate in a folder, in order."""
    fits = Path.is_dir if spec.format == "folder" else Path.is_file
    found = []
    try:
        named = folder.glob(pattern) if glob.has_magic(pattern) else [folder / pattern]
        found = sorted(path for path in named if fits(path))
    except OSError:  # a name that no disk can hold, or a folder that may not be looked into
        return []
    return found


def _named(paths: Iterable[Path]) -> str:
    """Name tables by their file names, those of one name with their folders.

    Not with the folder that all of them lie in, which may be somebody's home: this is stored.
    """
    paths = sorted(paths)
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        common = os.path.commonpath(path.parent for path in paths)
        names = ["/".join(path.relative_to(common).parts[-2:]) for path in paths]
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more
