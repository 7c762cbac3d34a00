"""The documentation says what is so: its examples run, its generated parts are current."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from actstore import cli, schema
from actstore.commands.exit_codes import Exit
from docs import demo, examples, generate
from docs.study import model as study
from tests.capturing import families, vision_families

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> Iterator[click.Command]:
    context = click.Context(cli.group, info_name="actstore")
    for name in cli.COMMANDS:
        command = cli.group.get_command(context, name)
        assert command is not None
        yield command


def test_every_exit_code_is_told() -> None:
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    for code in Exit:
        assert f"\n| {code:d} | " in page
        assert re.search(rf"\b{code:d} [a-z]", cli.group.epilog or "")


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_the_examples_of_a_page_print_what_it_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets_cache")
    found = examples.parse(page.read_text(encoding="utf-8"))
    if found:
        examples.prepare(tmp_path)
    run(found, page, tmp_path)


def run(found: list[examples.Example], page: Path, folder: Path) -> None:
    session = examples.Session(folder)
    for example in found:
        printed = session.run(example)
        if example.expected is not None:
            assert examples.agrees(printed, example.expected), (
                f"{page.name}:{example.line}: `{example.code}` printed\n{printed}"
            )


def test_every_command_of_the_readme_runs_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, on data that its own commands make; what installs is looked at instead."""
    readme = PAGES[0]
    if absent := study.missing():
        pytest.skip(f"the study's packages are not installed: {', '.join(absent)}")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets_cache")
    found = examples.parse(readme.read_text(encoding="utf-8"), scripts=True)
    run([examples.split_installing(each)[1] for each in found], readme, tmp_path)
    # Every other kind of block would be a command that nobody runs.
    fences = re.findall(r"^```(\w*)\n", readme.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(fences) <= {"console", "python", "text", "sh", ""}


def test_what_the_readme_installs_is_there() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    commands = [
        line
        for each in examples.parse(text, scripts=True)
        for line in examples.split_installing(each)[0]
    ]
    assert commands
    for line in commands:
        words = shlex.split(line.split(" && ")[0])
        if words[0] == "make":
            assert set(words[1:]) <= targets, line
        elif words[:2] == ["pip", "install"]:
            name, _, extras = words[-1].partition("[")
            assert name == project["name"]
            wanted = set(extras.rstrip("]").split(",")) - {""}
            assert wanted <= set(project["optional-dependencies"]), line


class Told(NamedTuple):
    """What a story printed, and the folder that it made."""

    folder: Path
    out: str
    err: str


DEMOS = {
    "small": ["--folder", "small", "--small"],
    # On fewer facts than `make demo` takes.
    "real": ["--folder", "real", "--cities", "24", "--capitals", "3", "--steered", "4"],
}
END = "end of the story"
TELL = """
import json, runpy, sys
program, end, *stories = sys.argv[1:]
for words in stories:
    sys.argv[1:] = json.loads(words)
    runpy.run_path(program, run_name="__main__")
    for stream in (sys.stdout, sys.stderr):
        print(end, file=stream, flush=True)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    """Both stories, in one process: its imports take as long as what it tells."""
    folder = tmp_path_factory.mktemp("demo")
    names = ["small"] if study.missing() else list(DEMOS)
    finished = subprocess.run(
        [sys.executable, "-c", TELL, str(ROOT / "docs" / "demo.py"), END]
        + [json.dumps(DEMOS[name]) for name in names],
        cwd=folder,
        env={**os.environ, "HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    # All that it makes is in its folder; notes of files in the making are gone with these.
    assert {path.name for path in folder.iterdir()} - {"home"} == set(names)
    assert not [path for path in (folder / "home").rglob("*") if path.is_file()]
    *out, _ = finished.stdout.split(END)
    *err, _ = finished.stderr.split(END)
    return {
        name: Told(folder / name, *printed) for name, *printed in zip(names, out, err, strict=True)
    }


def test_the_demo_on_a_model_trained_on_the_spot(told: dict[str, Told]) -> None:
    story = told["small"]
    assert "(3000, 64) float32 24" in story.out  # some 2,400 of its answers are right
    assert "5 probes written" in story.err
    assert "120 rows from 24 files" in story.out
    assert "15120 rows; Which is larger:" in story.out
    assert "moved" in story.err  # the query of the repository on loopback
    assert "pulled: 3,024 rows" in story.out


def test_the_demo_on_the_real_model(told: dict[str, Told]) -> None:
    if absent := study.missing():
        pytest.skip(f"the study's packages are not installed: {', '.join(absent)}")
    story = told["real"]
    assert "captured  48 examples" in story.out
    assert "30 probes written" in story.err
    assert "log P('Yes') - log P('No') in nats" in story.out
    assert "(48, 576) (48, 576) True" in story.out
    assert "captured  3 examples" in story.out
    assert "1440 rows; The city of" in story.out
    assert "pulled.store: 96 rows" in story.out
    assert (story.folder / "probes" / "auroc.png").stat().st_size > 10_000
    assert (story.folder / "report.html").exists()


def test_the_demo_says_in_one_line_when_the_weights_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    monkeypatch.setattr(study, "PACKAGES", ("gguf", "no_such_package"))
    monkeypatch.setattr("docs.demo_small.tell", lambda: told.append("small"))
    monkeypatch.setattr(sys, "argv", ["demo", "--folder", str(tmp_path / "demo")])
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path))
    demo.main()
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "no_such_package not installed: a small model trained on the spot steps in"
    assert told == ["small"]


def test_the_readme_shows_examples() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {"shell", "python"} <= {example.language for example in examples.parse(text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_every_page_can_be_reached_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [page.name for page in PAGES[1:] if f"docs/{page.name}" not in text]
    assert not missing


def test_the_command_page_is_current() -> None:
    written = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert written == generate.commands_page(), "run `make docs`"


def test_the_schema_page_is_current() -> None:
    written = (ROOT / "docs" / "schema.md").read_text(encoding="utf-8")
    assert written == generate.with_blocks(written, generate.schema_tables()), "run `make docs`"
    assert all(f"| `{column.name}` |" in written for column in schema.columns())


def test_the_table_of_families_has_what_is_tested_and_nothing_else() -> None:
    page = (ROOT / "docs" / "capture.md").read_text(encoding="utf-8")
    assert page == generate.with_blocks(page, {"families": generate.family_table()}), (
        "run `make docs`"
    )
    # the tests of each family hold its entry to what they ran: see tests/capturing/recorded.py
    known = json.loads((ROOT / "docs" / "families.json").read_text(encoding="utf-8"))
    assert set(known) == {*families.LANGUAGE, *vision_families.EVERY}
    parts = {"class", "depth", "sites", "padding", "patterns", "responses"}
    assert all(set(entry) == parts for entry in known.values())


@pytest.mark.parametrize("command", list(commands()), ids=lambda command: str(command.name))
def test_every_command_and_option_is_explained(command: click.Command) -> None:
    assert command.help
    assert "Examples:" in command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{command.name} {parameter.opts[0]} has no help"
            assert len(parameter.help) > 10


@pytest.mark.parametrize("command", list(commands()), ids=lambda command: str(command.name))
def test_examples_in_help_texts_use_options_that_exist(command: click.Command) -> None:
    assert command.help is not None
    known = {option for parameter in command.params for option in parameter.opts}
    used = re.findall(rf"actstore {command.name} (.*)", command.help)
    assert used
    assert not {word for line in used for word in re.findall(r"\s(--?[a-z][a-z-]*)", line)} - known


def test_a_script_runs_to_its_end_or_is_an_error(tmp_path: Path) -> None:
    # Left running, it would hold up a reader of its output for ten minutes.
    waits = "python -c 'import time; time.sleep(600)' &\n"
    page = f"```sh\nmake install\n{waits}echo one > made\n```\n```sh\nfalse\necho two\n```\n"
    good, bad = examples.parse(page, scripts=True)
    setup, rest = examples.split_installing(good)
    assert setup == ["make install"]
    session = examples.Session(tmp_path)
    session.run(rest)
    assert (tmp_path / "made").read_text() == "one\n"
    with pytest.raises(RuntimeError, match="ended with code 1"):
        session.run(bad)
    assert not examples.parse(page)


def test_an_example_that_prints_something_else_is_found(tmp_path: Path) -> None:
    page = (
        "```console\n$ echo one two\none three\n```\n\n"
        "```python\nprint(1 + 1)\n```\n\n```text\n2\n```\n"
    )
    first, second = examples.parse(page)
    session = examples.Session(tmp_path)
    assert first.expected is not None
    assert second.expected is not None
    assert not examples.agrees(session.run(first), first.expected)
    assert examples.agrees(session.run(second), second.expected)
    assert "one two\n" in examples.renewed(page, session)


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("a\nb\nc\n", "a\n…\nc\n", True),
        ("a\nc\n", "a\n…\nc\n", True),
        ("a\nb\n", "a\n…\nc\n", False),
        ("took 0.3 s\n", "took 12.5 s\n", True),
        ("rows 176\n", "rows 177\n", False),
        ("x [5.896, 0.01609, … 576]\n", "x [5.896, 0.01608, … 576]\n", True),
        ("x [5.896, 0.01709, … 576]\n", "x [5.896, 0.01608, … 576]\n", False),
        ("norm  -46.61\n", "norm   46.61\n", False),
        ("0.5, 0.25\n", "0.25, 0.5\n", False),
        ("… 1.5\n", "…\n", True),
        ("value 1.0e-05\n", "value 1.001e-05\n", True),
        ("x [0.1, 0.2]\n", "x […]\n", True),
        ("at 2026-01-01T10:00:00Z\n", "at 2025-12-31T23:59:59Z\n", True),
    ],
)
def test_what_counts_as_the_same_output(printed: str, expected: str, same: bool) -> None:
    assert examples.agrees(printed, expected) is same


@pytest.mark.parametrize(
    "page",
    [
        ROOT / "CONTRIBUTING.md",
        ROOT / "docs" / "architecture.md",
        *sorted((ROOT / "docs" / "decisions").glob("*.md")),
    ],
    ids=lambda page: page.name,
)
def test_files_and_links_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", text)) - {"actstore/_data/"}
    gone = [
        name
        for name in named
        if not any((folder / name).exists() for folder in (ROOT, ROOT / "actstore"))
        and not any((ROOT / "actstore").glob(f"*/{name}"))
        and not re.fullmatch(r"manifests/\d+\.json", name)
    ]
    assert gone == []
