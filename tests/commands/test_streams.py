"""Standard streams that are closed, full, or whose reader has gone: no traceback, a whole store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from actstore.commands.exit_codes import Exit
from tests.commands.conftest import Command

COMMAND = f"'{sys.executable}' -m actstore"
EVERY = "SELECT a.example_id, b.question FROM activations a, activations b, activations c"


def shell(line: str) -> tuple[int, str]:
    """Return the exit code of the command line and what it said on standard error."""
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("closed", [">&-", "<&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_stop_no_work(
    actstore: Command, tmp_path: Path, store: Path, closed: str
) -> None:
    np.save(tmp_path / "layer_3.npy", np.ones((300, 16), np.float32))
    given = f"'{tmp_path}/layer_3.npy' --model m --site x --recipe numpy"
    assert shell(f"{COMMAND} ingest {given} --store '{store}' {closed}") == (Exit.DONE, "")
    done = actstore("verify", store, "--json")
    assert (done.code, '"rows": 340' in done.out) == (Exit.DONE, True), done
    code, said = shell(f"{COMMAND} rename '{store}' --set \"variant='x'\" {closed}")
    assert (code, "Traceback" in said) == (Exit.USAGE, False)


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", "é 日 😀"), ("latin-1", r"é \u65e5 \ud83d\ude00"), ("utf-8", "é 日 😀")],
)
def test_what_the_encoding_of_the_output_lacks_is_escaped(
    store: Path, encoding: str, shown: str
) -> None:
    written = "utf-8" if encoding == "ascii" else encoding
    for how in ("table", "json", "csv"):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "actstore",
                "query",
                store,
                "SELECT 'é 日 😀' x",
                "--format",
                how,
            ],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (Exit.DONE, b"")
        assert shown in done.stdout.decode(written)
        if how == "json":
            assert json.loads(done.stdout.decode(written)) == [{"x": "é 日 😀"}]


def test_a_reader_that_has_had_enough(store: Path) -> None:
    for more in ("", "--format csv", "--json"):
        found = shell(f"{COMMAND} query '{store}' '{EVERY}' {more} | head -c 10")
        assert found == (Exit.UNREAD, "")
    assert shell(f"{COMMAND} info '{store}' 2>&1 | cat")[0] == Exit.DONE


def test_remarks_that_nobody_takes_stop_no_work(tmp_path: Path, store: Path) -> None:
    np.save(tmp_path / "layer_3.npy", np.ones((3, 16), np.float32))
    (tmp_path / "other.csv").write_text("x\n")
    line = f"{COMMAND} ingest '{tmp_path}' --model m --recipe numpy --store '{tmp_path}/s'"
    assert shell(f"{line} 2>/dev/full") == (Exit.DONE, "")
    assert shell(f"{line} 2> >(true); sleep 0")[0] == Exit.DONE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("words", ["info '{}'", "query '{}' 'SELECT 1' --format csv", "--help"])
def test_output_that_cannot_be_written_is_an_error(store: Path, words: str) -> None:
    code, said = shell(f"{COMMAND} {words.format(store)} >/dev/full")
    assert (code, said.count("\n"), "No space left" in said) == (Exit.ERROR, 1, True), said
