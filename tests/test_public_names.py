"""The public names, and that importing them costs nothing until they are used."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

import actstore
from actstore.storage.layout import CACHE

HEAVY = ("numpy", "pyarrow", "duckdb", "polars", "torch", "transformers", "datasets", "rich")


def test_the_public_names_are_these() -> None:
    assert actstore.__all__ == [
        "ActstoreError",
        "Selection",
        "Store",
        "__version__",
        "capture",
        "ingest",
        "open",
        "record",
        "steering",
    ]
    for name in actstore.__all__:
        assert getattr(actstore, name) is not None
    assert dir(actstore) == sorted([*actstore.__all__, "analysis", "errors"])
    assert len(dir(actstore)) <= 12


def test_nothing_else_is_found() -> None:
    assert not hasattr(actstore, "swallow")


def test_analysis_and_errors_are_there_without_an_import_of_their_own() -> None:
    code = (
        "import sys, actstore; actstore.errors.UsageError; actstore.analysis.probe; "
        "actstore.analysis.compare; actstore.analysis.statistics.describe; "
        "print([name for name in ('torch', 'matplotlib', 'duckdb') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_importing_loads_nothing_heavy() -> None:
    code = f"import sys, actstore; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_store_loads_neither_torch_nor_polars_nor_duckdb() -> None:
    code = (
        "import sys, actstore; actstore.open; "
        "print([name for name in ('torch', 'polars', 'duckdb', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_first_question_of_a_process_does_not_wait_for_pandas(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float16)
    store = actstore.open(tmp_path / "store", create=True)
    for layer in range(12):  # as many shards that are alike are read together
        rows = {"example_id": [f"{layer}.{row}" for row in range(20)], "label": ["yes", "no"] * 10}
        store.write({f"blocks.{layer}.hook_resid_post": vectors}, rows, model="a")
    store.close()
    questions = {
        "sql": "store.sql('SELECT label, count(*), avg(norm) FROM activations GROUP BY label')",
        "nearest": "store.nearest(np.ones(8, np.float32), 3, layer=0)",
        "to_arrow": "store.select(layer=0).to_arrow()",
    }
    for question in questions.values():
        shutil.rmtree(tmp_path / "store" / CACHE, ignore_errors=True)
        code = (
            "import sys, actstore, numpy as np; "
            f"store = actstore.open({str(tmp_path / 'store')!r}); {question}; "
            "print('pandas' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout == "False\n", question
