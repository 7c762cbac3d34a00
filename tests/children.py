"""Processes for tests to kill: forks of one that has imported everything and started no threads."""

from __future__ import annotations

import multiprocessing

children = multiprocessing.get_context("forkserver")
# A process has one server for all its tests: of several lists it would know the last one only.
children.set_forkserver_preload(
    [
        "actstore.exporting.safetensors",
        "polars",
        "pyarrow.parquet",
        "tests.exporting.test_killed",
        "tests.storage.crashing",
        "tests.torture.oracle",
        "tests.torture.test_fuzz",
        "tests.torture.transfers",
    ]
)
