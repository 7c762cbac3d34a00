"""Mutants tried in a copy of the project, each against the tests of its own folder.

The working tree is only read. Which tests enter which block of code is learned by running each
file of tests once. Those that enter the changed one run, quick ones first and up to the first
that fails. If none notices, the other tests of these files run: they may share what was made once.
Before anything is learned, the files that are about the module run whole.
"""

from __future__ import annotations

import ast
import compileall
import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any, Literal

from tests.mutants.blocks import block_at
from tests.mutants.changes import Mutant

Outcome = Literal["killed", "timed out", "survived", "not reached"]
_NOTICED = frozenset({"killed", "timed out"})
_ENOUGH = 60.0
"""Seconds of computing that a mutant's tests may take together, without it. Quick ones come first,
and what only those left out would notice counts as survived."""
_SLOWER, _SPARE = 5, 20
"""A test may compute so many times as long as without the mutant, and so many seconds longer."""
_UNKNOWN = 120
"""So many seconds, a test of which nothing is known."""
_WAITING, _LONGER = 5, 600
"""So many times as long, and so many seconds longer, a run may last: a machine may be busy."""
_LEARNING = 1200
"""Seconds of computing, for all tests of a file."""
ATTACKS = frozenset(
    {
        "test_crashes.py",
        "test_power_loss.py",
        "test_full_disk.py",
        "test_torture.py",
        "test_edited_manifests.py",
        "test_writers_at_once.py",
        "test_resume.py",
    }
)
"""Files that are not asked: each takes minutes, and most of it in processes that nobody watches.
What only they would notice counts as survived."""
_PASSED, _NOTHING = 0, 5
"""pytest's exit codes that say nothing of the mutant; others, and signals, are of its making."""


def noticed(outcome: str) -> bool:
    return outcome in _NOTICED


