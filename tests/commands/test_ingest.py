"""`actstore ingest` stores, sums up, names what it refused, and says so in its exit code."""

import json
from pathlib import Path

import click
import pytest

from actstore.commands import ingest
from actstore.storage.snapshot import open_snapshot
from tests.commands.conftest import Command
from tests.layouts import faithfulness


@pytest.fixture
def project(tmp_path: Path) -> Path:
    faithfulness.write_v1(tmp_path / "project")
    return tmp_path / "project"


def test_the_summary_for_people(actstore: Command, project: Path, tmp_path: Path) -> None:
    finished = actstore("ingest", project, "--store", tmp_path / "s")
    assert finished.code == 0
    assert "stored  52 rows from 2 files" in finished.out
    assert "labels  faithful 28, unfaithful 24" in finished.out
    assert "refused" not in finished.err


def test_the_summary_for_programs(actstore: Command, project: Path, tmp_path: Path) -> None:
    faithfulness.write_stray(project)
    finished = actstore("ingest", project, "--store", tmp_path / "s", "--json")
    assert finished.code == 3
    summary = json.loads(finished.out)
    assert summary["recipe"] == "faithfulness"
    assert (summary["files_read"], summary["rows_written"], summary["commit"]) == (2, 52, 1)
    assert [set(refusal) for refusal in summary["refused"]] == [{"path", "reason"}]
    assert {"rows_present", "unmatched", "seconds"} <= set(summary)


def test_refused_files_are_named(actstore: Command, project: Path, tmp_path: Path) -> None:
    stray = faithfulness.write_stray(project)
    finished = actstore("ingest", project, "--store", tmp_path / "s")
    assert finished.code == 3
    assert "refused: 1 file\n" in finished.err
    assert stray.name in finished.err


def test_again_adds_nothing(actstore: Command, project: Path, tmp_path: Path) -> None:
    actstore("ingest", project, "--store", tmp_path / "s")
    again = json.loads(actstore("ingest", project, "--store", tmp_path / "s", "--json").out)
    assert (again["rows_written"], again["rows_present"], again["commit"]) == (0, 52, None)


def test_a_dry_run_shows_a_row_and_stores_nothing(
    actstore: Command, project: Path, tmp_path: Path
) -> None:
    finished = actstore("ingest", project, "--store", tmp_path / "s", "--dry-run")
    assert "would store  52 rows" in finished.out
    assert "first row" in finished.out
    assert not (tmp_path / "s").exists()


def test_strict_stores_nothing(actstore: Command, project: Path, tmp_path: Path) -> None:
    stray = faithfulness.write_stray(project)
    finished = actstore("ingest", project, "--store", tmp_path / "s", "--strict")
    assert finished.code == 1
    assert stray.name in finished.err
    assert not list(tmp_path.glob("s/manifests/*"))


def test_labels_from_a_table(actstore: Command, project: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("example_id,label\nnum_000,mine\n")
    words = ("--labels", table, "--on", "example_id", "--json")
    summary = json.loads(actstore("ingest", project, "--store", tmp_path / "s", *words).out)
    assert summary["labels"]["mine"] == 2


def test_labels_by_sql_leave_other_data_alone(
    actstore: Command, project: Path, tmp_path: Path
) -> None:
    grade = "CASE WHEN layer = 6 THEN 'six' END"
    store = ("--store", tmp_path / "s")
    actstore("ingest", project, *store, "--model", "other")
    words = ("--label-set", grade, "--model", "it's mine", "--json")
    summary = json.loads(actstore("ingest", project, *store, *words).out)
    assert summary["commit"] == 3
    query = "SELECT model, label, count(*) FROM activations GROUP BY ALL ORDER BY ALL"
    from actstore.querying.sql import Database

    database = Database(open_snapshot(tmp_path / "s"))
    found = [tuple(row.values()) for row in database.table(query).to_pylist()]
    database.close()
    assert found == [
        ("it's mine", "six", 26),
        ("it's mine", None, 26),
        ("other", "faithful", 28),
        ("other", "unfaithful", 24),
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("--map", "example_id"),
        ("--sidecar", "a=b", "--sidecar", "a=c"),
        ("--layer", "last"),
        ("--pool", "median"),
        ("--storage-dtype", "bfloat16"),
        ("--first-k", "0"),
        ("--site", " "),
        ("--labels", "labels.csv"),
        ("--workers", "2"),
        ("--engine", "ray"),
        ("--engine", "ray", "--workers", "0"),
    ],
)
def test_options_that_cannot_work(
    words: tuple[str, ...], actstore: Command, project: Path, tmp_path: Path
) -> None:
    finished = actstore("ingest", project, "--store", tmp_path / "s", *words)
    assert finished.code == 2
    assert finished.err.startswith("error: ")
    assert not (tmp_path / "s").exists()


def test_a_missing_source_is_named(actstore: Command, tmp_path: Path) -> None:
    finished = actstore("ingest", tmp_path / "none", "--store", tmp_path / "s")
    assert finished.code == 2
    assert "none" in finished.err


def test_each_option_says_what_it_wants() -> None:
    wants = {
        parameter.opts[0]: parameter.metavar
        for parameter in ingest.command.params
        if isinstance(parameter, click.Option)
        and not parameter.is_flag
        and not isinstance(parameter.type, click.Choice)
    }
    assert None not in wants.values()
    assert (wants["--dataset"], wants["--labels"], wants["--workers"]) == ("NAME", "FILE", "N")
