"""What the caller of an ingest may choose, as one value that readers can see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, get_args

from actstore import schema
from actstore.errors import LayoutError, UsageError
from actstore.storage.rows import RowBatch

if TYPE_CHECKING:
    from actstore.ingestion.recipe import Recipe
    from actstore.ingestion.report import Progress

Pool = Literal["last", "first", "mean", "max"]
StorageType = Literal["float32", "float16", "auto", "compact16", "int8"]
ENGINES = ("local", "ray")
"""What reads the files: this process, or workers of a Ray cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Choices that go beyond the recipe; None leaves the recipe's own."""

    model: str | None = None
    """Hub id or path of the model, for every row."""
    dataset: str | None = None
    """Data set, for every row."""
    site: str | None = None
    """Site in the schema's words, for every row."""
    layer: int | None = None
    """Layer of the rows for which the source records none."""
    pool: Pool | None = None
    """How a token axis becomes one vector; None stores every token."""
    storage_dtype: StorageType | None = None
    """Type to store; None keeps the source's."""
    allow_rounding: bool = False
    """Whether values may be rounded to the ``storage_dtype`` that was asked for."""
    allow_nonfinite: bool = False
    """Whether NaN and infinity may be stored."""
    first_k: int | None = None
    """Only the first examples: files of a folder, or rows along an example axis."""
    map: Mapping[str, str] = field(default_factory=dict)
    """Schema column: where the source holds it (a key, or an expression in braces)."""
    sidecars: Mapping[str, Path] = field(default_factory=dict)
    """Name of a recipe's sidecar: file to read for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSettings:
    """What the caller of :func:`actstore.ingest` chose, as given."""

    recipe: str | Path | Recipe | None = None
    model: str | None = None
    dataset: str | None = None
    labels: str | Path | None = None
    labels_on: str | Sequence[str] | None = None
    site: str | None = None
    layer: int | None = None
    pool: Pool | None = None
    storage_dtype: StorageType | None = None
    allow_rounding: bool = False
    allow_nonfinite: bool = False
    contract: str | Path | None = None
    first_k: int | None = None
    layer_from: str | None = None
    example_from: str | None = None
    yes: bool = False
    replace: bool = False
    dry_run: bool = False
    strict: bool = False
    sidecars: Mapping[str, str | Path] | None = None
    allow_parent: str | Path | Sequence[str | Path] | None = None
    map: Mapping[str, str] | None = None
    progress: Callable[[Progress], None] | None = None
    engine: str = "local"
    workers: int | None = None
    address: str | None = None

    def check_engine(self) -> None:
        """Refuse what the engine cannot do.

        Raises:
            UsageError: says what to leave out or to give.
        """
        if self.engine not in ENGINES:
            raise UsageError(f"engine {self.engine!r} is unknown: use one of {', '.join(ENGINES)}")
        if self.engine == "local":
            given = [name for name in ("workers", "address") if getattr(self, name) is not None]
            if given:
                raise UsageError(f"--{given[0]} goes with --engine ray, not with local")
            return
        if self.workers is None or self.workers < 1:
            raise UsageError(
                "say with --workers how many processes of the cluster read files (at least 1)"
            )

    def options(self) -> Options:
        """Return what readers see of it.

        Raises:
            UsageError: an option cannot work; the message names it.
        """
        return checked_options(
            site=self.site,
            layer=self.layer,
            model=self.model,
            dataset=self.dataset,
            pool=self.pool,
            storage_dtype=self.storage_dtype,
            allow_rounding=self.allow_rounding,
            allow_nonfinite=self.allow_nonfinite,
            first_k=self.first_k,
            map=dict(self.map or {}),
            sidecars={name: Path(path) for name, path in (self.sidecars or {}).items()},
        )


class IngestOptions(TypedDict, total=False):
    """The fields of :class:`IngestSettings` as keywords, for editors and type checkers."""

    recipe: str | Path | Recipe | None
    model: str | None
    dataset: str | None
    labels: str | Path | None
    labels_on: str | Sequence[str] | None
    site: str | None
    layer: int | None
    pool: Pool | None
    storage_dtype: StorageType | None
    allow_rounding: bool
    allow_nonfinite: bool
    contract: str | Path | None
    first_k: int | None
    layer_from: str | None
    example_from: str | None
    yes: bool
    replace: bool
    dry_run: bool
    strict: bool
    sidecars: Mapping[str, str | Path] | None
    allow_parent: str | Path | Sequence[str | Path] | None
    map: Mapping[str, str] | None
    progress: Callable[[Progress], None] | None
    engine: str
    workers: int | None
    address: str | None


class ReaderOptions(TypedDict, total=False):
    """The fields of :class:`Options` as keywords, but for site and layer."""

    model: str | None
    dataset: str | None
    pool: Pool | None
    storage_dtype: StorageType | None
    allow_rounding: bool
    allow_nonfinite: bool
    first_k: int | None
    map: Mapping[str, str]
    sidecars: Mapping[str, Path]


def model_unknown() -> UsageError:
    """Return the error for a source that does not say which model its vectors are from."""
    return UsageError(
        "the model is not recorded in this layout; name it with --model, "
        "such as --model meta-llama/Llama-3.1-8B-Instruct"
    )


def checked_options(
    *, site: str | None = None, layer: int | None = None, **others: Unpack[ReaderOptions]
) -> Options:
    """Return the options, with aliases of the site resolved.

    A site name that holds a layer (``blocks.3.hook_resid_post``) sets the layer too.

    Raises:
        UsageError: an option cannot work; the message names it.
    """
    if site is not None:
        site, within = schema.canonical_site(site)
        layer = within if layer is None else layer
    options = Options(site=site, layer=layer, **others)
    if options.pool is not None and options.pool not in get_args(Pool):
        raise UsageError(f"--pool {options.pool!r} is unknown: use {', '.join(get_args(Pool))}")
    if options.storage_dtype is not None and options.storage_dtype not in get_args(StorageType):
        raise UsageError(
            f"--storage-dtype {options.storage_dtype!r} is unknown: "
            f"use {', '.join(get_args(StorageType))}"
        )
    if options.first_k is not None and options.first_k < 1:
        raise UsageError(f"--first-k must be at least 1, got {options.first_k}")
    if options.layer is not None and options.layer < -1:
        raise UsageError(f"--layer must be -1 (embeddings) or more, got {options.layer}")
    if options.allow_rounding and options.storage_dtype not in ("float16", "float32"):
        raise UsageError(
            "--allow-rounding needs --storage-dtype float16 or float32, the type to round to"
        )
    known = set(schema.metadata_names()) - {"norm", "run_id", "source"} | {schema.VECTOR}
    for column in options.map:
        if column not in known:
            raise UsageError(
                f"--map {column}=…: no such column; the schema has {', '.join(sorted(known))}"
            )
    return options


def with_layer(batch: RowBatch, layer: int) -> RowBatch:
    """Return ``batch`` with its layer filled in, where the source records none.

    Raises:
        LayoutError: it records another one.
    """
    recorded = batch.columns.get("layer", [batch.constants.get("layer")])
    others = [found for found in recorded if found not in (None, layer)]
    if others:
        raise LayoutError(
            f"the source records layer {others[0]}; --layer {layer} only fills in where none is "
            "recorded: leave it out"
        )
    columns = {name: values for name, values in batch.columns.items() if name != "layer"}
    constants = {**batch.constants, "layer": layer}
    return RowBatch(vectors=batch.vectors, constants=constants, columns=columns)
