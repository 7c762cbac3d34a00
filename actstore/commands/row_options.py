"""Options that say which rows a command is about, and how the analysis reads them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import click

from actstore.commands.options import Decorator, Spelled, bundle, together, words
from actstore.querying import quoting

if TYPE_CHECKING:
    from actstore.analysis.examples.place_rows import RowChoice
    from actstore.api.selection import Selection
    from actstore.api.store import Store
    from actstore.querying.column_filters import ColumnFilters

FILTERS = ("model", "dataset", "split", "task", "mode", "variant", "label", "region")
"""Text columns that rows are filtered by with an option of the same name."""
_MOST_LAYERS = 10_000
_WHERE = "actstore.where"


def layer_numbers(text: str | None) -> list[int | None] | None:
    """Return the layers of ``6,12,20-24,unknown``; None for all.

    Raises:
        click.BadParameter: it is something else.
    """
    if text is None or text.strip() == "all":
        return None
    found: list[int | None] = []
    for word in text.split(","):
        word = word.strip()
        span = re.fullmatch(r"(-?\d+)(?:-(\d+))?", word)
        if word in ("unknown", "null"):
            found.append(None)
        elif word in ("embed", "embeddings"):
            found.append(-1)
        elif span is None:
            raise click.BadParameter(f"{word!r} is no layer: give them as 6,12 or 0-31, or all")
        elif span[2] is None:
            found.append(int(span[1]))
        elif int(span[2]) < int(span[1]):
            raise click.BadParameter(
                f"{word!r} is no layer: it ends before it starts; give them as 0-31"
            )
        elif int(span[2]) - int(span[1]) >= _MOST_LAYERS:
            raise click.BadParameter(
                f"{word!r} are more layers than any model has: give them as 0-31, or all"
            )
        else:
            found += range(int(span[1]), int(span[2]) + 1)
    return list(dict.fromkeys(found))


def _layers(
    ctx: click.Context, param: click.Parameter, texts: Sequence[str]
) -> list[int | None] | None:
    if any(text.strip() == "all" for text in texts):
        return None
    return layer_numbers(",".join(texts)) if texts else None


def _names(ctx: click.Context, param: click.Parameter, texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for text in texts for name in words(text)))


def _both(ctx: click.Context, param: click.Parameter, text: str | None) -> str | None:
    """Return the condition of the argument and of the option, joined."""
    given = cast("str | None", ctx.meta.get(_WHERE))
    return text if given is None else given if text is None else all_of(given, text)


def _keep_where(ctx: click.Context, param: click.Parameter, text: str | None) -> str | None:
    ctx.meta[_WHERE] = text
    return text


def all_of(*conditions: str | None) -> str | None:
    """Return one condition that holds where all of them do; None without any."""
    given = [each for each in conditions if each is not None]
    # The line breaks end comments, so that the parentheses are always closed.
    return " AND ".join(f"({each}\n)" for each in given) if len(given) > 1 else (*given, None)[0]


_where_help = "Only rows that meet this condition over the metadata"
where_option = click.option("--where", metavar="SQL", help=f"{_where_help}.")
where_options = together(
    click.argument("where", required=False, callback=_both),
    click.option(
        "--where",
        "where_too",
        metavar="SQL",
        is_eager=True,
        expose_value=False,
        callback=_keep_where,
        help=f"{_where_help}; the argument WHERE by another name.",
    ),
)
"""The condition, as the argument WHERE and as ``--where``; both together must hold."""

layers_option = click.option(
    "--layers",
    "layers",
    cls=Spelled,
    also=("--layer",),
    multiple=True,
    metavar="A,B,…",
    callback=_layers,
    help="Only these layers, such as 6,12 or 0-31; -1 is the embeddings, `unknown` a layer that "
    "was not recorded; all when missing.",
)
sites_option = click.option(
    "--sites",
    "sites",
    cls=Spelled,
    also=("--site",),
    multiple=True,
    metavar="A,B,…",
    callback=_names,
    help="Only these sites.",
)


def pool_option(*shown: str) -> Decorator[Any]:
    """Return the option ``--pool``, which filters rows by pooling, or by region and pooling."""
    return click.option(
        *(shown or ("--pool",)),
        "pools",
        cls=Spelled,
        also=() if shown else ("--pooling",),
        multiple=True,
        metavar="A,B,…",
        callback=_names,
        help="Only rows of these poolings, such as mean, or with their region: response.mean.",
    )


mixed_option = click.option(
    "--mixed",
    is_flag=True,
    help="Take rows of several models, sites, poolings, regions or layers together, though no "
    "option lists them.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Which rows of a store a command is about."""

    where: str | None
    equals: ColumnFilters
    """Wanted values by column."""

    def select(self, store: Store) -> Selection:
        """Return them."""
        return store.select(self.where, **self.equals)

    @property
    def everything(self) -> bool:
        """Whether nothing was asked for."""
        return self.where is None and not self.equals

    @property
    def text(self) -> str:
        """The conditions, in words."""
        said = [
            f"{name} {', '.join(map(str, cast('Sequence[object]', values)))}"
            for name, values in self.equals.items()
        ]
        return " and ".join([*said, *([self.where] if self.where else [])])


