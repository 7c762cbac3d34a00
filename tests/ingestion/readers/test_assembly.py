"""Row batches of Python readers: what the user fixed, tokens, pooling, a missing model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actstore.errors import UsageError
from actstore.ingestion import recipes
from actstore.ingestion.axes import interpret
from actstore.ingestion.options import checked_options
from actstore.ingestion.readers import Context
from actstore.ingestion.readers.assembly import batches, constants
from actstore.ingestion.sidecars import Sidecars
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.tensor import Tensor

RECIPE = recipes.parse(
    """
    name = "mine"
    container = "torch"
    reader = "clt"
    [[files]]
    path = "{stem}.pt"
    """
)


def _context(shapes: Any = None, **options: Any) -> Context:
    chosen = checked_options(**options)
    return Context(recipe=RECIPE, options=chosen, sidecars=Sidecars(RECIPE), shapes=shapes)


def _file(cache: str | None = None) -> SourceFile:
    path = Path("folder/a.pt")
    return SourceFile(
        path=path,
        relative="a.pt",
        parts={"stem": "a"},
        pattern=RECIPE.files[0],
        root=path.parent,
        folder=path.parent,
        cache=cache,
    )


def _grid(*shape: int) -> Any:
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    axes = {2: ("example", "hidden"), 3: ("example", "token", "hidden")}
    return interpret(Tensor(values), axes)


def test_the_folder_of_a_cache_is_its_data_set_unless_one_is_named() -> None:
    assert constants(_context(), _file("a"), {})["dataset"] == "a"
    assert constants(_context(dataset="b"), _file("a"), {})["dataset"] == "b"
    assert "dataset" not in constants(_context(), _file(), {})


def test_map_reads_the_file_and_what_is_fixed_goes_before_it() -> None:
    context = _context(map={"task": "about.task", "mode": "{path.stem}", "site": "where"}, site="x")
    found = constants(context, _file(), {"about": {"task": "maze"}, "where": "y"}, task="other")
    assert found == {"task": "maze", "mode": "a", "site": "x"}


def test_rows_keep_their_columns_and_mapped_ones_are_left_out() -> None:
    context = _context(model="o/m", map={"task": "{path.stem}"})
    constant = constants(context, _file(), {}, source="a.pt", pooling="last", region="all")
    columns = {"example_id": ["1", "2"], "task": ["x", "y"], "model": ["p/q", "p/q"]}
    (batch,) = batches(context, _grid(2, 3), constant, columns)
    assert batch.columns == {"example_id": ["1", "2"]}
    assert (batch.constants["task"], batch.constants["model"]) == ("a", "o/m")
    assert batch.constants["pooling"] == "last"


def test_tokens_repeat_the_columns_of_their_row() -> None:
    context = _context()
    constant = {"source": "a.pt", "model": "o/m", "pooling": "last", "region": "all"}
    (batch,) = batches(
        context,
        _grid(2, 2, 3),
        constant,
        {"example_id": ["1", "2"]},
        token_columns={"token_id": [7, 8]},
    )
    assert batch.columns == {
        "example_id": ["1", "1", "2", "2"],
        "position": [0, 1, 0, 1],
        "token_id": [7, 8, 7, 8],
    }
    assert (batch.constants["pooling"], batch.constants["region"]) == ("none", None)


def test_pooled_tokens_are_counted() -> None:
    context = _context(pool="mean")
    constant = {"source": "a.pt", "model": "o/m"}
    (batch,) = batches(context, _grid(1, 2, 3), constant, {"n": ["1"]}, pooled_region="prompt")
    assert batch.columns == {"token_count": [2]}
    wanted = {"n": "1", "pooling": "mean", "region": "prompt"}
    assert {name: batch.constants[name] for name in wanted} == wanted
    assert batch.vectors.tolist() == [[1.5, 2.5, 3.5]]


def test_contracts_see_the_shape_in_the_file() -> None:
    shapes: dict[str, Any] = {}
    context = _context(shapes, first_k=1)
    (batch,) = batches(context, _grid(2, 3), {"source": "a.pt#x", "model": "o/m"})
    assert len(batch) == 1
    assert shapes == {"a.pt#x": ((2, 3), "float32")}


@pytest.mark.parametrize("columns", [{}, {"model": ["o/m", None]}])
def test_a_missing_model_is_named(columns: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--model"):
        list(batches(_context(), _grid(2, 3), {"source": "a.pt"}, columns))
