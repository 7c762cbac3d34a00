"""Readers turn one opened file into rows; recipes name them, most use ``generic``.

A layout that TOML cannot describe gets a module here with a registered reader::

    @reader("faithfulness")
    class Faithfulness(Reader):
        def read(self, file, document):
            ...
            yield RowBatch(vectors=..., constants=..., columns=...)

and a recipe with ``reader = "faithfulness"``. The module is called like the reader, with
``_`` for ``-``, and is imported when a recipe first asks for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from actstore.errors import RecipeError
from actstore.ingestion.options import Options
from actstore.ingestion.recipe import Recipe
from actstore.ingestion.sidecars import Sidecars
from actstore.ingestion.source_file import SourceFile
from actstore.storage.rows import RowBatch
from actstore.storage.source_dtypes import FormNotes


@dataclass(slots=True)
class Notes:
    """What the user should know about a run beside its rows."""

    lines: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def say(self, text: str) -> None:
        """Note ``text`` once, however often it is said."""
        if text not in self.lines:
            self.lines.append(text)

    def count(self, text: str, number: int = 1) -> None:
        """Add to the number that is reported with ``text``."""
        self.counts[text] += number

    def taken(self) -> Notes:
        """Return what was noted since the last time, and forget it."""
        taken = Notes(self.lines[:], self.counts.copy())
        self.lines.clear()
        self.counts.clear()
        return taken

    def add(self, other: Notes) -> None:
        """Note what was noted elsewhere."""
        for text in other.lines:
            self.say(text)
        self.counts.update(other.counts)

    def all(self) -> tuple[str, ...]:
        """Return every note, the counted ones with their number."""
        return (*self.lines, *(f"{text}: {number:,}" for text, number in self.counts.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a reader may use beside the file."""

    recipe: Recipe
    options: Options
    sidecars: Sidecars
    notes: Notes = field(default_factory=Notes)
    forms: FormNotes = field(default_factory=FormNotes)
    """Takes what the rows do not say of their files, so that an export can write them again."""
    shapes: dict[str, tuple[tuple[int, ...], str]] | None = None
    """Where a contract asks for it: ``source`` of a tensor: its shape and type in the file."""


class Arrangement(NamedTuple):
    """What a reader makes of the files that fit its recipe's paths."""

    files: Sequence[SourceFile]
    """The ones to read, in reading order."""
    refused: Sequence[tuple[str, str]] = ()
    """Paths (relative to SOURCE, there or not) and why they count as refused."""
    unmatched: Sequence[str] = ()
    """Paths that fit the template but are no activations of this layout."""


class Reader:
    """Reads the files of one recipe, one after the other, in one thread."""

    streams: bool = False
    """Whether ``document`` is a TableSource, to be read piece by piece."""

    def __init__(self, recipe: Recipe, context: Context) -> None:
        self.recipe = recipe
        self.context = context

    def fits(self, document: Any) -> bool:
        """Say whether an opened file could be one of this layout (to detect it).

        The recipe's ``required`` keys have been found already.
        """
        raise NotImplementedError

    def recognises(self, files: Sequence[SourceFile]) -> bool:
        """Say whether files that fit the paths are its own, by what lies beside them.

        Asked to detect the layout, where paths and content alone could be anybody's.
        """
        return True

    def arrange(self, files: Sequence[SourceFile]) -> Arrangement:
        """Order the files of one source and name those that are missing or left over.

        Called once per source, before its first file is read. The order given is kept.
        """
        return Arrangement(files)

    def together(self, file: SourceFile) -> Hashable:
        """Return what a file shares with those that one reader must read in their order.

        They stand side by side in the order of :meth:`arrange`. By default each stands alone: its
        rows are the same whichever files this reader has read before.
        """
        return file.content

    def look_ahead(
        self, files: Sequence[SourceFile], opened: Callable[[SourceFile], Any]
    ) -> Mapping[str, Any]:
        """Return what rows depend on beside the files that stand together: JSON values.

        Asked of a reader of its own, which has arranged the files and reads none of them.

        Args:
            files: all that are read, in their order.
            opened: opens one; may raise.
        """
        return {}

    def begin(self, seen: Mapping[str, Any]) -> None:
        """Forget the files that were read: what comes next begins files that stand together.

        Args:
            seen: what :meth:`look_ahead` has returned.
        """

    def one_each(self, file: SourceFile) -> bool:
        """Say whether a file holds one example, so that ``--first-k`` counts files."""
        return file.pattern.example is not None

    def read(self, file: SourceFile, document: Any) -> Iterator[RowBatch]:
        """Yield the rows of one file.

        ``vectors`` are as the file holds them (any real type; the run stores them by its
        rule and refuses what is not finite), ``[rows, width]``. Columns that the user
        fixed (:class:`Options`) must be respected.

        Raises:
            ForeignFileError: the file is of another kind, and counts as unmatched.
            IngestError: the file does not fit; it is refused with this reason.
        """
        raise NotImplementedError


_readers: dict[str, type[Reader]] = {}


def reader(name: str) -> Callable[[type[Reader]], type[Reader]]:
    """Register a reader class under ``name``."""

    def register(cls: type[Reader]) -> type[Reader]:
        _readers[name] = cls
        return cls

    return register


def get(name: str) -> type[Reader]:
    """Return the reader class of that name.

    Raises:
        RecipeError: there is none.
    """
    module = f"{__name__}.{name.replace('-', '_')}"
    if name not in _readers and find_spec(module) is not None:
        import_module(module)
    if name not in _readers:
        raise RecipeError(f"no reader {name!r}: leave it out for the generic one")
    return _readers[name]


def create(recipe: Recipe, context: Context) -> Reader:
    """Return the reader that ``recipe`` asks for.

    Raises:
        RecipeError: there is none of that name.
    """
    return get(recipe.reader)(recipe, context)
