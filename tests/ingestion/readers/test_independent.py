"""Files of a layout may be read by many readers, in any order, where its reader says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
    """Everything that a reader makes of a file, to be compared."""
    document = open_file(reader.recipe, file)
    return [
        (
            batch.vectors.tobytes(),
            batch.vectors.shape,
            dict(batch.constants),
            {name: list(column) for name, column in batch.columns.items()},
        )
        for batch in reader.read(file, document)
    ]


def both_ways(recipe: str, folder: Path) -> tuple[list[Any], list[Any]]:
    """Rows of all files: by one reader in order, and by a new one for each, the last one first."""
    options = checked_options(model="org/model", site="resid_post", layer=None)
    found = discovery.discover([folder], recipe=recipes.load(recipe), options=options)
    reading = Reading(found=found, options=options, gate=Gate(), labels=None, contracted=False)

    def arranged() -> tuple[Reader, Sequence[SourceFile]]:
        reader = create(found.recipe, reading.context())
        return reader, reading.arranged(reader).files

    reader, files = arranged()
    assert len(files) > 1
    together = [plain(reader, file) for file in files]
    apart = [plain(arranged()[0], file) for file in reversed(files)]
    return together, apart[::-1]


@pytest.mark.parametrize(
    ("recipe", "write"), LAYOUTS, ids=[f"{name}-{n}" for n, (name, _) in enumerate(LAYOUTS)]
)
def test_rows_do_not_depend_on_what_was_read_before(
    recipe: str, write: Write, tmp_path: Path
) -> None:
    write(tmp_path / "in")
    together, apart = both_ways(recipe, tmp_path / "in")
    assert together == apart


def test_where_they_do_the_reader_says_so(tmp_path: Path) -> None:
    clt.write_multi_target(tmp_path / "in")
    together, apart = both_ways("clt", tmp_path / "in")
    assert together != apart


def test_every_reader_of_a_recipe_was_asked() -> None:
    asked = {recipes.load(name).reader for name, _ in LAYOUTS}
    built_in = {recipe.reader for recipe in recipes.known().values()}
    assert built_in - asked == {"clt", "table"}  # a table's rows are numbered within their file
