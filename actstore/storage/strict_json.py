"""Writes JSON that every reader takes: Python's own writes NaN and infinity, which JSON lacks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(value: Any, **how: Any) -> str:
    """Return a value as JSON, in UTF-8 texts; numbers that are not finite become null.

    Args:
        value: what is written.
        how: what :func:`json.dumps` takes besides.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, **how)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, **how)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value
