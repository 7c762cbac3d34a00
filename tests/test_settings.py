"""Settings: one dataclass declares them, and the keywords that editors complete are the same."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import Any, ForwardRef

import pytest

from actstore import schema
from actstore.capturing import recording
from actstore.capturing.run import options as capturing
from actstore.exporting import run as exporting
from actstore.hub import pull, push
from actstore.ingestion import memory
from actstore.ingestion import options as ingestion
from actstore.querying.column_filters import ColumnFilters
from actstore.training import batches

PACKAGE = Path(__file__).parent.parent / "actstore"


@pytest.mark.parametrize(
    ("settings", "keywords", "named"),
    [
        (capturing.CaptureSettings, capturing.CaptureOptions, ()),
        (recording.RecordSettings, recording.RecordOptions, ()),
        (ingestion.IngestSettings, ingestion.IngestOptions, ()),
        (ingestion.Options, ingestion.ReaderOptions, ("site", "layer")),
        (memory.WriteSettings, memory.WriteOptions, ()),
        (exporting.ExportSettings, exporting.SettingOptions, ()),
        (push.PushSettings, push.PushOptions, ()),
        (pull.PullSettings, pull.PullOptions, ()),
        (batches.BatchSettings, batches.BatchOptions, ("size",)),
    ],
)
def test_keywords_are_the_fields_of_the_settings(
    settings: Any, keywords: Any, named: tuple[str, ...]
) -> None:
    fields = {field.name: field.type for field in dataclasses.fields(settings)}
    typed = {
        name: kind.__forward_arg__ if isinstance(kind, ForwardRef) else kind
        for name, kind in keywords.__annotations__.items()
    }
    assert typed == {name: kind for name, kind in fields.items() if name not in named}
    assert keywords.__total__ is False


def test_filters_are_the_columns_of_the_schema() -> None:
    assert tuple(ColumnFilters.__annotations__) == schema.metadata_names()


def test_public_functions_name_what_they_take() -> None:
    untyped = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        if node.args.kwarg is not None and node.args.kwarg.arg in ("options", "settings", "equals")
        if isinstance(node.args.kwarg.annotation, ast.Name)
    ]
    assert untyped == []
