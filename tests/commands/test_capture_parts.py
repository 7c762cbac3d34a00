"""`actstore capture` by several processes: ranks, --finalize, the commands that bring the rest."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from actstore.api.store import open as open_store
from actstore.commands.capture_parts import part_of
from actstore.commands.exit_codes import Exit
from actstore.storage.manifest import latest
from tests.capturing import families
from tests.commands.conftest import Command

LAUNCHERS = ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_JOB_ID")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has launched the tests as one of several processes."""
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A capture of ten questions, one of which is too long, in pieces of three."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("a study")
    families.build("llama").save_pretrained(folder / "tiny")
    families.tokenizer().save_pretrained(folder / "tiny")
    texts = [f"which is larger : {n} or 4 ?" for n in range(10)]
    texts[4] = "1 2 3 " * 200
    rows = [{"id": f"k{n}", "question": text} for n, text in enumerate(texts)]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        *("capture", "--model", str(folder / "tiny"), "--data", str(folder / "q.jsonl")),
        *("--layers", "1", "--device", "cpu", "--no-self-check", "--batch-size", "2"),
    ]


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        ({}, None),
        ({"RANK": "1"}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "3", "WORLD_SIZE": "4"}, (3, 4)),
        ({"RANK": "4", "WORLD_SIZE": "4"}, None),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (1, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "9"}, None),
        (
            {
                "SLURM_PROCID": "5",
                "SLURM_NTASKS": "8",
                "SLURM_JOB_ID": "9",
                "SLURM_STEP_NUM_TASKS": "8",
            },
            (5, 8),
        ),
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (1, 2)),
    ],
)
def test_what_a_launcher_says(environment: Mapping[str, str], part: Any) -> None:
    assert part_of(None, None, environment) == part
    assert part_of(2, 9, environment) == (2, 9)
    assert part_of(None, 1, environment) is None


def test_a_launched_process_says_what_it_takes(
    actstore: Command, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    store = tmp_path / "s"
    done = actstore(*words, "--store", store, "--piece", 3, "--json")
    assert "part 1 of 2, as RANK and WORLD_SIZE say (--world-size 1 takes everything)" in done.err
    assert json.loads(done.out)["examples"] == 3
    assert {row["example_id"] for row in open_store(store).select(layer=1)} == {
        "k3", "k5", "k9",
    }  # fmt: skip


def test_missing_parts_are_named_with_the_commands_that_bring_them(
    actstore: Command, words: list[str], tmp_path: Path
) -> None:
    store = tmp_path / "the store"
    given = (*words, "--store", store, "--piece", 3)
    assert actstore(*given, "--rank", 1, "--world-size", 3).code == Exit.REFUSED
    found = actstore(*given, "--finalize", "--world-size", 3)
    assert found.code == Exit.MISSING
    assert "4 of 10 examples" not in found.out
    assert "there    3 of 10 examples" in found.out
    assert "rank 0 of 3 misses 4 examples; this brings them:" in found.err
    told = json.loads(actstore(*given, "--finalize", "--json").out)
    assert told["missing_by_rank"] == {"0": 4, "2": 3}
    assert told["complete"] is False
    for command in told["rerun"].values():
        assert command in found.err
        again = shlex.split(command)
        assert again[0] == "actstore"
        assert actstore(*again[1:]).code == 0
    done = actstore(*given, "--finalize", "--json")
    assert done.code == Exit.REFUSED
    told = json.loads(done.out)
    assert (told["complete"], told["examples"], told["rows"]) == (True, 10, 9)
    assert [each["example"] for each in told["refused"]] == ["q.jsonl:5 (example 'k4')"]
    assert told["rerun"] == {}


def test_options_that_contradict_each_other(actstore: Command, words: list[str]) -> None:
    for more, text in [
        (("--rank", 1), "say with --world-size"),
        (("--world-size", 2), "say with --rank which of the 2"),
        (("--rank", 2, "--world-size", 2), "ranks count from 0 to 1"),
        (("--finalize", "--rank", 0), "captures nothing"),
        (("--finalize", "--dry-run"), "captures nothing"),
    ]:
        done = actstore(*words, "--store", "s", *more)
        assert done.code == Exit.USAGE, more
        assert text in done.err


SBATCH = """#!/bin/bash
# Runs what a job is, as SLURM would: the tasks of an array one after the other.
echo "$*" >> "$NOTES/options"
cat > "$NOTES/job.sh"
array=$(sed -n 's/^#SBATCH --array=0-//p' "$NOTES/job.sh")
for task in $(seq 0 "${array:-0}"); do SLURM_ARRAY_TASK_ID=$task bash "$NOTES/job.sh"; done
echo "7;cluster"
"""
PYTHON = """#!/bin/bash
# Notes its arguments, the folder that it runs in first.
number=$(ls "$NOTES" | wc -l)
printf '%s\\0' "$PWD" "$@" > "$NOTES/call-$number"
"""


def test_the_script_for_slurm_captures_every_part_and_proves_it(
    actstore: Command, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bash runs it; what it would have run as jobs is run here."""
    store, notes = tmp_path / "a $HOME 'store'", tmp_path / "notes"
    notes.mkdir()
    for name, script in (("sbatch", SBATCH), ("python", PYTHON)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.chdir(tmp_path)
    system = 'say "it\'s" $HOME `now`\nand more'
    printed = actstore(
        *words, "--store", store, "--piece", 3, "--system", system, "--json",
        "--engine", "slurm", "--workers", 3, "--gpus-per-worker", 2, "--print",
    )  # fmt: skip
    assert (printed.code, printed.err) == (0, "")
    assert not store.exists()
    assert "#SBATCH --array=0-2" in printed.out
    assert printed.out.count("#SBATCH --gpus=2") == 1
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-s", "--", "--partition=fast"],
        input=printed.out,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": path, "NOTES": str(notes)},
    )
    assert done.stdout == "capture: job 7, finalize: job 7\n"
    assert (notes / "options").read_text().splitlines() == [
        "--parsable --partition=fast",
        "--parsable --partition=fast --dependency=afterany:7",
    ]
    codes = []
    for call in sorted(notes.glob("call-*")):
        folder, *arguments = call.read_text().split("\0")[:-1]
        assert (folder, arguments[:2]) == (str(tmp_path), ["-m", "actstore"])
        found = actstore(*arguments[2:])
        codes.append(found.code)
    assert codes == [Exit.DONE, Exit.REFUSED, Exit.DONE, Exit.REFUSED]
    assert "10 of 10 examples, 9 rows" in found.out
    runs = latest(store).runs
    assert len(runs) == 3
    assert {run.settings["values"]["system"] for run in runs} == {system}


def test_engines_say_what_they_need(actstore: Command, words: list[str]) -> None:
    for more, text in [
        (("--engine", "slurm", "--workers", 2), "add --print"),
        (("--engine", "slurm", "--print"), "say with --workers"),
        (("--engine", "ray"), "say with --workers"),
        (("--workers", 2), "goes with --engine ray or slurm, not with local"),
        (("--engine", "ray", "--workers", 2, "--rank", 1), "goes with --engine local"),
        (("--engine", "ray", "--workers", 2, "--dry-run"), "goes with --engine local"),
        (
            ("--engine", "slurm", "--workers", 2, "--print", "--gpus-per-worker", 0.5),
            "whole GPUs",
        ),
    ]:
        done = actstore(*words, "--store", "s", *more)
        assert done.code == Exit.USAGE, more
        assert text in done.err
