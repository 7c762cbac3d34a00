"""`actstore plot`: a picture of a store for a notebook or a paper."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from actstore.commands import output, plot_models
from actstore.commands.opening import open_store, skip_damaged_option
from actstore.commands.options import (
    at_option,
    format_options,
    output_option,
    readable_store_argument,
    report_traffic,
)
from actstore.commands.plot_options import DOSE, LENS, ModelShown, model_options
from actstore.commands.probes_shown import (
    about_places,
    found_probes,
    no_probes_option,
    probes_option,
)
from actstore.commands.progress import quiet
from actstore.commands.row_options import Rows, row_options
from actstore.errors import UsageError

if TYPE_CHECKING:
    from actstore.analysis.plots.looks import Picture, Style
    from actstore.api.selection import Selection
    from actstore.commands.plot_models import Asked

KINDS = (
    *("histogram", "heatmap", "norms", "pca", "similarity", "positions", "auroc"),
    *(LENS, DOSE),
)
STYLES = ("screen", "paper", "dark")
_FEWEST = 3
"""Rows of a layer that say something on how rows are spread."""
_SAMPLED = ("histogram", "heatmap", "pca", "similarity", LENS, DOSE)


@click.command("plot")
@readable_store_argument
@click.option("--kind", type=click.Choice(KINDS), required=True, help="What to draw.")
@output_option("Where to: a name that ends in .png, .svg, .pdf or .html.", required=True)
@click.option(
    "--by",
    metavar="COLUMN",
    default="label",
    show_default=True,
    help="Metadata column whose values are told apart; an empty text tells none apart.",
)
@click.option(
    "--positive",
    multiple=True,
    metavar="VALUE",
    help="auroc: the positive class; may be repeated. Without either, there are two values.",
)
@click.option(
    "--negative",
    multiple=True,
    metavar="VALUE",
    help="auroc: the negative class; by default all other values.",
)
@probes_option(
    "--report",
    help="auroc: draw the results of `actstore probe --out DIR` (or of `actstore validate`); by "
    "default those of a probe run on these rows that lies beside STORE or FILE.",
)
@no_probes_option
@click.option(
    "--rows",
    "most",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many rows of each layer to draw at most; lens: examples, or positions of one; "
    "dose: prompts.",
)
@click.option(
    "--of",
    metavar="norm|FILE",
    help="histogram: of the norms, or of how far the vectors lie along a steering vector "
    "(layer_L.pt) instead of all their values.",
)
@click.option("--title", metavar="TEXT", help="Title above the picture; an empty text for none.")
@click.option(
    "--style",
    type=click.Choice(STYLES),
    default="screen",
    show_default=True,
    help="paper: for the width of a page, at 300 dpi, what it shows left to the caption.",
)
@model_options
@row_options()
@format_options
@at_option()
@skip_damaged_option
def command(
    store: str | Path,
    rows: Rows,
    shown: ModelShown,
    kind: str,
    target: Path,
    by: str,
    positive: tuple[str, ...],
    negative: tuple[str, ...],
    probes: Path | None,
    no_probes: bool,
    most: int | None,
    of: str | None,
    title: str | None,
    style: Style,
    as_json: bool,
    at: int | None,
) -> None:
    """Draw STORE, or its rows that meet WHERE, into FILE.

    \b
      histogram   how often which value occurs, by layer; --of norm: which length
      heatmap     how large each dimension is, by layer
      norms       length of the vectors by layer: median and spread
      pca         rows along their two directions of largest variance, by layer
      similarity  linear CKA between layers; of one layer, cosines between rows
      positions   length of the vectors of tokens, by layer and position
      auroc       how well the label can be read off each layer, with intervals: by
                  probes where there are any, else by the difference of means
      lens        what the model would say at each layer, by its own final norm and head
      dose        how far each strength of a steering vector moves what the model says

    A picture is of one model, site, pooling and region. Rows of large stores are sampled, and the
    picture says so. The same rows give the same bytes.

    \b
    Examples:
      actstore plot runs.store --kind pca -o pca.png
      actstore plot runs.store --kind norms --by task -o norms.svg
      actstore plot runs.store --kind histogram --of norm --layers 12 -o norms.png
      actstore plot runs.store --kind similarity --style paper -o similarity.svg
      actstore plot runs.store --kind pca --layers 12 -o pca.html
      actstore plot runs.store --kind auroc --probes probes -o auroc.svg
      actstore plot runs.store --kind lens --example q7 --target " Paris" -o lens.png
      actstore plot runs.store --kind dose --vectors steering --layers 15 --target Yes \\
                    --against No --data others.jsonl -o dose.png
    """
    from actstore.analysis import plots

    if target.suffix.lower() not in (".png", ".svg", ".pdf", ".html"):
        raise click.BadParameter(
            f"{target.name} should end in .png, .svg, .pdf or .html", param_hint="-o"
        )
    if (positive or negative or probes or no_probes) and kind != "auroc":
        raise click.UsageError(
            "--positive, --negative, --probes and --no-probes are for --kind auroc"
        )
    if probes and no_probes:
        raise click.UsageError("give --probes or --no-probes, not both")
    if most is not None and kind not in _SAMPLED:
        raise click.UsageError(f"--rows is for --kind {', '.join(_SAMPLED)}")
    if most is not None and most < _FEWEST and kind not in (LENS, DOSE):
        raise click.BadParameter(
            f"{most} is too few to draw: give {_FEWEST} or more", param_hint="--rows"
        )
    if of is not None and kind != "histogram":
        raise click.UsageError("--of is for --kind histogram")
    shown.check(kind)
    asked: Asked | None = None
    if probes is not None:
        figure = plots.auroc_of_report(probes, title=title, style=style)
    else:
        with open_store(store, at) as opened:
            if kind in (LENS, DOSE):
                draw = plot_models.lens if kind == LENS else plot_models.dose
                with quiet():
                    asked = draw(opened, rows, shown, most, title, style)
                figure = asked.figure
            else:
                selection = rows.select(opened)
                reports = []
                if kind == "auroc" and by and not no_probes:
                    whole = about_places(rows)
                    named = positive, negative
                    reports = found_probes(store, target, selection, by, named, whole=whole)
                classes = positive, negative
                drawn = Drawn(kind, by or None, classes, most, of, reports, title, style)
                figure = _draw(selection, drawn)
            report_traffic(opened.traffic)
    plots.save(figure, target)
    if as_json:
        document: dict[str, Any] = {
            "path": str(target),
            "kind": kind,
            "title": figure.heading,
            "caption": figure.caption,
        }
        output.print_json(document if asked is None else {**document, "rows": asked.rows})
        return
    if asked is not None and asked.curve is not None:
        plot_models.show(asked.curve)
    for note in asked.notes if asked is not None else ():
        output.note(f"note: {note}")
    click.echo(f"{target}: {figure.caption}")


class Drawn(NamedTuple):
    """What is to be drawn, and how."""

    kind: str
    by: str | None
    classes: tuple[tuple[str, ...], tuple[str, ...]]
    rows: int | None
    of: str | None
    probes: list[Path]
    title: str | None
    style: Style


def _draw(selection: Selection, drawn: Drawn) -> Picture:
    from actstore.analysis import plots

    kind, by, title, style = drawn.kind, drawn.by, drawn.title, drawn.style
    if kind == "auroc":
        if by is None:
            raise UsageError("auroc needs a column with the classes: --by label")
        return plots.auroc(
            selection,
            by=by,
            positive=drawn.classes[0] or None,
            negative=drawn.classes[1] or None,
            probes=drawn.probes,
            title=title,
            style=style,
        )
    if kind == "norms":
        return plots.norms(selection, by=by, title=title, style=style)
    if kind == "positions":
        return plots.positions(selection, title=title, style=style)
    sampled = {
        "histogram": plots.histogram if drawn.of is None else _histogram_of(drawn.of),
        "heatmap": plots.heatmap,
        "pca": plots.pca,
        "similarity": plots.similarity,
    }[kind]
    if drawn.rows is None:
        return sampled(selection, by=by, title=title, style=style)
    return sampled(selection, by=by, rows=drawn.rows, title=title, style=style)


def _histogram_of(of: str) -> Callable[..., Picture]:
    """Return the histogram of norms, or along the vector in a file, whose own rows it marks."""
    from actstore.analysis import plots
    from actstore.analysis.steering import vector_files

    if of == "norm":
        return partial(plots.histogram, of="norm")
    if not Path(of).is_file():
        raise click.BadParameter(
            f"{of} is neither norm nor a file: give a layer_L.pt that `actstore steer --out DIR` "
            "wrote",
            param_hint="--of",
        )
    return partial(plots.histogram, of=vector_files.one(of))
