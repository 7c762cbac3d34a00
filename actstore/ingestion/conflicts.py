"""Says of rows that cannot both be stored which they are, and what tells such rows apart."""

from __future__ import annotations

from actstore.errors import ConflictError
from actstore.ingestion.discovery import Discovery


def reason_of(error: ConflictError, found: Discovery) -> str:
    """Return why a file is refused, one of whose rows has the key of another row."""
    if not error.row:
        return str(error)
    if not error.sources:
        return (
            f"already stored with a different vector: {error.row}; --replace takes the new one, "
            "another --dataset keeps both"
        )
    mine, other = error.sources
    if mine == other:
        what = f"two rows of {mine} have one key and different vectors"
        way = "name the array that holds their ids with --map example_id=KEY"
    elif _file(other) == _file(mine):
        what = f"{other} and {mine} have one key and different vectors"
        way = '--map "variant={tensor.key}" keeps both'
    else:
        what = f"{mine} has the key of {other or 'an earlier row'} and another vector"
        way = '--map "variant={stem}" keeps both'
    if not found.recipe.tensors:
        way = "name what tells them apart with --map COLUMN=KEY (example_id, variant, …)"
    elif found.detected:
        way += ", --example-from and --layer-from say where examples and layers are counted"
    else:
        way += f", or say in the recipe {found.recipe.name} what tells them apart"
    return f"{what}: {error.row}; {way}"


def conflict_text(error: ConflictError) -> str:
    """Return the same for rows that come from memory."""
    if not error.sources:
        return (
            f"this row is already stored with a different vector: {error.row}; replace=True takes "
            "the new one, another dataset= keeps both"
        )
    mine, other = error.sources
    where = mine if mine == other else f"{other} and {mine}"
    return (
        f"two rows of {where} have one key and different vectors: {error.row}; give each example "
        "its own example_id, or a column that tells them apart (variant, split, dataset, layer)"
    )


def _file(source: str) -> str:
    return source.partition("#")[0]
