"""`python -m docs.study [FOLDER]`: the study's statements, questions and model, in one folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from docs.study import facts, model


def main() -> None:
    """Write the facts and link to the model, which is converted once per checkout."""
    parser = argparse.ArgumentParser(description="Writes the study's facts and links its model.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("study"))
    parser.add_argument("--cities", type=int, default=facts.CITIES, help="how many cities")
    parser.add_argument("--capitals", type=int, default=facts.CAPITALS, help="how many capitals")
    given = parser.parse_args()
    absent = model.missing()
    if absent:
        sys.exit(f"not installed: {', '.join(absent)}; in a checkout `make install` installs them")
    prepare(given.folder, given.cities, given.capitals)


def prepare(folder: Path, cities: int, capitals: int) -> None:
    """Write everything into ``folder`` and say what it is."""
    written = facts.write(folder, cities_count=cities, capitals_count=capitals)
    for name, holds in written.items():
        print(f"{folder / name}: {holds}")
    link = folder / model.NAME
    link.unlink(missing_ok=True)
    link.symlink_to(model.checkpoint().absolute(), target_is_directory=True)
    print(f"{link}: the model, from {model.source().name}")


if __name__ == "__main__":
    main()
