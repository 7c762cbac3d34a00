"""Front matter of README.md: read for `cardData`, checked as POST /api/validate-yaml checks it."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import yaml  # type: ignore[import-untyped]

FRONT_MATTER = re.compile(r"^\s*---[ \t]*\r?\n(.*?)\r?\n?---[ \t]*(\r?\n|$)", re.DOTALL)
LICENSES = set(
    re.findall(
        r"\S+",
        """
        afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m
        bigscience-bloom-rail-1.0 bigscience-openrail-m bsd bsd-2-clause bsd-3-clause
        bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0
        cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
        cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
        cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0
        epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gemma gfdl gpl gpl-2.0 gpl-3.0
        grok2-community h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3
        llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1
        openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib
        """,
    )
)
UNITS = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
SIZES = {"n<1K", "n>1T", *(f"{low}<n<{high}" for low, high in itertools.pairwise(UNITS))}
TEXTS = ("tags", "language", "task_categories", "size_categories", "license", "pretty_name")
LISTS = ("tags", "language", "task_categories", "size_categories", "license")


@functools.lru_cache(maxsize=32)
def _loaded(front: str) -> Any:
    """Parse front matter once: each answer about a repository tells it. Nobody changes it."""
    return yaml.safe_load(front)


def card_data(text: str) -> dict[str, Any] | None:
    """The front matter as a mapping; None where there is none or it is broken."""
    found = FRONT_MATTER.match(text)
    if found is None:
        return None
    try:
        data = _loaded(found.group(1))
        json.dumps(data, default=str)  # neither cycles nor a thousand levels
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def card_tags(data: dict[str, Any]) -> list[str]:
    """The tags that the Hub derives: `license:mit`, `size_categories:n<1K`, and the card's own."""
    tags = [
        f"{field}:{value}"
        for field in ("task_categories", "language", "license", "size_categories")
        for value in _as_list(data.get(field))
    ]
    return [*tags, *(str(tag) for tag in _as_list(data.get("tags"))), "region:us"]


def validate(text: str, kind: str) -> tuple[list[str], list[str]]:
    """Errors and warnings of a README."""
    found = FRONT_MATTER.match(text)
    if found is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = _loaded(found.group(1))
    except (yaml.YAMLError, RecursionError) as error:
        return [f"Invalid YAML: {error}"], []
    if data is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(data, dict):
        return ["the metadata must be a mapping"], []
    return [*_field_errors(data), *(_config_errors(data) if kind == "dataset" else [])], []


def _field_errors(data: dict[str, Any]) -> Iterator[str]:
    for field in TEXTS:
        value = data.get(field)
        values = value if isinstance(value, list) and field in LISTS else [value]
        if value is not None and not all(isinstance(v, str) for v in values):
            yield f'"{field}" must be a string{" or list of strings" if field in LISTS else ""}'
    for value in _as_list(data.get("license")):
        if value not in LICENSES:
            yield f'"license" must be one of [{", ".join(sorted(LICENSES))}]'
    for value in _as_list(data.get("size_categories")):
        if value not in SIZES:
            yield f'"size_categories" must be one of [{", ".join(sorted(SIZES))}]'


def _config_errors(data: dict[str, Any]) -> Iterator[str]:
    configs = data.get("configs")
    if configs is None:
        return
    if not isinstance(configs, list):
        yield '"configs" must be an array'
        return
    names = []
    for at, config in enumerate(configs):
        if not isinstance(config, dict) or not isinstance(config.get("config_name"), str):
            yield f'"configs[{at}].config_name" is required'
            continue
        names.append(config["config_name"])
        files = config.get("data_files")
        if isinstance(files, list) and not all(
            isinstance(f, str) or (isinstance(f, dict) and {"split", "path"} <= f.keys())
            for f in files
        ):
            yield f'"configs[{at}].data_files" items need "split" and "path"'
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f'"configs" has duplicate config_name "{name}"'


def _as_list(value: object) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
