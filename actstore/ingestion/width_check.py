"""Looks at a few files first, so that one odd file cannot set the width of all the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actstore.errors import ActstoreError, LayoutError, UsageError
from actstore.ingestion import fetching
from actstore.ingestion.read_ahead import open_file
from actstore.ingestion.readers import Reader
from actstore.ingestion.source_file import SourceFile, evenly
from actstore.storage.rows import RowBatch

_FILES = 9
_BATCHES = 64
_BYTES = 64 << 20

ModelAndSite = tuple[str, str]


@dataclass(slots=True)
class Widths:
    """The width that the vectors of a model and site have in most of the files looked at."""

    usual: Mapping[ModelAndSite, int] = field(default_factory=dict)
    by_layer: Mapping[tuple[str, str, int | None], int] = field(default_factory=dict)
    """Layers that at least two files agree about, where layers differ in width."""

    def check(self, batch: RowBatch) -> None:
        """Refuse a batch of another width than most files have.

        Raises:
            LayoutError: says which width was found and which is usual.
        """
        width = batch.vectors.shape[1]
        for model, site, layer in _places(batch):
            expected = self.by_layer.get((model, site, layer), self.usual.get((model, site)))
            if expected is not None and expected != width:
                raise LayoutError(
                    f"the vectors have width {width}; most files hold {expected} at {site} of "
                    f"{model} (give another place another --site)"
                )


def _places(batch: RowBatch) -> set[tuple[Any, Any, Any]]:
    names = ("model", "site", "layer")
    if not any(name in batch.columns for name in names):
        constants = batch.constants
        return {(constants.get("model"), constants.get("site"), constants.get("layer"))}
    columns = [
        batch.columns[name] if name in batch.columns else [batch.constants.get(name)] * len(batch)
        for name in names
    ]
    return set(zip(*columns, strict=True))


def usual_widths(reader: Reader, files: Sequence[SourceFile]) -> Widths:
    """Read the beginning of a few evenly spaced files.

    Args:
        reader: a reader of its own: what it notes and remembers is thrown away.
        files: all files of the run.

    Raises:
        UsageError: a file says so (such as: no model is recorded), and none has a row.
    """
    sites: dict[ModelAndSite, Counter[int]] = {}
    layers: dict[tuple[str, str, int | None], Counter[int]] = {}
    problems: list[UsageError] = []
    chosen = evenly(files, _FILES)
    for file in chosen:
        try:
            found = _widths(reader, file)
        except UsageError as error:
            problems.append(error)
        except fetching.FAILED:
            raise
        except (ActstoreError, OSError, MemoryError):
            continue  # read again later, and refused with its reason
        else:
            for place, width in found:
                sites.setdefault(place[:2], Counter())[width] += 1
                layers.setdefault(place, Counter())[width] += 1
    if problems and not sites:
        raise problems[0]
    usual = {}
    for site, widths in sites.items():
        width, count = widths.most_common(1)[0]
        if 2 * count > widths.total():
            usual[site] = width
    by_layer = {
        place: next(iter(widths))
        for place, widths in layers.items()
        if len(widths) == 1 and widths.total() >= 2
    }
    return Widths(usual, by_layer)


def _widths(reader: Reader, file: SourceFile) -> set[tuple[tuple[str, str, int | None], int]]:
    found = set()
    size = 0
    for number, batch in enumerate(reader.read(file, open_file(reader.recipe, file)), 1):
        found |= {(place, batch.vectors.shape[1]) for place in _places(batch)}
        size += batch.vectors.nbytes
        if number >= _BATCHES or size >= _BYTES:
            break
    return found
