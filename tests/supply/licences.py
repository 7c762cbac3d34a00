"""Which distributions actstore brings along, and the licences that these declare."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = frozenset({"capture", "gguf", "math", "plot", "probe", "view"})
"""What users install; the peers of benchmarks and the developers' tools are not passed on."""

ALLOWED = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "CNRI-Python",
        "ISC",
        "MIT",
        "MIT-CMU",
        "MPL-2.0",  # certifi's and tqdm's: it covers their own files alone
        "PSF-2.0",
        "Unlicense",
        "Zlib",
    }
)
"""None asks anything of a program that imports the package, beyond naming its authors."""

_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_FREE_TEXT = {
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "bsd": "BSD-3-Clause",
}
"""What stands in `License`, lower case, where it is no SPDX expression."""


def brought_along(name: str = "actstore", extras: frozenset[str] = EXTRAS) -> set[str]:
    """Return the distributions that one needs on this machine, directly or not, itself left out.

    Those that are not installed are among them; what they need in turn is not known.
    """
    found: dict[str, set[str]] = {}
    waiting = [(name, set(extras))]
    while waiting:
        name, wanted = waiting.pop()
        key = canonicalize_name(name)
        if key in found and wanted <= found[key]:
            continue
        found.setdefault(key, set()).update(wanted)
        try:
            needed = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        for text in needed:
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *wanted)):
                waiting.append((requirement.name, set(requirement.extras)))
    return found.keys() - {"actstore"}


def declared(name: str) -> set[str]:
    """Return the licences of an installed distribution by SPDX; what is not known, as it stands.

    Of several that one may choose from, only the allowed ones where there is one.
    """
    metadata: Any = distribution(name).metadata
    text = metadata.get("License-Expression") or ""
    if not text:
        classifiers = [
            each.rpartition(" :: ")[2]
            for each in metadata.get_all("Classifier") or []
            if each.startswith("License ::")
        ]
        known = {_CLASSIFIERS.get(each, each) for each in classifiers} - {"OSI Approved"}
        if known:
            return known
        text = (metadata.get("License") or "").strip()
        text = _FREE_TEXT.get(text.lower(), text)
    return of_expression(text)


def of_expression(text: str) -> set[str]:
    """Return the licences that an SPDX expression binds to."""
    found: set[str] = set()
    for part in re.split(r"\s+AND\s+", re.sub(r"[()]", " ", text)):
        choices = {each.strip() for each in re.split(r"\s+OR\s+", part)}
        found |= choices & ALLOWED or choices
    return found
