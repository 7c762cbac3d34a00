"""`actstore recipes`: lists the layouts that ingest knows, or prints one recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from actstore.commands import output
from actstore.commands.options import LocalPath, format_options

if TYPE_CHECKING:
    from actstore.ingestion.recipe import Recipe


@click.command("recipes")
@click.argument("name", required=False)
@click.option(
    "--capture",
    "for_capture",
    is_flag=True,
    help="The recipes of `actstore capture`: how files of questions become examples.",
)
@click.option(
    "--from",
    "folder",
    type=LocalPath(exists=True),
    metavar="FOLDER",
    help="Write the recipe of a folder of no known layout, as `actstore ingest` would read it.",
)
@click.option(
    "--layer-from", metavar="PLACE", help="With --from: where its layers stand, as for ingest."
)
@click.option(
    "--example-from", metavar="PLACE", help="With --from: where its examples stand, as for ingest."
)
@format_options
def command(
    name: str | None,
    for_capture: bool,
    folder: Path | None,
    layer_from: str | None,
    example_from: str | None,
    as_json: bool,
) -> None:
    """List the recipes that ingest knows, or print one.

    A recipe is a TOML file that says how the files of one layout become rows. Print the
    nearest one, change it, and pass it to `actstore ingest --recipe my.toml`.

    \b
    Examples:
      actstore recipes
      actstore recipes faithfulness > my.toml
      actstore recipes --capture contrastive
      actstore recipes --from acts > my.toml
    """
    if folder is not None:
        _of_folder(folder, layer_from, example_from, as_json)
        return
    if for_capture:
        _for_capture(name, as_json)
        return
    from actstore.ingestion import recipes as recipe

    if name is not None:
        chosen = recipe.load(name)
        if as_json:
            output.print_json(_summary(chosen) | {"text": chosen.text})
        else:
            click.echo(chosen.text, nl=not chosen.text.endswith("\n"))
        return
    found = recipe.known().values()
    if as_json:
        output.print_json([_summary(item) for item in found])
    else:
        output.print_table(
            ("recipe", "container", "layout"),
            [(item.name, item.container, item.title) for item in found],
            limit=output.WIDE,
        )


def _of_folder(
    folder: Path, layer_from: str | None, example_from: str | None, as_json: bool
) -> None:
    from actstore.commands.ingest import print_left_out
    from actstore.ingestion.folder import recipe_of

    found = recipe_of(folder, layer_from=layer_from, example_from=example_from)
    if as_json:
        output.print_json(
            {
                "mapping": found.mapping.as_dict(),
                "text": found.recipe.text,
                "name": found.recipe.name,
            }
        )
    else:
        click.echo(found.recipe.text, nl=False)
        print_left_out(found.mapping)


def _for_capture(name: str | None, as_json: bool) -> None:
    from actstore.capturing.prompts import capture_recipes

    if name is not None:
        chosen = capture_recipes.load(name)
        if as_json:
            output.print_json({"name": chosen.name, "title": chosen.title, "text": chosen.text})
        else:
            click.echo(chosen.text, nl=not chosen.text.endswith("\n"))
        return
    found = capture_recipes.known().values()
    if as_json:
        output.print_json([{"name": item.name, "title": item.title} for item in found])
    else:
        rows = [(item.name, item.title) for item in found]
        output.print_table(("recipe", "questions"), rows, limit=output.WIDE)


def _summary(item: Recipe) -> dict[str, object]:
    return {
        "name": item.name,
        "title": item.title,
        "container": item.container,
        "sidecars": [spec.name for spec in item.sidecars],
        "link": item.link,
    }