class Project:
    """A repository whose tests mirror its package."""

    def __init__(self, root: Path, package: str, tests: str = "tests") -> None:
        self.root = root
        self.package = package
        self.tests = tests

    def files(self) -> list[str]:
        """Return what git knows or would add."""
        listed = _git(self.root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        return sorted(name for name in listed.split("\0") if (self.root / name).is_file())

    def modules(self) -> list[str]:
        inside = [name for name in self.files() if name.startswith(f"{self.package}/")]
        return [name for name in inside if name.endswith(".py")]

    def changed(self, base: str) -> dict[str, set[int]]:
        """Return the lines of each file that differ from where this branch left ``base``."""
        try:
            start = _git(self.root, "merge-base", base, "HEAD").strip()
        except subprocess.CalledProcessError:
            return {}
        found: dict[str, set[int]] = {}
        path = ""
        for line in _git(self.root, "diff", "-U0", "--no-color", start).splitlines():
            if line.startswith("+++ b/"):
                path = line.removeprefix("+++ b/")
            elif line.startswith("@@ "):
                first, _, count = line.split()[2].removeprefix("+").partition(",")
                lines = range(int(first), int(first) + int(count or 1))
                found.setdefault(path, set()).update(lines)
        return found

    def folder(self, module: str) -> str:
        """Return the tests' folder that mirrors a module's, or the nearest one above it."""
        inside = Path(module).parent.relative_to(self.package)
        while not list((self.root / self.tests / inside).glob("test_*.py")):
            if inside == Path():
                break
            inside = inside.parent
        return (Path(self.tests) / inside).as_posix()


class Trial:
    """A copy of the project that mutants are tried in, one after the other."""

    def __init__(self, project: Project, copy: Path, memory: Path, seed: int) -> None:
        self.project = project
        self.failed: str | None = None
        """The test that noticed the last mutant; None where none did, or it broke the import."""
        self._copy = copy / "project"
        self._seed = seed
        self._memory = memory
        self._known: dict[str, dict[str, Any]] = {}
        self._libraries: set[str] = set()
        for kept in memory.glob("*.json"):
            self._libraries |= set(json.loads(kept.read_text("utf-8"))["libraries"])
        self._sound: set[str] = set()
        self._unsound: set[str] = set()
        for name in ("home", "temporary"):
            (copy / name).mkdir()
        for name in project.files():
            target = self._copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(project.root / name, target)
        for name in (".venv", ".models"):  # not git's, and looked for by tests
            if (project.root / name).exists():
                (self._copy / name).symlink_to((project.root / name).resolve())
        self._hashes = {path: _hash(self.source(path)) for path in project.modules()}
        self._package = _hash(*(each.encode() for each in self._hashes.values()))
        # Python goes by time and size, which a mutant may share with its original.
        compileall.compile_dir(
            self._copy / project.package,
            quiet=1,
            invalidation_mode=PycInvalidationMode.CHECKED_HASH,
        )
        root = str(Path(__file__).resolve().parents[2])
        start = f"import sys; sys.path.insert(0, {root!r}); from tests.mutants import warm; "
        self._server = subprocess.Popen(
            [sys.executable, "-c", f"{start}warm.serve({root!r}, {project.package!r})"],
            cwd=self._copy,
            env={
                **os.environ,
                "HOME": str(copy / "home"),
                "TMPDIR": str(copy / "temporary"),
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(self._copy),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        self._server.terminate()
        self._server.communicate()

    def try_out(self, mutant: Mutant) -> Outcome:
        """Return what the tests say to a mutant: first those of the files about its module."""
        self.failed = None
        files = self._files(self.project.folder(mutant.path))
        about = [file for file in files if self._is_about(file, Path(mutant.path).stem)]
        # To run these whole costs no more than to learn what each of their tests enters.
        whole = [file for file in about if not self._of(file)]
        if outcome := self._noticed(mutant, whole, dict.fromkeys(whole, _UNKNOWN)):
            return outcome
        known = [file for file in files if self._of(file)]
        block = block_at(self.source(mutant.path), mutant.line)
        left = _ENOUGH
        reached: list[str] = []
        for some in (known, *([file] for file in files if file not in known)):
            touching = [
                test
                for test, found in self._learned(some).items()
                if _touches(found, mutant.path, block)
            ]
            chosen = self._chosen(touching, left)
            if outcome := self._noticed(mutant, some, chosen):
                return outcome
            left -= sum(map(self._seconds, chosen))
            reached += touching
        seen = set(map(_file, reached))
        rest = set(self._learned(sorted(seen))) - set(reached)
        outcome = self._noticed(mutant, sorted(seen), self._chosen(rest, left))
        return outcome or ("survived" if reached or whole else "not reached")

    def _noticed(
        self, mutant: Mutant, files: Sequence[str], allowed: Mapping[str, float]
    ) -> Outcome | None:
        """Run tests on a mutant and say what came of it: None where all pass.

        Args:
            mutant: what is tried.
            files: where the tests are.
            allowed: for each test, or for all of a file, the seconds of computing it may take.
        """
        while allowed:
            with self._changed(mutant):
                code, failed = self._run(files, allowed, mutant.where)
            if code in (_PASSED, _NOTHING):
                break
            if code in (None, -signal.SIGXCPU):
                return "timed out"
            if failed is None:  # it broke an import, or the process: if that is of its making
                return None if self._run(files, allowed)[0] == code else "killed"
            if self._passes(failed):
                self.failed = failed
                return "killed"
            self._unsound.add(failed)
        return None

    def _passes(self, test: str) -> bool:
        """Say whether a test passes without a mutant, alone: some may do so only after others."""
        if test not in self._sound:
            code, _ = self._run([_file(test)], {test: _UNKNOWN})
            if code != _PASSED:
                return False
            self._sound.add(test)
        return True

    def _chosen(self, tests: Iterable[str], most: float) -> dict[str, float]:
        """Return quick tests, up to some seconds together, with what each may take."""
        chosen = {}
        for test in self._ordered(tests):
            most -= self._seconds(test)
            if most < 0:
                break
            chosen[test] = _SLOWER * self._seconds(test) + _SPARE
        return chosen

    def _ordered(self, tests: Iterable[str]) -> list[str]:
        """Return tests with quick ones first; those of a file stay together, as they share much."""
        files: dict[str, list[str]] = {}
        for test in sorted(tests, key=self._seconds):
            files.setdefault(_file(test), []).append(test)
        together = sorted(files.values(), key=lambda some: sum(map(self._seconds, some)))
        return [test for some in together for test in some]

    def _seconds(self, test: str) -> float:
        return float(self._known[_file(test)]["tests"][test]["seconds"])

    @contextlib.contextmanager
    def _changed(self, mutant: Mutant) -> Iterator[None]:
        target = self._copy / mutant.path
        source = target.read_bytes()
        target.write_bytes(mutant.applied(source))
        try:
            yield
        finally:
            target.write_bytes(source)

    def _files(self, folder: str) -> list[str]:
        found = (self._copy / folder).glob("test_*.py")
        return sorted(
            path.relative_to(self._copy).as_posix() for path in found if path.name not in ATTACKS
        )

    def _learned(self, files: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the tests of some files that pass, with their seconds and what they enter."""
        return {
            test: found
            for file in files
            for test, found in (self._of(file) or self._learn(file))["tests"].items()
        }

    def _of(self, file: str) -> dict[str, Any] | None:
        """Return what is known of a file of tests, as long as what it follows from is the same."""
        if file not in self._known and self._kept(file).exists():
            found = json.loads(self._kept(file).read_text("utf-8"))
            now = {**self._hashes, file: _hash(self.source(file))}
            if all(now.get(path) == digest for path, digest in found["hashes"].items()):
                self._known[file] = found
        return self._known.get(file)

    def _kept(self, file: str) -> Path:
        return self._memory / f"{file.replace('/', '.').removesuffix('.py')}.json"

    def _learn(self, file: str) -> dict[str, Any]:
        """Run a file's tests on unchanged code, and remember what was seen."""
        print(f"learning what is called by {file}", flush=True)
        seen = self._copy.parent / "seen.json"
        seen.unlink(missing_ok=True)
        code, _ = self._run([file], {file: _LEARNING}, seen=seen)
        if not seen.exists():
            raise RuntimeError(f"pytest ended with {code} on unchanged code: {file}")
        found: dict[str, Any] = json.loads(seen.read_text("utf-8"))
        entered = {path for test in found["tests"].values() for path, _ in test["marks"]}
        found["hashes"] = {path: self._hashes[path] for path in sorted(entered)}
        found["hashes"][file] = _hash(self.source(file))
        self._memory.mkdir(parents=True, exist_ok=True)
        whole = self._kept(file).with_suffix(f".{os.getpid()}")  # others may read it meanwhile
        whole.write_text(json.dumps(found), "utf-8")
        whole.replace(self._kept(file))
        self._known[file] = found
        self._libraries |= set(found["libraries"])
        return found

    def _is_about(self, file: str, module: str) -> bool:
        """Say whether a file of tests is named after a module, or imports it by its name."""
        if Path(file).stem == f"test_{module}":
            return True
        imported = rf"^\s*(from|import) .*\b{module}\b"
        return re.search(imported.encode(), self.source(file), re.MULTILINE) is not None

    def source(self, path: str) -> bytes:
        return (self._copy / path).read_bytes()

    def state(self, mutant: Mutant) -> str:
        """Return a hash of what a mutant's outcome follows from."""
        folder = self._copy / self.project.folder(mutant.path)
        return _hash(
            self._package.encode(), *(path.read_bytes() for path in sorted(folder.glob("*.py")))
        )

    def _run(
        self,
        files: Sequence[str],
        allowed: Mapping[str, float],
        where: str = "",
        *,
        seen: Path | None = None,
    ) -> tuple[int | None, str | None]:
        """Run tests; return the exit code and the test that failed."""
        failed = self._copy.parent / "failed"
        failed.unlink(missing_ok=True)
        seconds = _SPARE + sum(allowed.values())
        asked = {
            "files": [file for file in files if any(_file(test) == file for test in allowed)],
            "allowed": allowed,
            "without": sorted(self._unsound),
            "likely": where.rpartition(".")[2],
            "failed": str(failed),
            "seen": str(seen) if seen else None,
            "libraries": sorted(self._libraries),
            "seed": self._seed,
            "seconds": math.ceil(seconds),
            "wait": _WAITING * seconds + _LONGER,
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(asked), file=self._server.stdin, flush=True)
        answer = self._server.stdout.readline()
        temporary = self._copy.parent / "temporary"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(exist_ok=True)
        return json.loads(answer), failed.read_text("utf-8") if failed.exists() else None


@contextlib.contextmanager
def trial(project: Project, memory: Path, seed: int) -> Iterator[Trial]:
    """Make the copy, and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder:
        attempt = Trial(project, Path(folder).resolve(), memory, seed)
        try:
            yield attempt
        finally:
            attempt.close()


def valid(mutant: Mutant, source: bytes) -> bool:
    """Say whether a mutant is Python, and other Python than its original."""
    try:
        changed = ast.parse(mutant.applied(source))
    except SyntaxError:
        return False
    return ast.dump(changed) != ast.dump(ast.parse(source))


def _touches(test: dict[str, Any], path: str, block: int | None) -> bool:
    return any(
        entered == path and (block is None or line == block) for entered, line in test["marks"]
    )


def _file(test: str) -> str:
    return test.partition("::")[0]


def _hash(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout
