"""`make mutants`: changes the package's code at drawn places and says which no test notices."""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import sys
import time
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.mutants.changes import Mutant, mutants
from tests.mutants.trying import Project, noticed, trial, valid

ROOT = Path(__file__).resolve().parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
_KEY = ("path", "where", "was", "becomes", "repeat")


def main(words: Sequence[str] | None = None) -> int:
    """Try mutants and print what survived; 1 where fewer were noticed than was asked for."""
    options = _parser().parse_args(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the copy goes, and what runs in it
    project = Project(options.root.resolve(), options.package)
    equal = equivalents(options.equivalent)
    chosen = drawn(project, options.paths, base=options.base, seed=options.seed)
    chosen = [mutant for mutant in chosen if not any(matches(one, mutant) for one in equal)]
    chosen = chosen[: options.number]
    if not chosen:
        print("nothing to change: no module of the package is named by these paths")
        return 2
    records = run(project, chosen, options.results, seed=options.seed)
    print("\n" + summary(records, len(equal)))
    missed = [record for record in records if not noticed(record["outcome"])]
    return int(100 * (len(records) - len(missed)) < options.at_least * len(records))


def drawn(project: Project, paths: Sequence[str], *, base: str, seed: int) -> list[Mutant]:
    """Return mutants in the order they are tried in: of changed lines, changed files, the rest.

    Args:
        project: whose modules.
        paths: files and folders that are meant; without any, all.
        base: the branch that changes are counted from.
        seed: what the order is drawn by.
    """
    changed = project.changed(base)
    found: list[tuple[int, str, Mutant]] = []
    for path in project.modules():
        if paths and not any(path == one or path.startswith(f"{one}/") for one in paths):
            continue
        for mutant in mutants(path, (project.root / path).read_bytes()):
            near = 0 if mutant.line in changed.get(path, ()) else 1 if path in changed else 2
            found.append((near, mutant.rank(seed), mutant))
    return [mutant for _, _, mutant in sorted(found, key=lambda each: each[:2])]


def run(project: Project, chosen: Iterable[Mutant], results: Path, *, seed: int) -> list[Any]:
    """Try mutants, add each one's outcome to a file of JSON lines, and return them all.

    What the file knows already is not tried again: a mutant that was noticed, while its module
    is the same; any, while the package and the tests are.
    """
    results.parent.mkdir(parents=True, exist_ok=True)
    found = []
    mutants_ = list(chosen)
    with trial(project, results.parent / "tests", seed) as attempt:
        for number, mutant in enumerate(mutants_, 1):
            source = attempt.source(mutant.path)
            if not valid(mutant, source):
                continue
            # Read again each time: another run may have tried it meanwhile.
            lines = results.read_text("utf-8").splitlines() if results.exists() else []
            known = {_key(record): record for record in map(json.loads, lines)}
            record = known.get(_key(asdict(mutant)))
            digest = hashlib.sha256(source).hexdigest()[:16]
            state = attempt.state(mutant)
            again = record is None or not (
                record["state"] == state
                or (record["source"] == digest and noticed(record["outcome"]))
            )
            if again or record is None:
                began = time.monotonic()
                outcome = attempt.try_out(mutant)
                record = {
                    **asdict(mutant),
                    "outcome": outcome,
                    "by": attempt.failed,
                    "seconds": round(time.monotonic() - began, 1),
                    "source": digest,
                    "state": state,
                }
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            print(f"{number}/{len(mutants_)}  {record['outcome']:11}  {mutant}", flush=True)
            found.append(record)
    return found


def summary(records: Sequence[Any], equal: int) -> str:
    """Return the survivors and the score in words."""
    missed = [record for record in records if not noticed(record["outcome"])]
    lines = []
    if missed:
        lines.append("No test in the folder that mirrors the module notices:")
    for record in sorted(missed, key=lambda each: (each["path"], each["line"])):
        mutant = Mutant(**{name: record[name] for name in Mutant.__dataclass_fields__})
        reason = " (no test calls it)" if record["outcome"] == "not reached" else ""
        lines.append(f"  {mutant}{reason}")
    slow = sum(record["outcome"] == "timed out" for record in records)
    count = len(records)
    share = 100 * (count - len(missed)) / count if count else 100.0
    lines.append(
        f"{count - len(missed)} of {count} mutants noticed: {share:.1f} % ({slow} by taking too "
        f"long); {equal} more are listed as equivalent in {EQUIVALENT.name}"
    )
    return "\n".join(lines)


def equivalents(path: Path) -> list[dict[str, Any]]:
    """Return the listed mutants that change nothing anybody could see."""
    listed: list[dict[str, Any]] = tomllib.loads(path.read_text("utf-8")).get("mutant", [])
    return listed


def matches(entry: dict[str, Any], mutant: Mutant) -> bool:
    named = ("path", "was", "becomes", "where", "repeat")
    return all(getattr(mutant, name) == entry[name] for name in named if name in entry)


def _key(record: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(record[name] for name in _KEY)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("paths", nargs="*", help="modules and folders; without any, the package")
    parser.add_argument("--number", type=int, default=20, help="how many mutants (20)")
    parser.add_argument("--seed", type=int, default=0, help="which ones are drawn (0)")
    parser.add_argument("--base", default="main", help="code changed since this branch goes first")
    parser.add_argument("--at-least", type=float, default=0, help="per cent that must be noticed")
    parser.add_argument("--results", type=Path, default=ROOT / "build/mutants/results.jsonl")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    parser.add_argument("--package", default="actstore", help="the folder with its code")
    parser.add_argument("--equivalent", type=Path, default=EQUIVALENT)
    return parser


if __name__ == "__main__":
    sys.exit(main())
