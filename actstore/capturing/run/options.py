"""What the caller of a capture chose, and the examples that were given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from typing import Any, Literal, get_args

from actstore.capturing.forward.pooling import Pool
from actstore.capturing.prompts.example import Example, stream
from actstore.capturing.run.batching import BatchSize
from actstore.capturing.run.tables import StorageType
from actstore.errors import UsageError

Side = Literal["auto", "left", "right"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the caller chose, parsed; as the arguments of :func:`actstore.capture`."""

    layers: str | int | Sequence[int]
    sites: tuple[str, ...]
    pools: tuple[Pool, ...]
    exclude: frozenset[str]
    batch_size: BatchSize
    max_new_tokens: int
    generation: Mapping[str, Any]
    seed: int
    chat_template: bool | str
    system: str | None
    template_options: Mapping[str, Any]
    grade: str | None
    dataset: str | None
    blocks: str | None
    padding_side: Side
    storage_dtype: StorageType | None
    resume: bool
    allow_mixed: bool
    self_check: bool
    strict: bool
    dry_run: bool
    settings: Mapping[str, Any]

    def check(self, *, generates: bool) -> None:
        """Refuse what is no choice, or needs a response where none is generated.

        Raises:
            UsageError: says what to give.
        """
        for name, chosen, choices in (
            ("padding_side", self.padding_side, get_args(Side)),
            ("storage_dtype", self.storage_dtype, (None, *get_args(StorageType))),
        ):
            if chosen not in choices:
                known = ", ".join(str(each) for each in choices)
                raise UsageError(f"{name} {chosen!r} is unknown: use one of {known}")
        if not generates:
            late = [pool.text for pool in self.pools if pool.region == "response"]
            if late:
                raise UsageError(
                    f"pool {', '.join(late)} needs a response: give max_new_tokens "
                    "(--max-new-tokens) more than 0"
                )
            if self.grade and not self.grade.startswith("sql:"):
                raise UsageError(
                    f"grade {self.grade!r} needs a response: give max_new_tokens "
                    "(--max-new-tokens) more than 0"
                )
        elif self.padding_side == "right":
            raise UsageError("generation pads on the left: leave padding_side on auto")


class Source:
    """The examples, with their number where it is known."""

    def __init__(
        self, examples: Iterable[Example | Mapping[str, Any]], first_k: int | None = None
    ) -> None:
        if hasattr(examples, "__arrow_c_stream__"):
            examples = _records(examples)
        if isinstance(examples, str | bytes | PathLike | Mapping) or not hasattr(
            examples, "__iter__"
        ):
            raise UsageError(
                f"examples: got {type(examples).__name__}, expected an iterable of mappings, a "
                "data set or a data frame (files are read by `actstore capture --data`)"
            )
        self._given = examples
        self._first_k = first_k
        try:
            self._length: int | None = len(examples)  # type: ignore[arg-type]  # or it raises
        except TypeError:
            self._length = None

    @property
    def total(self) -> int | None:
        """How many there are, if the source says so."""
        if self._length is None:
            return None
        return self._length if self._first_k is None else min(self._length, self._first_k)

    @property
    def repeats(self) -> bool:
        """Whether it can be read a second time."""
        return iter(self._given) is not self._given

    def read(self) -> Iterator[Example]:
        """Yield the examples from the first on."""
        return stream(islice(self._given, self._first_k))


def _records(frame: Any) -> list[dict[str, Any]]:
    """Return the rows of a table: of pandas, Polars, Arrow or whatever else speaks Arrow."""
    import pyarrow as pa

    table = pa.table(frame)
    # pandas gives its index along; it is no column of the user's.
    names = [name for name in table.column_names if not name.startswith("__index_level_")]
    found: list[dict[str, Any]] = table.select(names).to_pylist()
    return found
