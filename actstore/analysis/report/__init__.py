"""A store or selection on one page that any browser opens."""

from __future__ import annotations

from actstore.analysis.report.contents import Report, collect
from actstore.analysis.report.page import write

__all__ = ["Report", "collect", "write"]
