"""The columns of the schema as keywords: `select(model=…, layer=[3, 7])`, typed for editors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

import numpy as np

Text = str | Iterable[str | None] | None
Whole = int | np.integer | Iterable[int | np.integer | None] | None
Number = float | np.floating | Iterable[float | np.floating | None] | None


class ColumnFilters(TypedDict, total=False):
    """Per column the value that rows must have, or several of them; None means null."""

    example_id: Text
    example_index: Whole
    dataset: Text
    split: Text
    task: Text
    mode: Text
    variant: Text
    model: Text
    question: Text
    oracle: Text
    prediction: Text
    label: Text
    layer: Whole
    site: Text
    pooling: Text
    region: Text
    position: Whole
    token_id: Whole
    token_role: Text
    token_count: Whole
    norm: Number
    captured_at: Text
    source: Text
    run_id: Text
    extra: Text
