"""Runs the examples of a Markdown page and compares what they print with what is written.

A ```console block is a terminal session: lines after ``$ `` are run, the others are what
they print. A ```python block is executed; a ```text block right after it is what it
prints. A ```sh block of the README is a script, run as a whole. All examples of a page share
one folder and one set of Python names, in order.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import types
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from actstore import cli

_FENCE = re.compile(r"^```(?P<kind>\w*)[^\n]*\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_DECIMAL = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_NEAR = 2e-3
"""How far apart numbers of two processors may be: vectors are halves, and printed ones are cut."""
# What differs from run to run, in the order in which it is replaced.
_VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?"), "TIME"),
    (re.compile(r"\d{8}T\d{6}-[0-9a-f]+"), "RUN"),
    (re.compile(r"\b[0-9a-f]{16,}\b"), "HEX"),
    (re.compile(r"\b[\d,]+(\.\d+)? (bytes|kB|MB|GB)(/s)?\b"), "SIZE"),
    (re.compile(r"\b[\d,]+(\.\d+)? ?(s|ms|seconds|rows/s)\b"), "DURATION"),
    (re.compile(r'("(?:seconds|bytes)": )[\d.]+'), r"\1NUMBER"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One command, one script or one piece of Python, and what it should print."""

    language: Literal["shell", "python", "script"]
    code: str
    expected: str | None
    """None where the page shows no output."""
    line: int
    span: tuple[int, int] | None
    """Where the expected output stands in the page."""


def parse(page: str, *, scripts: bool = False) -> list[Example]:
    """Return the examples of a page in order; ```sh blocks only where ``scripts`` is set."""
    found: list[Example] = []
    fences = list(_FENCE.finditer(page))
    for number, fence in enumerate(fences):
        start = fence.start("body")
        if fence["kind"] == "console":
            found += _session(page, fence["body"], start)
        elif fence["kind"] == "sh" and scripts:
            found.append(
                Example(
                    language="script",
                    code=fence["body"],
                    expected=None,
                    line=page.count("\n", 0, start) + 1,
                    span=None,
                )
            )
        elif fence["kind"] == "python":
            after = fences[number + 1] if number + 1 < len(fences) else None
            printed = (
                after
                if after is not None
                and after["kind"] == "text"
                and not page[fence.end() : after.start()].strip()
                else None
            )
            found.append(
                Example(
                    language="python",
                    code=fence["body"],
                    expected=printed["body"] if printed else None,
                    line=page.count("\n", 0, start) + 1,
                    span=printed.span("body") if printed else None,
                )
            )
    return found


def _session(page: str, body: str, start: int) -> list[Example]:
    examples = []
    prompts = [m.start() for m in re.finditer(r"^\$ ", body, re.MULTILINE)]
    for begin, end in zip(prompts, [*prompts[1:], len(body)], strict=True):
        lines = body[begin:end].splitlines(keepends=True)
        length = 1
        while lines[length - 1].endswith("\\\n"):
            length += 1
        code = "".join(lines[:length])
        offset = start + begin + len(code)
        examples.append(
            Example(
                language="shell",
                code=code[2:].strip(),
                expected="".join(lines[length:]),
                line=page.count("\n", 0, start + begin) + 1,
                span=(offset, start + end),
            )
        )
    return examples


@dataclass
class Session:
    """The folder and the Python names that the examples of one page share."""

    folder: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__example__"})

    def run(self, example: Example) -> str:
        """Run one example in the folder and return what it printed on both streams."""
        with contextlib.chdir(self.folder):
            if example.language == "shell":
                return self._shell(example.code)
            if example.language == "script":
                return _script(example.code)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(example.code, f"<line {example.line}>", "exec"), self.names)
            return printed.getvalue()

    def _shell(self, code: str) -> str:
        words = shlex.split(code.replace("\\\n", " "))
        if words[0] == "cd":
            self.folder = self.folder / words[1]
            return "" if self.folder.is_dir() else f"cd: {words[1]}: no such folder\n"
        plain = words[0] == "actstore" and not re.search(
            r"[|>;&*]", re.sub(r"'[^']*'|\"[^\"]*\"", "", code)
        )
        if plain:
            # In this process: a new one would load torch for every example.
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                cli.run(words[1:])
            return printed.getvalue()
        return _bash(code).stdout


def _script(code: str) -> str:
    """Run a script to its end or first failure; what it left running ends with it.

    Raises:
        RuntimeError: a command of it failed.
    """
    finished = _bash(f"set -e\n{code}")
    if finished.returncode:
        raise RuntimeError(f"a script ended with code {finished.returncode}:\n{finished.stdout}")
    return finished.stdout


