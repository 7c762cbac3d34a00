"""Files of a layout are read by many readers, in any order, but for those that stand together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actstore.errors import UnreadableFileError
from actstore.ingestion import discovery, recipes
from actstore.ingestion.gate import Gate
from actstore.ingestion.options import checked_options
from actstore.ingestion.read_ahead import open_file
from actstore.ingestion.readers import Reader, create
from actstore.ingestion.reading import Reading
from actstore.ingestion.source_file import SourceFile
from tests.layouts import (
    amber,
    clt,
    contrastive,
    faithfulness,
    hook_pickle,
    lmprobe,
    spatialeval,
    vllm,
)

Write = Callable[[Path], object]


def numbered(folder: Path) -> None:
    """Matrices without names: rows are only numbered."""
    folder.mkdir()
    for number in range(3):
        rows = np.random.default_rng(number).normal(size=(4, 8)).astype(np.float32)
        np.savez(folder / f"batch_{number}.npz", activations=rows)


LAYOUTS: list[tuple[str, Write]] = [
    ("amber", amber.write_samples),
    ("clt", clt.write_multi_target),
    ("clt", partial(clt.write_multi_target, batch_size=2, samples=5)),
    ("clt", clt.write_single_target),
    ("contrastive", contrastive.write_stacked),
    ("contrastive", contrastive.write_individual),
    ("contrastive", contrastive.write_validation_stacked),
    ("faithfulness", faithfulness.write_v1),
    ("faithfulness", faithfulness.write_v2),
    ("hook-pickle", hook_pickle.write_decoded),
    ("lmprobe", lmprobe.write),
    ("numpy", numbered),
    ("spatialeval", spatialeval.write_cache),
    ("vllm", partial(vllm.write, table=True)),
]


def plain(reader: Reader, file: SourceFile) -> list[Any]:
    """Everything that a reader makes of a file, to be compared; nothing of one it refuses."""
    try:
        document = open_file(reader.recipe, file)
    except UnreadableFileError:
        return []
    return [
        (
            batch.vectors.tobytes(),
            batch.vectors.shape,
            dict(batch.constants),
            {name: list(column) for name, column in batch.columns.items()},
        )
        for batch in reader.read(file, document)
    ]


def both_ways(
    recipe: str, folder: Path, *, damage: int | None = None, alone: bool = False
) -> tuple[list[Any], list[Any]]:
    """Rows of all files: by one reader in order, and in parts by new ones, the last part first.

    Args:
        recipe: of the layout.
        folder: the files.
        damage: number of a file that cannot be read, in their order.
        alone: part files too that stand together.
    """
    options = checked_options(model="org/model", site="resid_post", layer=None)
    found = discovery.discover([folder], recipe=recipes.load(recipe), options=options)
    reading = Reading(found=found, options=options, gate=Gate(), labels=None, contracted=False)

    def arranged() -> tuple[Reader, Sequence[SourceFile]]:
        reader = create(found.recipe, reading.context())
        return reader, reading.arranged(reader).files

    reader, files = arranged()
    assert len(files) > 1
    if damage is not None:
        files[damage].path.write_bytes(b"no activations")
    together = [plain(reader, file) for file in files]
    seen = reading.looked_ahead(files)
    parts = [list(part) for _, part in groupby(files, key=reader.together)]
    if alone:
        parts = [[file] for file in files]
    apart = []
    for part in reversed(parts):
        reader, _ = arranged()
        reader.begin(seen)
        apart.append([plain(reader, file) for file in part])
    return together, [rows for part in reversed(apart) for rows in part]


@pytest.mark.parametrize(
    ("recipe", "write"), LAYOUTS, ids=[f"{name}-{n}" for n, (name, _) in enumerate(LAYOUTS)]
)
def test_rows_do_not_depend_on_what_was_read_before(
    recipe: str, write: Write, tmp_path: Path
) -> None:
    write(tmp_path / "in")
    together, apart = both_ways(recipe, tmp_path / "in")
    assert together == apart


def test_where_they_do_the_reader_says_what_stands_together(tmp_path: Path) -> None:
    clt.write_multi_target(tmp_path / "in")
    together, apart = both_ways("clt", tmp_path / "in", alone=True)
    assert together != apart


@pytest.mark.parametrize("damage", [0, 1, 10])
def test_the_first_batch_that_can_be_read_says_how_many_samples_all_hold(
    damage: int, tmp_path: Path
) -> None:
    clt.write_multi_target(tmp_path / "in", batch_size=2, samples=5)
    together, apart = both_ways("clt", tmp_path / "in", damage=damage)
    assert together == apart
    assert [rows for rows in together if not rows]


def test_every_reader_of_a_recipe_was_asked() -> None:
    asked = {recipes.load(name).reader for name, _ in LAYOUTS}
    built_in = {recipe.reader for recipe in recipes.known().values()}
    assert built_in - asked == {"table"}  # a table's rows are numbered within their file
