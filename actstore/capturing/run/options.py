"""What the caller of a capture chose, and the examples that were given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from os import PathLike
from typing import Any, Literal, TypedDict, get_args

from actstore import schema
from actstore.capturing.forward.pooling import Pool, parse_exclude, parse_pools
from actstore.capturing.prompts.example import Example, ExampleKey, stream
from actstore.capturing.run.batching import BatchSize, parse_batch_size, window_size
from actstore.capturing.run.pieces import Part, Piece, cut
from actstore.capturing.run.tables import StorageType
from actstore.errors import UsageError
from actstore.models.blocks import PATTERN

Side = Literal["auto", "left", "right"]
ENGINES = ("local", "ray", "slurm", "vllm")
"""What runs the model: transformers in this process, or vLLM."""


@dataclass(frozen=True, kw_only=True)
class CaptureSettings:
    """What the caller chose; :func:`actstore.capture` says what each of it means.

    Raises:
        UsageError: a site, pool, excluded word or number that there is not.
    """

    layers: str | int | Sequence[int] = "all"
    sites: str | Sequence[str] = ("resid_post",)
    pool: str | Sequence[str] = ("prompt.last",)
    pattern_length: int = 128
    exclude: str | Sequence[str] = ("bos",)
    batch_size: BatchSize = 8
    max_new_tokens: int = 0
    generation: Mapping[str, Any] | None = None
    seed: int = 0
    chat_template: bool | str = True
    system: str | None = None
    template_options: Mapping[str, Any] | None = None
    grade: str | None = None
    model_name: str | None = None
    revision: str | None = None
    dataset: str | None = None
    first_k: int | None = None
    blocks: str | None = None
    padding_side: Side = "auto"
    storage_dtype: StorageType | None = None
    resume: bool = True
    allow_mixed: bool = False
    self_check: bool = True
    strict: bool = False
    dry_run: bool = False
    rank: int | None = None
    world_size: int | None = None
    piece: int | None = None
    settings: Mapping[str, Any] | None = None
    engine: str = "local"
    engine_options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.first_k is not None and self.first_k < 1:
            raise UsageError(f"first_k {self.first_k}: at least 1")
        if self.pattern_length < 1:
            raise UsageError(f"pattern_length {self.pattern_length}: at least 1")
        if self.engine not in ENGINES:
            raise UsageError(f"engine {self.engine!r} is unknown: use one of {', '.join(ENGINES)}")
        if self.engine_options and self.engine != "vllm":
            raise UsageError(
                f"engine options ({', '.join(self.engine_options)}) are for another engine than "
                f"{self.engine}: leave them out, or use engine vllm"
            )
        # A wrong word is told before the model is looked at.
        for read in (self.site_names, self.pools, self.excluded, self.examples_at_once):
            assert read is not None
        if (self.rank is None) != (self.world_size is None):
            given, missing = (
                ("rank", "world_size") if self.world_size is None else ("world_size", "rank")
            )
            raise UsageError(
                f"{given} without {missing}: a part of a capture is given by both, which process "
                "this is and how many there are"
            )
        assert self.part is None or self.part.size

    @cached_property
    def site_names(self) -> tuple[str, ...]:
        """The sites, one by one."""
        given = self.sites.split(",") if isinstance(self.sites, str) else self.sites
        found = tuple(name.strip() for name in given if name.strip())
        if not found:
            raise UsageError("no site was named: use resid_post, mlp_out, attn_out …")
        return found

    @property
    def has_patterns(self) -> bool:
        """Whether attention patterns are among the sites."""
        return any(schema.canonical_site(name)[0] == PATTERN for name in self.site_names)

    @cached_property
    def pools(self) -> tuple[Pool, ...]:
        """What is made of the tokens."""
        return parse_pools(self.pool)

    @cached_property
    def excluded(self) -> frozenset[str]:
        """What means and maxima leave out."""
        return parse_exclude(self.exclude)

    @cached_property
    def examples_at_once(self) -> BatchSize:
        """Examples of a batch, or ``auto``."""
        return parse_batch_size(self.batch_size)

    @cached_property
    def part(self) -> Part | None:
        """Which pieces of the examples are this process's; None: all of them, in one go."""
        if self.rank is None or self.world_size is None:
            return None
        return Part(rank=self.rank, world_size=self.world_size, size=self.piece_size)

    @property
    def piece_size(self) -> int:
        """Examples of a piece: those of a window, unless the caller has chosen."""
        return window_size(self.examples_at_once) if self.piece is None else self.piece

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
        self._check_patterns(generates)
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

    def _check_patterns(self, generates: bool) -> None:
        """A pattern is a row of one query token, over the tokens of the prompt."""
        if not self.has_patterns:
            return
        averaged = [pool.text for pool in self.pools if not pool.picks]
        if averaged:
            raise UsageError(
                f"pool {', '.join(averaged)}: site {PATTERN} keeps rows of single query tokens, "
                "which are not averaged; use prompt.last, prompt.tokens or an offset such as "
                "prompt.-2, and capture other sites in another run (with --attn eager, too)"
            )
        regions = ("response", "answer", "all") if generates else ("response",)
        late = [pool.text for pool in self.pools if pool.region in regions]
        if late:
            raise UsageError(
                f"pool {', '.join(late)}: site {PATTERN} is of the prompt's tokens alone, since a "
                "row has no place for keys that are generated later; use prompt.last or "
                "prompt.tokens, and capture other sites in another run (with --attn eager, too)"
            )

    @property
    def asked(self) -> dict[str, Any]:
        """What decides the values beside the model, as far as the caller has a say in it."""
        template = self.chat_template
        if isinstance(template, str):
            template = hashlib.sha256(template.encode()).hexdigest()
        return {
            "chat_template": template,
            "system": self.system,
            "template_options": dict(self.template_options or {}),
            "exclude": sorted(self.excluded),
            "max_new_tokens": self.max_new_tokens,
            "generation": dict(self.generation or {}) if self.max_new_tokens else {},
            "seed": self.seed if self.max_new_tokens else None,
            "storage_dtype": self.storage_dtype,
            "blocks": self.blocks,
            # Not of those that run the same code: their rows are the same.
            **({"engine": self.engine} if self.engine == "vllm" else {}),
        }


