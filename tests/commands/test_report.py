"""`actstore report`: one file, conditions, errors."""

from __future__ import annotations

import html
import json
import re
import shlex
from pathlib import Path

from tests.analysis import labelled
from tests.commands.conftest import Command


def test_one_file_is_written(actstore: Command, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "page.html"
    done = actstore("report", store, "-o", target)
    assert done.code == 0
    assert done.out.startswith(f"{target}: 40 rows, ")
    assert target.read_text().startswith("<!doctype html>")
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]


def test_conditions_and_json(actstore: Command, store: Path, tmp_path: Path) -> None:
    words = ("--layer", 3, "--by", "oracle", "-o", tmp_path / "a.html", "--json")
    document = json.loads(actstore("report", store, "label = 'faithful'", *words).out)
    assert document["rows"] == 10
    text = (tmp_path / "a.html").read_text()
    assert "Rows by oracle" in text
    assert "layer 7" not in text


def test_a_column_that_is_not_there(actstore: Command, store: Path, tmp_path: Path) -> None:
    done = actstore("report", store, "--by", "nothing", "-o", tmp_path / "a.html")
    assert done.code == 1
    assert "no column 'nothing'" in done.err
    assert not (tmp_path / "a.html").exists()


def test_a_probe_run_beside_the_store_or_by_name_is_shown(
    actstore: Command, tmp_path: Path
) -> None:
    labelled.layered(tmp_path / "s", {3: 1.5}, rows=40, width=16)
    words = ("report", tmp_path / "s", "-o", tmp_path / "a.html", "--json")
    assert json.loads(actstore(*words).out)["probed"] == 0
    assert "of the mean difference, not a trained probe" in (tmp_path / "a.html").read_text()
    assert actstore("probe", tmp_path / "s", "--out", tmp_path / "x/run").code == 0
    assert json.loads(actstore(*words).out)["probed"] == 0  # it lies elsewhere
    done = actstore(*words, "--probes", tmp_path / "x/run")
    assert json.loads(done.out)["probed"] == 1
    assert "AUROC by layer of trained probes" in (tmp_path / "a.html").read_text()
    (tmp_path / "x/run").rename(tmp_path / "run")
    assert json.loads(actstore(*words).out)["probed"] == 1
    assert json.loads(actstore(*words, "--no-probes").out)["probed"] == 0
    refused = actstore(*words, "--probes", tmp_path / "nowhere")
    assert refused.code == 2
    assert "no report of a probe" in refused.err


def test_the_command_stands_on_the_page_without_this_machine_s_folders(
    actstore: Command, store: Path, tmp_path: Path
) -> None:
    words = ("--layer", 3, "--layer", 7, "--by", "task", "-o", tmp_path / "a.html")
    assert actstore("report", store, "label = 'faithful'", *words).code == 0
    text = html.unescape((tmp_path / "a.html").read_text())
    assert str(tmp_path) not in text
    (command,) = (line for line in re.findall("<pre>(.*?)</pre>", text) if "report" in line)
    assert shlex.split(command) == [
        *("actstore", "report", store.name, "label = 'faithful'"),
        *("--layers", "3", "--layers", "7", "--by", "task", "-o", "a.html"),
    ]