def _rows(
    *,
    layers: list[int | None] | None,
    sites: tuple[str, ...],
    pools: tuple[str, ...],
    where: str | None = None,
    **columns: tuple[str, ...],
) -> Rows:
    given: dict[str, Any] = {name: list(values) for name, values in columns.items() if values}
    regions, poolings = places_of(pools)
    if regions and "region" in given:
        raise click.UsageError("the region is given twice: in --pool and as --region")
    for name, values in (
        *(("layer", layers), ("site", list(sites))),
        *(("pooling", poolings), ("region", regions)),
    ):
        if values:
            given[name] = values
    order = ("layer", "model", "dataset", "split", "task", "mode", "variant", "label", "site")
    known = {name: given[name] for name in (*order, "pooling", "region") if name in given}
    return Rows(where=where, equals=cast("ColumnFilters", known))


def places_of(pools: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the regions and poolings of words such as ``mean`` and ``response.mean``.

    Raises:
        click.BadParameter: as lists of values they would mean more than was said.
    """
    pairs = [each.rpartition(".")[::2] for each in pools]
    regions = list(dict.fromkeys(region for region, _ in pairs))
    # One row per token is what the store calls the pooling none.
    poolings = list(dict.fromkeys("none" if how == "tokens" else how for _, how in pairs))
    if len(set(pairs)) < len(regions) * len(poolings) or ("" in regions and len(regions) > 1):
        raise click.BadParameter(
            f"{', '.join(pools)}: give regions and poolings that all go together, or --where "
            "\"(region = 'prompt' AND pooling = 'last') OR …\"",
            param_hint="--pool",
        )
    return [region for region in regions if region], poolings


def row_options(
    *, where: Decorator[Any] = where_options, pool: Decorator[Any] | None = None
) -> Decorator[Any]:
    """Return a decorator that adds the options that choose rows, given as ``rows``."""
    named = [
        click.option(
            f"--{name}",
            name,
            multiple=True,
            metavar="NAME",
            help=f"Only rows of this {name}; may be repeated.",
        )
        for name in FILTERS
    ]
    pooled = pool or pool_option()
    return bundle("rows", _rows, where, layers_option, sites_option, pooled, *named)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Which rows an analysis is about: of one model, by layer, site and pooling."""

    where: str | None
    layers: list[int | None] | None
    model: str | None
    sites: tuple[str, ...]
    pools: tuple[str, ...]

    def choice(self) -> RowChoice:
        """Return it as the analysis takes it."""
        from actstore.analysis.examples.place_rows import RowChoice

        regions, poolings = places_of(self.pools)
        several = {"site": self.sites, "pooling": poolings, "region": regions}
        conditions = [
            f"{name} IN ({', '.join(quoting.text(value) for value in values)})"
            for name, values in several.items()
            if len(values) > 1 or (values and name == "region")
        ]
        return RowChoice(
            where=all_of(self.where, *conditions),
            layers=self.layers,
            model=self.model,
            site=self.sites[0] if len(self.sites) == 1 else None,
            pooling=poolings[0] if len(poolings) == 1 else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """Which column holds the classes, and which of its values are positive and negative."""

    label: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]

    @property
    def sides(self) -> Mapping[str, Sequence[str] | None]:
        """Both sides as keywords, None where nothing was said."""
        return {"positive": self.positive or None, "negative": self.negative or None}

    def turned(self, names: tuple[str, str]) -> str | None:
        """Return how to turn the classes round, where nobody said which one is positive."""
        if self.positive or self.negative:
            return None
        return (
            f"positive is {names[0]}, the second of two values in alphabetical order; "
            f"--positive {shlex.quote(names[1])} turns it round"
        )


place_options = bundle(
    "places",
    Places,
    where_options,
    layers_option,
    sites_option,
    pool_option(),
    click.option("--model", metavar="NAME", help="Only rows of this model; needed if several."),
)
side_options = together(
    click.option(
        "--positive",
        multiple=True,
        metavar="VALUE",
        help="The positive class; may be repeated if several values are. By default the second of "
        "two values in alphabetical order.",
    ),
    click.option(
        "--negative",
        multiple=True,
        metavar="VALUE",
        help="The negative class; by default all other values.",
    ),
)


def label_option(help: str = "Column that holds the classes.", **more: Any) -> Decorator[Any]:
    """Return the option ``--label COLUMN``."""
    return click.option("--label", metavar="COLUMN", help=help, **more)


class_options = bundle(
    "classes", Classes, label_option(default="label", show_default=True), side_options
)
group_option = click.option(
    "--group-by",
    metavar="COLUMN|SQL",
    help="Rows with the same value of this column, extra.FIELD or SQL expression stay "
    "together; row_id keeps nothing together. By default rows that share their example or "
    "their question, and all that are connected so.",
)
in_sample_option = click.option(
    "--in-sample",
    is_flag=True,
    help="Keep the rows that it was made of; figures are then in-sample, and say so.",
)
