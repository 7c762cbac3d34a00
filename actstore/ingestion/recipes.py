"""Recipes by name or from a TOML file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from actstore import paths, resources
from actstore.errors import RecipeError, UnknownRecipeError
from actstore.ingestion import recipe_parsing
from actstore.ingestion.recipe import Recipe


def parse(text: str, origin: Path | None = None) -> Recipe:
    """Read a recipe from TOML.

    Raises:
        RecipeError: the text is no TOML or no recipe; lists every problem.
    """
    try:
        document = paths.parse_toml(text)
    except ValueError as error:
        raise RecipeError(f"{origin or 'recipe'}: not valid TOML: {error}") from error
    return recipe_parsing.build(document, text, origin)


@cache
def known() -> Mapping[str, Recipe]:
    """Return the built-in recipes by name, in alphabetical order."""
    paths = sorted(resources.folder("ingest").glob("*.toml"))
    recipes = [parse(path.read_text(encoding="utf-8"), path) for path in paths]
    return {recipe.name: recipe for recipe in recipes}


def load(name_or_path: str | Path) -> Recipe:
    """Return a built-in recipe by name, or the one in a TOML file.

    Raises:
        PathError: it names a pipe, a device, an address.
        UnknownRecipeError: there is none of that name and no such file.
        RecipeError: it is malformed.
    """
    recipes = known()
    if str(name_or_path) in recipes:
        return recipes[str(name_or_path)]
    path = paths.require_ordinary(name_or_path)
    if path.is_file():
        try:
            text = paths.read_text(path)
        except UnicodeDecodeError as error:
            raise RecipeError(f"{path}: not UTF-8 text: {error}") from error
        return parse(text, path)
    if path.suffix == ".toml":
        raise UnknownRecipeError(f"--recipe {path}: no such file")
    raise UnknownRecipeError(
        f"no recipe {str(name_or_path)!r}: built in are {', '.join(recipes)}; or name a .toml file"
    )
