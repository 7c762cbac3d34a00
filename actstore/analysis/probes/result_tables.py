"""Reports of probes as tables: in the terminal's words, and as a Polars frame."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from actstore.analysis.statistics.metrics import IntervalEstimate

if TYPE_CHECKING:
    import polars as pl

_SHOWN = 12


class Table:
    """A report with a row of figures for each place."""

    __slots__ = ()

    @property
    @abstractmethod
    def title(self) -> str:
        """What these are, for a heading."""

    @abstractmethod
    def figures(self) -> list[dict[str, object]]:
        """Return the figures of each place, by name."""

    def to_polars(self) -> pl.DataFrame:
        """Return the figures as a frame with a row for each place."""
        import polars as pl

        return pl.DataFrame(self.figures(), infer_schema_length=None)

    def __repr__(self) -> str:
        results: list[object] = getattr(self, "results", [])
        lines = [f"{type(self).__name__}: {self.title}", *(f"  {each!r}" for each in results)]
        if len(results) > _SHOWN:
            lines[_SHOWN + 1 :] = [f"  … and {len(results) - _SHOWN} more: .to_polars() has all"]
        return "\n".join(lines)


def told(estimate: IntervalEstimate) -> str:
    """Return ``0.812 (0.700 to 0.893)``."""
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def ends(name: str, estimate: IntervalEstimate) -> dict[str, object]:
    """Return a figure and its interval's ends, as three columns."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), estimate, strict=True))
