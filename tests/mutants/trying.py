"""Mutants tried in a copy of the project, each against the tests of its own folder.

The working tree is only read. Which tests call which function is learned by running them once.
Those that call the changed one run: first of the file that is named after the module, then of
the folder's other files, and if none notices, these files run whole: tests may share what was
made once.
"""

from __future__ import annotations

import ast
import compileall
import contextlib
import hashlib
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any, Literal

from tests.mutants.changes import Mutant

Outcome = Literal["killed", "timed out", "survived", "not reached"]
_NOTICED = frozenset({"killed", "timed out"})
_SLOWER, _SPARE = 4, 60
"""A mutant may compute so many times as long as its tests take without it, and so much longer."""
_WAITING = 10
"""So many times as long it may take in all: a machine may have other things to do."""
_LEARNING = 3600
"""Seconds of computing, for all tests of a folder."""
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
_MEMORY, _FILE = 24 << 30, 4 << 30
"""Bytes of memory and in one file that a mutant may ask for."""
_PASSED, _USAGE, _NOTHING = 0, 4, 5
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
        self._copy = copy / "project"
        self._seed = seed
        self._memory = memory
        self._known: dict[str, dict[str, Any]] = {}
        for name in ("home", "temporary"):
            (copy / name).mkdir()
        for name in project.files():
            target = self._copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(project.root / name, target)
        for name in (".venv", ".models"):  # not git's, and looked for by tests
            if (project.root / name).exists():
                (self._copy / name).symlink_to((project.root / name).resolve())
        sources = sorted((self._copy / project.package).rglob("*.py"))
        hashes = [hashlib.sha256(path.read_bytes()).digest() for path in sources]
        self._package = hashlib.sha256(b"".join(hashes)).digest()
        # Python goes by time and size, which a mutant may share with its original.
        compileall.compile_dir(
            self._copy / project.package,
            quiet=1,
            invalidation_mode=PycInvalidationMode.CHECKED_HASH,
        )
        self._environment = {
            **os.environ,
            "HOME": str(copy / "home"),
            "TMPDIR": str(copy / "temporary"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{self._copy}{os.pathsep}{Path(__file__).parent}",
            "MUTANTS_PACKAGE": str(self._copy / project.package),
        }

    def try_out(self, mutant: Mutant) -> Outcome:
        """Return what the tests say to a mutant: first those in the file named after its module."""
        files = self._files(self.project.folder(mutant.path))
        named = [name for name in files if Path(name).stem == f"test_{Path(mutant.path).stem}"]
        others = [name for name in files if name not in named]
        reached: list[str] = []
        for some in (named, others):
            tests = self._learned(some)
            touching = [name for name, test in tests.items() if _touches(test["calls"], mutant)]
            if not touching:
                continue
            reached += touching
            outcome = self._noticed(mutant, touching)
            if outcome is not None:
                return outcome
        whole = {name.partition("::")[0] for name in reached}
        everything = [test for test in self._learned(files) if test.partition("::")[0] in whole]
        outcome = self._noticed(mutant, everything) if len(everything) > len(reached) else None
        return outcome or ("survived" if reached else "not reached")

    def _noticed(self, mutant: Mutant, tests: Sequence[str]) -> Outcome | None:
        """Run some tests on a mutant; None where all pass."""
        seconds = sum(self._known[_file(test)][test]["seconds"] for test in tests)
        target = self._copy / mutant.path
        source = target.read_bytes()
        target.write_bytes(mutant.applied(source))
        try:
            code = self._run(
                sorted(set(map(_file, tests))), tests, limit=_SLOWER * seconds + _SPARE
            )
        finally:
            target.write_bytes(source)
        if code == _USAGE:
            raise RuntimeError(f"pytest did not understand how it was called for {mutant}")
        if code is None or code == -signal.SIGXCPU:
            return "timed out"
        return None if code in (_PASSED, _NOTHING) else "killed"

    def _files(self, folder: str) -> list[str]:
        found = (self._copy / folder).glob("test_*.py")
        return sorted(
            path.relative_to(self._copy).as_posix() for path in found if path.name not in ATTACKS
        )

    def _learned(self, files: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the tests of some files that pass, with their seconds and what they call."""
        for name in files:
            kept = self._kept(name)
            if name not in self._known and kept.exists():
                self._known[name] = json.loads(kept.read_text())
        new = [name for name in files if name not in self._known]
        if new:
            print(f"learning what {len(new)} files of tests call: {', '.join(new)}", flush=True)
            seen = self._copy.parent / "seen.json"
            seen.unlink(missing_ok=True)
            code = self._run(new, None, limit=_LEARNING, MUTANTS_WATCH=str(seen))
            if not seen.exists():
                raise RuntimeError(f"pytest ended with {code} on unchanged code: {', '.join(new)}")
            self._memory.mkdir(parents=True, exist_ok=True)
            found = json.loads(seen.read_text())
            for name in new:
                self._known[name] = {key: test for key, test in found.items() if _file(key) == name}
                self._kept(name).write_text(json.dumps(self._known[name]))
        return {test: found for name in files for test, found in self._known[name].items()}

    def _kept(self, file: str) -> Path:
        """Return where it is remembered what a file's tests call, as long as nothing changes."""
        text = (self._copy / file).read_bytes()
        digest = hashlib.sha256(self._package + text).hexdigest()[:16]
        return self._memory / f"{file.replace('/', '.').removesuffix('.py')}-{digest}.json"

    def source(self, path: str) -> bytes:
        return (self._copy / path).read_bytes()

    def state(self, mutant: Mutant) -> str:
        """Return a hash of what a mutant's outcome follows from."""
        found = hashlib.sha256(self._package)
        for path in sorted((self._copy / self.project.folder(mutant.path)).glob("*.py")):
            found.update(path.read_bytes())
        return found.hexdigest()[:16]

    def _run(
        self, files: Sequence[str], names: Sequence[str] | None, *, limit: float, **more: str
    ) -> int | None:
        """Run tests; return pytest's exit code, None where it took too long."""
        command = [sys.executable, "-m", "pytest", "-q", "-p", "watching"]
        command += ["-p", "no:cacheprovider", f"--hypothesis-seed={self._seed}"]
        if names is not None:
            only = self._copy.parent / "only.json"
            only.write_text(json.dumps(list(names)))
            more["MUTANTS_ONLY"] = str(only)
            command.append("-x")
        child = subprocess.Popen(
            [*command, *files],
            cwd=self._copy,
            env={**self._environment, **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: _limit(math.ceil(limit)),
        )
        try:
            return child.wait(_WAITING * limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            temporary = self._copy.parent / "temporary"
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(exist_ok=True)


@contextlib.contextmanager
def trial(project: Project, memory: Path, seed: int) -> Iterator[Trial]:
    """Make the copy, and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder:
        yield Trial(project, Path(folder).resolve(), memory, seed)


def valid(mutant: Mutant, source: bytes) -> bool:
    """Say whether a mutant is Python, and other Python than its original."""
    try:
        changed = ast.parse(mutant.applied(source))
    except SyntaxError:
        return False
    return ast.dump(changed) != ast.dump(ast.parse(source))


def _touches(calls: list[list[str]], mutant: Mutant) -> bool:
    return any(
        path == mutant.path and (not mutant.where or name == mutant.where) for path, name in calls
    )


def _file(test: str) -> str:
    return test.partition("::")[0]


def _limit(seconds: int) -> None:
    # Not the address space: drivers of accelerators reserve more of it than there is memory.
    for kind, wanted in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_DATA, _MEMORY),
        (resource.RLIMIT_FSIZE, _FILE),
    ):
        _, most = resource.getrlimit(kind)
        limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(kind, (limit, most))


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout
