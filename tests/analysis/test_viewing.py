"""The table for the viewer: metadata whole, each layer with a cloud of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import actstore
from actstore.analysis import viewing
from actstore.errors import TooFewRowsError
from tests.analysis.peak_memory import measure
from tests.analysis.plots.pictures import make
from tests.querying import stores


def test_layers_lie_side_by_side(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path / "store", layers=(0, 1, 2, None))) as store:
        found = viewing.export(store.select(), tmp_path / "rows.parquet")
        metadata = store.select().table()
    assert found.text == "question"
    assert found.note == "160 rows, 4 layers side by side"
    table = pq.read_table(found.path)
    assert table["example_id"] == metadata["example_id"]
    assert "oracle" not in table.column_names  # wholly null
    x, y = (table[name].to_numpy() for name in (viewing.X, viewing.Y))
    layers = table["layer"].to_pylist()
    centres = {
        layer: (
            x[[each == layer for each in layers]].mean(),
            y[[each == layer for each in layers]].mean(),
        )
        for layer in (0, 1, 2, None)
    }
    for number, layer in enumerate((0, 1, 2, None)):
        assert centres[layer] == pytest.approx((number % 2 * 2.6, -(number // 2) * 2.6), abs=0.2)


def test_mixed_widths_samples_and_values_that_are_not_finite(tmp_path: Path) -> None:
    root = tmp_path / "store"
    matrix = stores.vectors(9, 6, "float32", 1)
    matrix[2] = np.nan
    stores.add(root, matrix)
    stores.add(root, stores.vectors(5, 4, "float16", 1), site="mlp_out")
    stores.add(root, np.full((3, 4), np.inf, np.float32), site="attn_out")
    with actstore.open(root) as store:
        found = viewing.export(store.select(), tmp_path / "a.parquet")
        table = pq.read_table(found.path)
        assert table[viewing.X].null_count == 4
        assert found.text == "example_id"
        found = viewing.export(store.select(), tmp_path / "a.parquet", most=6)
        assert found.rows == pq.read_table(found.path).num_rows == 6
        assert found.note.startswith("6 of 17 rows, drawn with seed 0")
        with pytest.raises(TooFewRowsError):
            viewing.export(store.select("false"), tmp_path / "b.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "store"]


def test_the_viewer_s_words() -> None:
    exported = viewing.Exported(Path("rows.parquet"), 3, "question", "")
    words = viewing.command_line("atlas", exported, host="localhost", port=6000)
    assert words == [
        *("atlas", "rows.parquet", "--x", "projection_x", "--y", "projection_y"),
        *("--text", "question", "--host", "localhost", "--port", "6000"),
    ]
    words = viewing.command_line("atlas", exported, host="", port=0, site=Path("site.zip"))
    assert words[-2:] == ["--export-application", "site.zip"]


def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    """60,000 rows of 4 kB are 240 MB of text, of which a few thousand rows are held at a time."""
    rows = 60_000
    stores.add(tmp_path / "s", np.ones((rows, 2), np.float16), question=["x" * 4000] * rows)
    with actstore.open(tmp_path / "s") as store:
        store.select().table(["example_id"])  # the store's own cache is there
    found = measure(
        "import actstore, sys; from pathlib import Path; import pyarrow.parquet\n"
        "from actstore.analysis import viewing\n"
        "selection = actstore.open(sys.argv[1]).select()",
        "viewing.export(selection, Path(sys.argv[2]))",
        tmp_path / "s",
        tmp_path / "rows.parquet",
    )
    assert pq.read_metadata(tmp_path / "rows.parquet").num_rows == rows
    assert found.grown < 170 << 20
