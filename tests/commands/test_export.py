"""`actstore export`: files on the disk, a summary on the screen."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from actstore.commands import export as command
from actstore.exporting import run as exporting
from tests.commands.conftest import Command, vectors
from tests.interrupting import ctrl_c_heeded


def test_matrices(actstore: Command, store: Path, tmp_path: Path) -> None:
    finished = actstore("export", store, tmp_path / "out", "--to", "npz", "--layers", "7")
    assert finished.code == 0
    assert "2 files" in finished.out
    assert "20 rows of commit" in finished.out
    path = next((tmp_path / "out").rglob("layer_7.npz"))
    with np.load(path, allow_pickle=False) as file:
        assert file["resid_post"].tobytes() == vectors(7).tobytes()


def test_json(actstore: Command, store: Path, tmp_path: Path) -> None:
    words = ("--to", "amber", "--where", "label = 'faithful'", "--json", "--layers", "3,7")
    done = json.loads(actstore("export", store, tmp_path / "out", *words).out)
    assert (done["files"], done["rows"], done["to"]) == (11, 20, "amber")  # and the answers
    sample = torch.load(tmp_path / "out/sample_0000.pt", weights_only=True)["activations"]
    assert list(sample) == [3, 7]


def test_a_target_that_is_taken(actstore: Command, store: Path, tmp_path: Path) -> None:
    words = ("export", store, tmp_path / "out", "--to", "safetensors")
    assert actstore(*words).code == 0
    again = actstore(*words)
    assert again.code == 1
    assert "--overwrite replaces all of it" in again.err
    assert actstore(*words, "--overwrite").code == 0
    into_store = actstore("export", store, store, "--to", "npz", "--overwrite")
    assert into_store.code == 2
    assert "choose a place outside of it" in into_store.err


def test_what_does_not_make_up_the_layout(actstore: Command, store: Path, tmp_path: Path) -> None:
    finished = actstore("export", store, tmp_path / "out", "--to", "saelens")
    assert finished.code == 1
    assert finished.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layers", ["x", "3-", "5-3", "", "1,,2"])
def test_layers_that_are_none(actstore: Command, store: Path, tmp_path: Path, layers: str) -> None:
    finished = actstore("export", store, tmp_path / "o", "--to", "npz", "--layers", layers)
    assert finished.code == 2
    assert "--layers" in finished.err


def test_the_command_offers_what_the_export_knows() -> None:
    assert tuple(exporting.LAYOUTS) == command.LAYOUTS
    choices = {
        param.name: tuple(getattr(param.type, "choices", ())) for param in command.command.params
    }
    assert choices["dtype"] == exporting.DTYPES
    assert choices["compression"] == exporting.COMPRESSIONS
    assert choices["metadata"] == exporting.METADATA


def test_an_interrupt_leaves_nothing(store: Path, tmp_path: Path) -> None:
    program = """
import os, sys, time
from actstore import cli
from actstore.exporting import run
gathered = run._gathered
def slow(selection, files):
    for each in gathered(selection, files):
        print("reading", flush=True)
        time.sleep(60)
        yield each
run._gathered = slow
sys.exit(cli.run(sys.argv[1:]))
"""
    words = ["export", str(store), str(tmp_path / "out/deep"), "--to", "amber"]
    with ctrl_c_heeded():
        process = subprocess.Popen(
            [sys.executable, "-c", program, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "NO_COLOR": "1"},
        )
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert list((tmp_path / "out").iterdir()) == []
