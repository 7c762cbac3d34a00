"""One vocabulary: the same words, formats, errors and exit codes for every command."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import click
import pytest

from actstore import cli
from actstore.commands import hints
from actstore.commands.exit_codes import Exit
from actstore.commands.options import Spelled
from tests.commands.conftest import Command

NUMBERS = click.types.IntParamType | click.types.FloatParamType
ABOUT_NO_STORE = ("contracts", "queries", "recipes")


def parsed(name: str) -> click.Command:
    command = cli.group.get_command(click.Context(cli.group), name)
    assert command is not None
    return command


def spellings(name: str) -> set[str]:
    """Every spelling that a command understands, shown or not."""
    found: set[str] = set()
    for param in parsed(name).params:
        found |= {*param.opts, *(param._also if isinstance(param, Spelled) else ())}
    return found


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_prints_every_format(name: str) -> None:
    (option,) = [each for each in parsed(name).params if "--format" in each.opts]
    assert isinstance(option.type, click.Choice)
    assert {"table", "json", "jsonl", "csv", "markdown"} <= set(option.type.choices)
    assert "--json" in spellings(name)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_says_what_each_option_is_takes_and_has_by_default(name: str) -> None:
    for param in parsed(name).params:
        if not isinstance(param, click.Option) or param.hidden:
            continue
        assert param.help, param.opts
        if param.is_flag:
            continue
        if not isinstance(param.type, NUMBERS | click.Choice) and "--host" not in param.opts:
            assert param.metavar, param.opts
        if isinstance(param.default, str | int | float):
            assert param.show_default, param.opts


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_one_thing_has_one_spelling_in_the_help(name: str) -> None:
    context = click.Context(parsed(name), info_name=name)
    shown = {
        word
        for param in parsed(name).get_params(context)
        if param.get_help_record(context)
        for word in param.opts
    }
    # What gives all rows one site or layer, or makes a vector at one, names one.
    if name != "ingest":
        assert not shown & {"--layer", "--site"}
    if name != "pool":  # there the rows to pool are told from what is made of them
        assert "--pooling" not in shown
    assert not shown & {"--output", "--as-json", "--filter"}
    assert ("--out" in shown) == ("-o" in shown)


WRITING = [name for name in cli.COMMANDS if "--out" in spellings(name)]


@pytest.mark.parametrize("name", WRITING)
@pytest.mark.parametrize("inside", ["", "activations/m.png", "new/deep/m.png"])
def test_nothing_is_written_into_a_store(
    actstore: Command, store: Path, tmp_path: Path, name: str, inside: str
) -> None:
    link = tmp_path / "link"
    link.symlink_to(store)
    for place in (store, link):
        before = sorted(store.rglob("*"))
        # Whatever else a command needs: where it would write is looked at first.
        done = actstore(name, "--out", place / inside)
        assert done.code == Exit.USAGE
        if inside or name in ("probe", "steer", "validate", "view"):
            assert "lies in the store runs.store" in done.err
            assert "choose a place outside of it" in done.err
        assert sorted(store.rglob("*")) == before


def test_no_export_into_a_store(actstore: Command, store: Path) -> None:
    assert set(WRITING) >= {"plot", "report", "steer", "probe", "view", "query", "select", "score"}
    for folder in (store, store / "npz"):
        done = actstore("export", store, folder, "--to", "npz", "--overwrite")
        assert done.code == Exit.USAGE
        assert "lies in the store runs.store" in done.err
    assert len(json.loads(actstore("select", store, "--json").out)) == 40


def test_a_report_goes_beside_a_store_but_not_into_it(
    actstore: Command, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store)
    assert "report.html lies in the store runs.store" in actstore("report", ".").err
    monkeypatch.chdir(store.parent)
    assert actstore("report", store).code == 0


@pytest.mark.parametrize("name", ["info", "query", "select", "nearest", "stats", "plot", "report"])
def test_a_commit_can_be_named_wherever_a_store_is_read(name: str) -> None:
    assert "--at" in spellings(name)


@pytest.mark.parametrize("name", ["view", "export", "probe", "score", "steer", "validate", "pull"])
def test_a_commit_can_be_named_by_what_reads_vectors_too(name: str) -> None:
    assert "--at" in spellings(name)


@pytest.mark.parametrize("name", ["compare", "diff"])
def test_both_sides_can_be_at_a_commit(name: str) -> None:
    assert {"--at-a", "--at-b"} <= spellings(name)


def ids(actstore: Command, *words: Any) -> list[tuple[str, int]]:
    finished = actstore("select", *words, "--json")
    assert finished.code == 0, finished.err
    return [(row["example_id"], row["layer"]) for row in json.loads(finished.out)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("--layer", "3"), ("--layers", "3")),
        (("--layer", "3", "--layer", "7"), ("--layers", "3,7")),
        (("--layers", "3", "--layers", "7"), ("--layers", "7,3")),
        (("--site", "resid_post"), ("--sites", "resid_post")),
        (("--pooling", "mean"), ("--pool", "mean")),
        ((), ("--layers", "all")),
        (("norm > 2",), ("--where", "norm > 2")),
        (("norm > 2 -- long ones",), ("--where", "norm > 2")),
    ],
)
def test_words_that_mean_the_same_rows(
    actstore: Command, store: Path, old: tuple[str, ...], new: tuple[str, ...]
) -> None:
    found = ids(actstore, store, *old)
    assert found == ids(actstore, store, *new)
    assert found


def test_a_range_of_layers(actstore: Command, store: Path) -> None:
    found = actstore("select", store, "--layers", "3-4")
    assert found.code == Exit.ERROR
    assert "layer 4 is not in the store" in found.err
    assert {layer for _, layer in ids(actstore, store, "--layers", "3-3,7")} == {3, 7}


def test_both_conditions_must_hold(actstore: Command, store: Path) -> None:
    both = ids(actstore, store, "layer = 3 OR layer = 7", "--where", "layer = 7 OR layer = 8")
    assert {layer for _, layer in both} == {7}


def test_a_pool_may_name_its_region(actstore: Command, store: Path) -> None:
    found = actstore("select", store, "--pool", "prompt.mean")
    assert found.code == Exit.ERROR
    assert "region 'prompt' is not in the store" in found.err
    mixed = actstore("select", store, "--pool", "prompt.mean,last")
    assert mixed.code == Exit.USAGE
    assert "--pool" in mixed.err
    twice = actstore("select", store, "--pool", "prompt.mean", "--region", "prompt")
    assert twice.code == Exit.USAGE


def test_output_by_its_old_name(actstore: Command, store: Path, tmp_path: Path) -> None:
    for word in ("-o", "--out", "--output"):
        target = tmp_path / f"{word.strip('-')}.npz"
        assert actstore("select", store, "--layers", "3", word, target).code == 0
        assert target.exists()


def test_sql_is_query(actstore: Command, store: Path) -> None:
    text = "SELECT count(*) AS n FROM activations"
    assert actstore("sql", store, text, "--json") == actstore("query", store, text, "--json")
    assert json.loads(actstore("sql", store, text, "--json").out) == [{"n": 40}]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("recipe", "recipes"),
        ("qurey", "query"),
        ("ls", "info"),
        ("cat", "select"),
        ("head", "select"),
        ("show", "info"),
        ("describe", "stats"),
        ("import", "ingest"),
        ("train", "probe"),
        ("delete", "compact"),
        ("download", "pull"),
        ("help", "--help"),
    ],
)
def test_an_unknown_command_is_told_what_it_may_mean(
    actstore: Command, word: str, meant: str
) -> None:
    finished = actstore(word)
    assert finished.code == Exit.USAGE
    assert f"`actstore {meant}`" in finished.err


def test_what_means_nothing_is_told_nothing(actstore: Command) -> None:
    finished = actstore("xyzzy")
    assert "Did you mean" not in finished.err
    assert "`actstore --help`" in finished.err


@pytest.mark.parametrize(
    ("command", "word", "meant"),
    [
        ("select", "--filter", "--where"),
        ("select", "--layrs", "--layers"),
        ("probe", "--output-dir", "--out"),
        ("probe", "--target", "--label"),
        ("nearest", "--limit", "-k"),
        ("query", "--commit", "--at"),
        ("ingest", "--limit", "--first-k"),
        ("capture", "--gpu", "--device"),
        ("stats", "--group-by", "--by"),
    ],
)
def test_an_unknown_option_is_told_what_it_may_mean(
    actstore: Command, command: str, word: str, meant: str
) -> None:
    finished = actstore(command, "x", word, "1")
    assert finished.code == Exit.USAGE
    assert f"there is no option {word}" in finished.err
    assert meant in finished.err.split("Did you mean")[1]


def test_hints_name_commands_and_options_that_there_are() -> None:
    every = {word for name in cli.COMMANDS for word in spellings(name)}
    every |= {
        word for name in cli.COMMANDS for p in parsed(name).params for word in p.secondary_opts
    }
    assert set(hints._OPTIONS) <= every
    assert set(hints._COMMANDS) - {"drop", "--help", "--version"} <= set(cli.COMMANDS)


@pytest.mark.parametrize(
    ("words", "kind", "code"),
    [
        (("info", "NONE", "--json"), "StoreNotFoundError", 1),
        (("info", "NONE", "--format", "json"), "StoreNotFoundError", 1),
        (("info", "NONE", "--format=jsonl"), "StoreNotFoundError", 1),
        (("info", "--json"), "UsageError", 2),
        (("nothing", "--json"), "UsageError", 2),
        (("query", "STORE", "SELEC", "--json"), "SqlError", 1),
    ],
)
def test_errors_are_json_where_json_was_asked_for(
    actstore: Command, store: Path, tmp_path: Path, words: tuple[str, ...], kind: str, code: int
) -> None:
    places = {"NONE": tmp_path / "none", "STORE": store}
    finished = actstore(*(places.get(word, word) for word in words))
    assert finished.out == ""
    assert finished.code == code
    found = json.loads(finished.err)["error"]
    assert (found["type"], found["exit_code"]) == (kind, code)
    assert found["message"]


def test_json_behind_two_dashes_is_an_argument(actstore: Command, tmp_path: Path) -> None:
    assert actstore("info", "--", tmp_path / "none", "--json").err.startswith("error: ")


@pytest.mark.parametrize("name", sorted({*cli.COMMANDS} - {*ABOUT_NO_STORE, "ingest", "capture"}))
def test_a_store_that_is_not_there_is_the_same_error(
    actstore: Command, tmp_path: Path, name: str
) -> None:
    none, out = tmp_path / "none", tmp_path / "out"
    (tmp_path / "probes").mkdir()
    more: dict[str, tuple[Any, ...]] = {
        "query": ("SELECT 1",),
        "nearest": ("--row", "0"),
        "compare": (none,),
        "convert": ("--to", "int8"),
        "diff": (none,),
        "plot": ("--kind", "pca", "-o", tmp_path / "a.png"),
        "export": (out, "--to", "npz"),
        "label": ("--set", "'x'"),
        "pool": ("--pool", "prompt.mean"),
        "score": ("--probe", tmp_path / "probes"),
        "steer": ("--out", out),
        "validate": ("--vectors", tmp_path / "probes"),
        "push": ("org/name",),
        "sync": (out,),
        "checkout": ("--at", "1", "--yes"),
        "drop": ("norm = 0", "--yes"),
        "rename": ("--set", "task = 'x'", "--yes"),
        "repair": ("--yes",),
    }
    if name == "pull":
        pytest.skip("it makes the store")
    finished = actstore(name, none, *more.get(name, ()))
    assert finished.code == Exit.ERROR
    assert str(none) in finished.err
    assert not out.exists()


def test_a_word_that_is_in_no_list_is_the_same_error(actstore: Command, store: Path) -> None:
    for words in (
        ("contracts", "none"),
        ("queries", "none"),
        ("recipes", "none"),
        ("recipes", "--capture", "none"),
        ("query", store, "--name", "none"),
    ):
        assert actstore(*words).code == Exit.USAGE, words


def test_tables_come_in_every_format(actstore: Command, store: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(actstore("info", store, "--format", "csv").out)))
    assert [(row["layer"], row["rows"]) for row in rows] == [("3", "20"), ("7", "20")]
    lines = actstore("info", store, "--format", "markdown").out.splitlines()
    assert lines[0].startswith("| model | site |")
    assert len(lines) == 4
    groups = actstore("stats", store, "--format", "jsonl").out.splitlines()
    assert [json.loads(line)["group"]["layer"] for line in groups] == [3, 7]
    (log,) = actstore("log", store, "--format", "jsonl").out.splitlines()
    assert json.loads(log)["commit"] == 1


def test_two_formats_are_one_too_many(actstore: Command, store: Path) -> None:
    finished = actstore("info", store, "--json", "--format", "csv")
    assert finished.code == Exit.USAGE
    assert "--format json" in finished.err


def test_what_is_empty_is_said_in_words(actstore: Command, store: Path) -> None:
    found = actstore("select", store, "norm < 0")
    assert found.code == 0
    assert found.out == "no rows\n"
    assert "norm < 0" in found.err
    assert actstore("select", store, "norm < 0", "--json").out == "[]\n"
    assert actstore("query", store, "FROM activations WHERE false").out == "no rows\n"


def test_scores_and_labels_of_an_earlier_commit(actstore: Command, store: Path) -> None:
    finished = actstore("score", store, "--probe", store, "--at", "1", "--write-label", "class")
    assert finished.code == Exit.USAGE
    assert "--at" in finished.err


def test_pages_use_the_words_that_help_shows() -> None:
    """Older spellings work still; whoever reads a page should meet one word for one thing."""
    root = Path(__file__).parents[2]
    old = re.compile(r"\bactstore (?!ingest\b|pool\b).* --(layer|site|pooling)[ =]")
    for page in [root / "README.md", *root.glob("docs/*.md")]:
        for line in page.read_text(encoding="utf-8").splitlines():
            assert not old.search(line), f"{page.name}: {line}"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_number_is_finite(name: str) -> None:
    for param in parsed(name).params:
        if isinstance(param.type, click.types.FloatParamType):
            for text in ("nan", "inf", "-inf"):
                with pytest.raises(click.BadParameter):
                    param.type(text, param, None)


@pytest.mark.parametrize(
    "words",
    [
        ("select", "--layers", "1-99999999999"),
        ("plot", "--kind", "dose", "--target", "x", "--doses", "1,nan", "-o", "x.png"),
        ("rename", "--set", "layer=1.5", "--yes"),
        ("rename", "--set", "layer='2.5'", "--yes"),
        ("probe", "--strength", "0"),
        ("probe", "--folds", "2.5"),
    ],
)
def test_numbers_that_mean_nothing_are_wrong_options(
    actstore: Command, store: Path, words: tuple[str, ...]
) -> None:
    command, *options = words
    done = actstore(command, store, *options)
    assert (done.code, done.out, done.err.count("\n")) == (Exit.USAGE, "", 1), done.err
