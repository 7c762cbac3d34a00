"""The documentation says what is so: its examples run, its generated parts are current."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from actstore import cli, schema
from docs import examples, generate
from tests.capturing import families, vision_families

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> Iterator[click.Command]:
    context = click.Context(cli.group, info_name="actstore")
    for name in cli.COMMANDS:
        command = cli.group.get_command(context, name)
        assert command is not None
        yield command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_print_what_it_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets_cache")
    text = page.read_text(encoding="utf-8")
    found = examples.parse(text)
    if found:
        examples.prepare(tmp_path)
    session = examples.Session(tmp_path)
    for example in found:
        printed = session.run(example)
        if example.expected is not None:
            assert examples.agrees(printed, example.expected), (
                f"{page.name}:{example.line}: `{example.code}` printed\n{printed}"
            )


def test_the_demo_runs_and_stays_in_its_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    finished = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "demo.py"), "--folder", "demo"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(home), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "(3000, 64) float32 24" in finished.stdout  # some 2,400 of its answers are right
    assert "5 probes written" in finished.stderr
    assert "120 rows from 24 files" in finished.stdout
    assert "15120 rows; Which is larger:" in finished.stdout
    assert "moved" in finished.stderr  # the query of the repository on loopback
    assert "pulled: 3,024 rows" in finished.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


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
    parts = {"class", "depth", "sites", "padding", "responses"}
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
        ("x [0.1, 0.2]\n", "x […]\n", True),
        ("at 2026-01-01T10:00:00Z\n", "at 2025-12-31T23:59:59Z\n", True),
    ],
)
def test_what_counts_as_the_same_output(printed: str, expected: str, same: bool) -> None:
    assert examples.agrees(printed, expected) is same
