"""The command line as a process and as a function: what it loads, says and returns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from actstore import cli, errors
from actstore.commands.exit_codes import Exit
from tests.layouts import faithfulness

HEAVY = ("torch", "transformers", "datasets", "duckdb", "polars", "pyarrow", "numpy", "rich")


def python(code: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=check)


def loaded_by(code: str) -> set[str]:
    finished = python(f"{code}\nimport sys\nprint(*sys.modules, file=sys.stderr)")
    return set(finished.stderr.split())


@pytest.mark.parametrize(
    "code",
    [
        "import actstore",
        "from actstore.cli import run; run(['--help'])",
        "from actstore.cli import run; run(['recipes'])",
        "from actstore.cli import run; run(['ingest', '--help'])",
        "from actstore.cli import run; run(['query', '--help'])",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(code: str) -> None:
    assert not loaded_by(code).intersection(HEAVY)


def test_one_commands_help_loads_no_other_command() -> None:
    loaded = loaded_by("from actstore.cli import run; run(['recipes', '--help'])")
    assert "actstore.commands.recipes" in loaded
    assert "actstore.commands.ingest" not in loaded


def test_info_loads_no_more_than_it_needs(tmp_path: Path) -> None:
    faithfulness.write_v1(tmp_path / "project")
    cli.run(["ingest", str(tmp_path / "project"), "--store", str(tmp_path / "s")])
    cli.run(["info", str(tmp_path / "s")])  # makes the metadata cache
    loaded = loaded_by(f"from actstore.cli import run; run(['info', {str(tmp_path / 's')!r}])")
    assert not loaded.intersection({"torch", "datasets", "duckdb", "polars", "pandas", "rich"})


def test_each_command_is_found_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    text = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert f"\n  {name} " in text


def test_a_command_line_without_a_command_shows_the_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run([]) == Exit.USAGE
    shown = capsys.readouterr().err
    assert shown.startswith("Usage: actstore")
    assert "\n  ingest " in shown


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"actstore {version('actstore')}\n"


def test_a_mistyped_command_is_told_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["recipe"]) == Exit.USAGE
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "recipes" in message


def test_a_wrong_option_points_to_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["log", "x", "--latest"]) == Exit.USAGE
    message = capsys.readouterr().err
    assert "--latest" in message
    assert "`actstore log --help`" in message


def test_the_hint_is_a_sentence_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["log", "x", "y"]) == Exit.USAGE
    assert "(y). See `actstore log --help`." in capsys.readouterr().err


def test_a_missing_store_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["log", str(tmp_path / "none")]) == Exit.ERROR
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A command ``fail`` that raises whatever the test puts in the list."""
    raised: list[BaseException] = []

    @click.command("fail")
    def fail() -> None:
        raise raised[0]

    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, "fail"))
    monkeypatch.setitem(cli.group.commands, "fail", fail)
    return raised


@pytest.mark.parametrize(
    ("problem", "code", "line"),
    [
        (errors.ConflictError("row x differs"), 1, "error: row x differs"),
        (errors.UsageError("a site needs a name"), 2, "error: a site needs a name"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (PermissionError(13, "Permission denied", "a.pt"), 1, "error: a.pt: Permission denied"),
        (OSError(28, "No space left on device"), 1, "error: No space left on device"),
    ],
)
def test_errors_become_one_line_and_a_code(
    failing: list[BaseException],
    problem: BaseException,
    code: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing.append(problem)
    assert cli.run(["fail"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip().startswith(line)


def test_a_defect_is_not_dressed_up_as_a_users_error(failing: list[BaseException]) -> None:
    failing.append(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.run(["fail"])


def test_a_reader_that_leaves_early_is_no_error() -> None:
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import click; from actstore import cli\n"
            "@click.command('spout')\n"
            "def spout():\n"
            "    for i in range(100_000): click.echo('x' * 100)\n"
            "cli.COMMANDS += ('spout',); cli.group.commands['spout'] = spout\n"
            "import sys; sys.argv = ['actstore', 'spout']; cli.main()",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert writer.stdout is not None
    assert writer.stderr is not None
    assert writer.stdout.readline() == b"x" * 100 + b"\n"
    writer.stdout.close()
    assert writer.stderr.read() == b""
    writer.stderr.close()
    writer.wait()


def test_colour_only_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["nothing"])
    assert "\x1b" not in capsys.readouterr().err


def test_the_module_runs_too() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "actstore", "--help"], capture_output=True, text=True, check=True
    )
    assert finished.stdout.startswith("Usage: actstore ")
