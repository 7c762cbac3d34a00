"""The public names, and that importing them costs nothing until they are used."""

import subprocess
import sys

import actstore

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
