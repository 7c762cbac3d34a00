"""No token, user name, host or absolute path stands in what actstore writes, or says in errors."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import socket
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from actstore.storage import manifest as manifests
from tests.capturing import vision_families
from tests.commands.conftest import Command
from tests.layouts import amber, contrastive

TOKEN = "hf_ThisTokenMustNotBeWrittenAnywhere"
USER = "zacharias-recognisable"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of somebody with a name of their own, and a token."""
    folder = tmp_path / "home" / USER
    (folder / "acts").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(24):
        np.savez(
            folder / f"acts/e{number:02d}.npz", v=rng.standard_normal((2, 8)).astype(np.float32)
        )
    rows = "".join(f"e{number:02d},{'ab'[number % 2]}\n" for number in range(24))
    (folder / "labels.csv").write_text("example_id,label\n" + rows)
    (folder / "secret").mkdir()
    (folder / "acts/away").symlink_to(folder / "secret")
    for name, value in {
        "HF_TOKEN": TOKEN,
        "HOME": str(folder),
        "USER": USER,
        "LOGNAME": USER,
        "ACTSTORE_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    return folder


def contents(path: Path) -> Iterator[bytes]:
    """A file's bytes, and those that are packed in it."""
    data = path.read_bytes()
    yield path.name.encode()
    yield data
    if data.startswith(b"PAR1"):
        with pq.ParquetFile(path) as file:
            yield str(file.metadata.metadata).encode()
            table = file.read()
            kept = [name for name in table.column_names if name != "activation"]
            yield str(table.select(kept).to_pydict()).encode()
    elif data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield name.encode() + archive.read(name)
    elif data.startswith(b"\x1f\x8b"):
        yield gzip.decompress(data)
    elif data.startswith(b"\x89PNG"):
        at = 8
        while at < len(data):
            size = int.from_bytes(data[at : at + 4], "big")
            kind, chunk = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
            if kind == b"zTXt":
                yield zlib.decompress(chunk[chunk.index(b"\0") + 2 :])
            at += 12 + size
    elif data.startswith(b"ARROW1"):
        with pa.ipc.open_file(path) as reader:
            yield str(reader.read_all().to_pydict()).encode()


def private(home: Path) -> list[bytes]:
    """What must stand nowhere."""
    words = [TOKEN, USER, str(home), str(home.parents[1])]
    host = socket.gethostname()
    return [word.encode() for word in words] + ([host.encode()] if len(host) > 5 else [])


def written(home: Path) -> set[Path]:
    """Return the files and folders that commands have made in the home folder."""
    theirs = ("acts", "labels.csv", "secret", "source", "tables", "model_responses.jsonl")
    return {
        path
        for path in home.iterdir()
        if not path.name.startswith((".", "s_")) and path.name not in theirs
    }


def assert_nothing_private(home: Path) -> None:
    """Look through every file that was written."""
    files = [
        path
        for output in written(home)
        for path in ([output] if output.is_file() else output.rglob("*"))
        if path.is_file()
    ]
    assert files
    for path in files:
        for content in contents(path):
            for word in private(home):
                assert word not in content, (path.relative_to(home), word)


def test_nothing_private_is_written(actstore: Command, home: Path) -> None:
    store = home / "runs.store"
    commands = [
        ("ingest", home / "acts", "--store", store, "--model", "m", "--site", "resid_post",
         "--layer", "3", "--labels", home / "labels.csv", "--on", "example_id", "--yes"),
        ("label", store, home / "labels.csv", "--on", "example_id"),
        ("compact", store),
        ("convert", store, "--to", "compact16"),
        ("convert", store, "--to", "int8", "--out", home / "int8.store"),
        ("sync", store, home / "copy.store"),
        ("rename", store, "--set", "dataset = 'd'", "--yes"),
        ("drop", store, "example_id = 'e00'", "--yes"),
        ("checkout", store, "--at", "1", "--yes"),
        ("probe", store, "--label", "label", "--out", home / "probes"),
        ("score", store, "--probe", home / "probes", "--in-sample", "-o", home / "scores.csv"),
        ("steer", store, "--positive", "a", "--out", home / "steering"),
        ("validate", store, "--vectors", home / "steering", "--in-sample", "--out",
         home / "validation"),
        ("report", store, "-o", home / "report.html"),
        ("plot", store, "--kind", "norms", "-o", home / "norms.png"),
        ("plot", store, "--kind", "norms", "-o", home / "norms.svg"),
        ("export", store, home / "npz", "--to", "npz"),
        ("export", store, home / "parquet", "--to", "parquet"),
        ("export", store, home / "tensors", "--to", "safetensors"),
        ("select", store, "-o", home / "rows.parquet"),
        ("select", store, "-o", home / "rows.npz"),
    ]  # fmt: skip
    for words in commands:
        finished = actstore(*words)
        assert finished.code == 0, (words, finished.err)
    assert len(written(home)) == 15
    assert_nothing_private(home)


def test_errors_name_paths_as_they_were_given_and_no_token(actstore: Command, home: Path) -> None:
    (home / "acts/bad.npz").write_bytes(b"PK\x03\x04 broken")
    for words in (
        ("ingest", "acts", "--store", "s", "--model", "m", "--recipe", "nothing.toml"),
        ("ingest", "nowhere", "--store", "s", "--model", "m"),
        ("ingest", "acts", "--store", "s", "--model", "m", "--labels", "none.csv", "--on", "layer"),
        ("ingest", "acts", "--store", "s", "--recipe", "numpy"),
        ("info", "nowhere"),
        ("info", "acts"),
        ("export", "nowhere", "out", "--to", "npz"),
        ("query", "nowhere", "SELECT 1"),
    ):
        finished = actstore(*words)
        assert finished.code != 0
        for word in private(home):
            assert word.decode() not in finished.err + finished.out, words


def _amber(source: Path, name: str, text: str) -> None:
    amber.write_samples(source, samples=2, layers=2)
    (source / name).parent.mkdir(exist_ok=True)
    (source / name).write_text(text)


def _several(source: Path, tables: str = ".") -> None:
    source.mkdir()
    np.save(source / "a.npy", np.ones(8, np.float32))
    for number in range(2):
        (source / tables / f"s_{number}.csv").write_text("id,label\na,x\n")
    # Its options name it: a recipe may lie beside what it describes.
    (source / "r.toml").write_text(
        'name = "r"\ncontainer = "numpy"\n[[files]]\npath = "{key}.npy"\n[[tensors]]\n'
        'key = ""\naxes = [["hidden"]]\n[columns]\nexample_id = "{path.key}"\n'
        'site = "resid_post"\npooling = "none"\nlabel = "{sidecar.t.label}"\n'
        '[[sidecars]]\nname = "t"\npaths = ["s_*.csv"]\non = { id = "{path.key}" }\n'
    )


def _layer_info(source: Path) -> None:
    contrastive.write_stacked(source / "cache")
    (source / "cache/layer_info.json").write_text("[]")


def _without_its_table(source: Path) -> None:
    (source / "d").mkdir(parents=True)
    (source / "d/state.json").write_text('{"_data_files": [{"filename": "x.arrow"}]}')


def _conflicting(source: Path) -> None:
    source.mkdir()
    for number in range(2):
        np.savez(source / f"{number}.npz", v=np.full((2, 8), number, np.float32))


AMBIGUOUS = '{"id": 1, "response": "a"}\n{"id": 1, "response": "b"}\n'
AMBER = ("--recipe", "amber", "--model", "m")
REFUSED: dict[str, tuple[Callable[[Path], object], tuple[Any, ...], str]] = {
    "ambiguous rows": (
        lambda source: _amber(source, "model_responses.jsonl", AMBIGUOUS),
        AMBER,
        "model_responses.jsonl: row 2 repeats id='1' with other values",
    ),
    "a broken table in a folder": (
        lambda source: _amber(source, "analysis/amber_classification.json", "[1"),
        AMBER,
        "analysis/amber_classification.json: cannot be read as json",
    ),
    "a table elsewhere": (
        lambda source: _amber(source, "x.txt", ""),
        (*AMBER, "--sidecar", "responses={home}/tables/bad.jsonl"),
        "bad.jsonl: line 1: expected an object, got a list",
    ),
    "a table elsewhere, by folders above": (
        lambda source: _amber(source, "x.txt", ""),
        (*AMBER, "--sidecar", f"responses=../{USER}/tables/bad.jsonl"),
        "bad.jsonl: line 1: expected an object, got a list",
    ),
    "a table above": (
        lambda source: _amber(source, "../model_responses.jsonl", AMBIGUOUS),
        (*AMBER, "--allow-parent", "{home}"),
        "model_responses.jsonl: row 2 repeats id='1' with other values",
    ),
    "several tables": (
        _several,
        ("--recipe", "source/r.toml", "--model", "m"),
        "sidecar t: 2 files fit s_*.csv in the source (s_0.csv, s_1.csv)",
    ),
    "several tables above": (
        lambda source: _several(source, ".."),
        ("--recipe", "source/r.toml", "--model", "m", "--allow-parent", "{home}"),
        "sidecar t: 2 files fit s_*.csv in .. (s_0.csv, s_1.csv)",
    ),
    "a document beside": (
        _layer_info,
        ("--recipe", "contrastive", "--model", "m"),
        "cache/layer_info.json: expected an object, got a list",
    ),
    "what a library says": (
        _without_its_table,
        ("--recipe", "huggingface", "--model", "m", "--map", "activation=v"),
        "Failed to open local file 'x.arrow'",
    ),
    "two rows of one key": (
        _conflicting,
        ("--model", "m", "--site", "resid_post", "--layer", "1", "--map", "example_id={row}"),
        "1.npz#v has the key of 0.npz#v and another vector",
    ),
}


@pytest.mark.parametrize("named", ["source", "{home}/source", "../{user}/source", "source/"])
@pytest.mark.parametrize("kind", REFUSED)
def test_why_a_file_is_refused_names_no_folder_above_its_source(
    actstore: Command, home: Path, kind: str, named: str
) -> None:
    write, options, reason = REFUSED[kind]
    (home / "tables").mkdir()
    (home / "tables/bad.jsonl").write_text("[1]\n")
    source = home / "source"
    write(source)
    stray = next(source.glob("**/*.*"))
    (source / f"gone{stray.suffix}").symlink_to(home / "secret/x")
    (source / "away").symlink_to(home / "secret")
    (source / "round").symlink_to(f"../../{USER}/secret")
    words = [str(each).replace("{home}", str(home)) for each in options]
    given = named.format(home=home, user=USER)
    finished = actstore("ingest", given, "--store", "runs.store", "--yes", *words)
    assert finished.code == 3, finished.err
    assert reason in finished.err
    (report,) = (home / "runs.store/reports").iterdir()
    refused = json.loads(report.read_bytes())["refused"]
    assert any(reason in each["reason"] for each in refused), refused
    assert_nothing_private(home)


def test_tables_of_one_name_are_told_apart_without_the_folder_of_all(
    actstore: Command, home: Path
) -> None:
    for folder in ("source/a", "source/b"):
        amber.write_samples(home / folder, samples=2, layers=2)
    for folder in (".", "source/b"):
        (home / folder / "model_responses.jsonl").write_text('{"id": 1, "response": "a"}\n')
    words = ("ingest", "source", *AMBER, "--allow-parent", home, "--store", "runs.store")
    finished = actstore(*words)
    assert finished.code == 0, finished.err
    assert "sidecar responses: b/model_responses.jsonl, model_responses.jsonl" in finished.err
    assert_nothing_private(home)


def test_sources_of_one_name_are_told_apart_by_no_more_than_that_takes(
    actstore: Command, home: Path, tmp_path: Path
) -> None:
    for folder in (home / "proj/acts", tmp_path / "mnt/data/acts"):
        amber.write_samples(folder, samples=2, layers=2)
    words = ("ingest", home / "proj/acts", tmp_path / "mnt/data/acts", *AMBER)
    finished = actstore(*words, "--store", "runs.store", "--json")
    assert finished.code == 0, finished.err
    assert json.loads(finished.out)["datasets"] == {"data": 4, "proj": 4}
    shutil.rmtree(home / "proj")
    assert_nothing_private(home)


def test_why_an_example_is_refused_names_no_folder(actstore: Command, home: Path) -> None:
    model, processor = vision_families.build_vlm("llava")
    model.save_pretrained(home / "source/model")
    processor.save_pretrained(home / "source/model")
    images = home / "source/images"
    images.mkdir()
    vision_families.picture(0).save(images / "good.png")
    (images / "text.png").write_text("no image")
    (images / "folder.png").mkdir()
    shown = ("good.png", "gone.png", str(images / "gone.png"), "text.png", str(images / "text.png"),
             "folder.png", f"file://{images}/good.png", "n" * 300)  # fmt: skip
    data = home / "source/q.jsonl"
    rows = [
        {"id": str(n), "question": "yes or no ?", "image": each} for n, each in enumerate(shown)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--store", "runs.store", "--layers", "1", "--device", "cpu", "--image-dir", images)
    finished = actstore("capture", "--model", home / "source/model", "--data", data, *words)
    assert finished.code == 3, finished.err
    (run,) = manifests.load(home / "runs.store").runs
    reasons = [reason for _, reason in run.settings["progress"]["refused"]]
    assert len(reasons) == len(shown) - 1
    assert reasons[0] == "no image gone.png (looked in the images' folder)"
    assert_nothing_private(home)
