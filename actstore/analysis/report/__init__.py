"""A store or selection on one page that any browser opens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actstore.analysis.report.contents import collect, write

__all__ = ["collect", "write"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'actstore.analysis.report' has no attribute {name!r}")
    from actstore.analysis.report import contents

    return getattr(contents, name)