def _bash(code: str) -> subprocess.CompletedProcess[str]:
    """Run a line or a script in bash, `actstore` and `python` being those of this checkout."""
    here = shlex.quote(sys.executable)
    definitions = f'actstore() {{ {here} -m actstore "$@"; }}\npython() {{ {here} "$@"; }}\n'
    path = os.pathsep.join(
        filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    )
    # Into a file: a pipe would wait for whatever the script leaves running.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
        process = subprocess.Popen(
            ["bash", "-c", definitions + code],
            stdout=printed,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path, "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        try:
            returned = process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        printed.seek(0)
        return subprocess.CompletedProcess(code, returned, printed.read())


def agrees(printed: str, expected: str) -> bool:
    """Whether the output is what the page shows.

    ``…`` in the page stands for anything, alone on a line for any number of lines.
    Times, sizes, durations, hashes and the last digits of numbers may differ.
    """
    wanted = _steady(expected).strip("\n")
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "…" else _line_pattern(line) + r"[ ]*\n"
        for line in wanted.split("\n")
    )
    found = re.fullmatch(pattern, _steady(printed).strip("\n") + "\n")
    if found is None:
        return False
    numbers = zip(found.groups(), _DECIMAL.findall(wanted), strict=True)
    return all(math.isclose(float(one), float(other), rel_tol=_NEAR) for one, other in numbers)


def _line_pattern(line: str) -> str:
    return ".*?".join(_part_pattern(part) for part in line.rstrip().split("…"))


def _part_pattern(part: str) -> str:
    """Return what matches a text in which numbers are others, each a group of its own."""
    return f"({_DECIMAL.pattern})".join(re.escape(text) for text in _DECIMAL.split(part))


def _steady(text: str) -> str:
    for pattern, replacement in _VARYING:
        text = pattern.sub(replacement, text)
    # A table's columns move with the lengths of what was replaced.
    return re.sub(r"(?<=\S) {2,}", "  ", text)


def renewed(page: str, session: Session, *, scripts: bool = False) -> str:
    """Return the page with every output that no longer agrees replaced by the real one."""
    pieces = []
    position = 0
    for example in parse(page, scripts=scripts):
        if example.language == "script":
            _, example = split_installing(example)
        printed = session.run(example)
        if example.span is None or example.expected is None:
            continue
        if not agrees(printed, example.expected):
            pieces += [page[position : example.span[0]], printed.rstrip("\n") + "\n"]
            if example.language == "shell" and example.expected.endswith("\n\n"):
                pieces.append("\n")
            position = example.span[1]
    return "".join([*pieces, page[position:]])


INSTALLING = re.compile(r"^(git clone|make|pip install|python3? -m venv|\. \.venv/bin/activate)\b")
"""How commands begin that set up what everything else runs in: not run again by the tests."""


def split_installing(example: Example) -> tuple[list[str], Example]:
    """Return the commands of a script that install something, and the script without them."""
    lines = example.code.splitlines()
    setup = [line.split("  #")[0].strip() for line in lines if INSTALLING.match(line)]
    rest = "\n".join(line for line in lines if not INSTALLING.match(line))
    return setup, replace(example, code=rest)


def prepare(folder: Path) -> None:
    """Put the data into ``folder`` that the examples speak of.

    ``unfaithful-reasoning`` has the files and sizes of the project of that name: four layers,
    30 faithful and 14 unfaithful answers, vectors of 1,536 values, and a pickled object
    among its results. ``evaluation-awareness``, ``hooks`` and ``activations_clt`` are other
    layouts, small.
    """
    from tests.layouts import clt, contrastive, faithfulness, hook_pickle

    project = folder / "unfaithful-reasoning"
    layers = (6, 12, 18, 24)
    faithfulness.write_v1(project, layers=layers, width=1536, faithful=36, unfaithful=14)
    for layer in layers:
        _write_realistic(project / f"data/activations/layer_{layer}_activations.pt", layer)
    _write_object(project / "results/probe_results/all_probe_results.pt")
    contrastive.write_stacked(folder / "evaluation-awareness")
    hook_pickle.write_decoded(folder / "hooks")
    clt.write_multi_target(
        folder / "activations_clt", layers=8, batches=4, tokens=20, width=64, targets=16
    )


def _write_realistic(path: Path, layer: int) -> None:
    """Replace the tensors by ones spread like a residual stream that grows with depth."""
    import torch

    draw = torch.Generator().manual_seed(layer)
    offset = torch.randn(1536, generator=draw)
    tensors = {
        name: (layer / 30 * (torch.randn(rows, 1536, generator=draw) + offset)).half()
        for name, rows in (("faithful", 30), ("unfaithful", 14))
    }
    torch.save(tensors, path)


def _write_object(path: Path) -> None:
    """Write an object of a class that exists only in the project's own code."""
    import torch

    name = "src.mechanistic.contracts"
    module = types.ModuleType(name)
    module.ProbeResult = type("ProbeResult", (), {"__module__": name})  # type: ignore[attr-defined]
    path.parent.mkdir(parents=True)
    packages = {"src": types.ModuleType("src"), "src.mechanistic": types.ModuleType("mechanistic")}
    sys.modules.update({**packages, name: module})
    try:
        torch.save({6: module.ProbeResult()}, path)
    finally:
        for known in (*packages, name):
            del sys.modules[known]
