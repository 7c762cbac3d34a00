"""`make audit`: weaknesses known of what is pinned, and licences of what is passed on.

pip-audit asks PyPI's advisories. It is run from an environment of its own, so that what it needs
does not become part of the one that is tested.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

from tests.supply import licences

ROOT = Path(__file__).resolve().parents[2]
PIP_AUDIT = "pip-audit==2.10.1"
_PLACE = ROOT / "build" / "audit"
_PATIENCE = 300


def main() -> int:
    """Print both findings; 1 where there is a weakness or a licence that is not allowed."""
    bad = _licences()
    try:
        listed = _asked()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        print(f"advisories: not asked, pip-audit cannot run here ({_line(error)})")
        return int(bad)
    text, weak = told(listed)
    print(text)
    return int(bad or weak)


def told(listed: list[dict[str, Any]]) -> tuple[str, bool]:
    """Return what pip-audit found in words, and whether anything is known to be weak."""
    asked = [one for one in listed if "vulns" in one]
    if not asked:
        return (
            "advisories: not asked, PyPI's advisories cannot be reached from here "
            f"({len(listed)} packages unchecked)",
            False,
        )
    lines = []
    for one in asked:
        for known in one["vulns"]:
            fixed = ", ".join(known.get("fix_versions") or []) or "no version yet"
            lines.append(f"  {one['name']} {one['version']}: {known['id']}, fixed in {fixed}")
    unknown = sorted(one["name"] for one in listed if "vulns" not in one)
    more = f"; not known to PyPI: {', '.join(unknown)}" if unknown else ""
    head = f"advisories: {len(asked)} packages asked about, {len(lines)} weaknesses known{more}"
    return "\n".join([head, *lines]), bool(lines)


def _licences() -> bool:
    wrong, absent = [], []
    names = sorted(licences.brought_along())
    for name in names:
        try:
            refused = licences.declared(name) - licences.ALLOWED
        except PackageNotFoundError:
            absent.append(name)
            continue
        if refused:
            wrong.append(f"  {name}: {', '.join(sorted(refused)) or 'none declared'}")
    more = f" (not installed: {', '.join(absent)})" if absent else ""
    print(f"licences: {len(names) - len(absent)} packages, {len(wrong)} not allowed{more}")
    for line in wrong:
        print(line)
    return bool(wrong)


def _asked() -> list[dict[str, Any]]:
    program = _PLACE / "bin" / "pip-audit"
    if not program.exists():
        venv.create(_PLACE, with_pip=True, clear=True)
        install = [str(_PLACE / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        install += ["--retries", "1", "--timeout", "10", PIP_AUDIT]
        subprocess.run(install, check=True, capture_output=True, timeout=_PATIENCE)
    command = [str(program), "--requirement", str(ROOT / "constraints.txt")]
    # Every version is pinned: nothing is to be resolved, so nothing is downloaded.
    command += ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE)
    if not done.stdout.strip():
        raise ValueError(done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}")
    found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    return found


def _line(error: Exception) -> str:
    said = getattr(error, "stderr", None) or str(error)
    text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    return " ".join(text.strip().rpartition("\n")[2].split())[:200]


if __name__ == "__main__":
    sys.exit(main())