class CaptureOptions(TypedDict, total=False):
    """The fields of :class:`CaptureSettings` as keywords, for editors and type checkers."""

    layers: str | int | Sequence[int]
    sites: str | Sequence[str]
    pool: str | Sequence[str]
    pattern_length: int
    exclude: str | Sequence[str]
    batch_size: BatchSize
    max_new_tokens: int
    generation: Mapping[str, Any] | None
    seed: int
    chat_template: bool | str
    system: str | None
    template_options: Mapping[str, Any] | None
    grade: str | None
    model_name: str | None
    revision: str | None
    dataset: str | None
    first_k: int | None
    blocks: str | None
    padding_side: Side
    storage_dtype: StorageType | None
    resume: bool
    allow_mixed: bool
    self_check: bool
    strict: bool
    dry_run: bool
    rank: int | None
    world_size: int | None
    piece: int | None
    settings: Mapping[str, Any] | None
    engine: str
    engine_options: Mapping[str, Any] | None


class Source:
    """The examples, with their number where it is known."""

    def __init__(
        self,
        examples: Iterable[Example | Mapping[str, Any]],
        first_k: int | None = None,
        part: Part | None = None,
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
        self.part = part
        """Which of the examples are read; None: all."""
        self.keys: list[ExampleKey] = []
        """The examples that were read since the beginning, in their order."""
        self.told: list[tuple[str | None, str | None]] = []
        """Label and oracle of each of these, as it came."""
        try:
            self._length: int | None = len(examples)  # type: ignore[arg-type]  # or it raises
        except TypeError:
            self._length = None

    @property
    def total(self) -> int | None:
        """How many there are, if the source says so."""
        if self._length is None:
            return None
        total = self._length if self._first_k is None else min(self._length, self._first_k)
        return total if self.part is None else self.part.share(total)

    @property
    def repeats(self) -> bool:
        """Whether it can be read a second time."""
        return iter(self._given) is not self._given

    def read(self) -> Iterator[Example]:
        """Yield the examples from the first on."""
        self.keys, self.told = keys, told = [], []
        examples = self._all() if self.part is None else _of(self._chosen(self.part))
        for example in examples:
            keys.append(example.key)
            told.append((example.label, example.oracle))
            yield example

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces of :attr:`part`, from the first on."""
        assert self.part is not None
        self.keys, self.told = keys, told = [], []
        for piece in self._chosen(self.part):
            keys += [example.key for example in piece.examples]
            told += [(example.label, example.oracle) for example in piece.examples]
            yield piece

    def _all(self) -> Iterator[Example]:
        return stream(islice(self._given, self._first_k))

    def _chosen(self, part: Part) -> Iterator[Piece]:
        return (piece for piece in cut(self._all(), part.size) if part.has(piece.number))


def _of(pieces: Iterable[Piece]) -> Iterator[Example]:
    for piece in pieces:
        yield from piece.examples


def _records(frame: Any) -> list[dict[str, Any]]:
    """Return the rows of a table: of pandas, Polars, Arrow or whatever else speaks Arrow."""
    import pyarrow as pa

    table = pa.table(frame)
    # pandas gives its index along; it is no column of the user's.
    names = [name for name in table.column_names if not name.startswith("__index_level_")]
    found: list[dict[str, Any]] = table.select(names).to_pylist()
    return found
