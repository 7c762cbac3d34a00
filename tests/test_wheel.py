"""The wheel: holds every data file, and works installed, far from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.layouts import faithfulness

ROOT = Path(__file__).resolve().parents[1]
DATA = ("schemas", "ingest", "query")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts folder of a new environment that holds the wheel.

    Its dependencies are this environment's: the checkout is not among them, because a
    folder on the path does not bring along the ``.pth`` files inside it.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    packages = Path(
        sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    )
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    scripts = folder / "bin"
    pip = [sys.executable, "-m", "pip", "--python", str(scripts / "python")]
    subprocess.run(
        [*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)],
        check=True,
        capture_output=True,
    )
    return scripts


def run(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(installed / words[0]), *words[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )


def test_every_data_file_is_in_the_wheel(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    files = [path for kind in DATA for path in (ROOT / kind).rglob("*") if path.is_file()]
    assert {path.relative_to(ROOT).parts[0] for path in files} == set(DATA)
    missing = {f"actstore/_data/{path.relative_to(ROOT).as_posix()}" for path in files} - packed
    assert not missing


def test_the_wheel_holds_nothing_but_the_package(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"actstore"}
    assert "actstore/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_the_licence_travels_along(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_installed_package_is_the_wheels(installed: Path, tmp_path: Path) -> None:
    printed = run(installed, tmp_path, "python", "-c", "import actstore; print(actstore.__file__)")
    assert Path(printed.stdout.strip()).is_relative_to(installed.parent)


def test_the_installed_command_ingests_and_answers(installed: Path, tmp_path: Path) -> None:
    rows = faithfulness.write_v1(tmp_path / "project")
    assert run(installed, tmp_path, "actstore", "--version").stdout.startswith("actstore ")
    assert "faithfulness" in run(installed, tmp_path, "actstore", "recipes").stdout
    command = ["actstore", "ingest", "project", "--store", "s", "--model", "m", "--json"]
    summary = json.loads(run(installed, tmp_path, *command).stdout)
    assert summary["rows_written"] == len(rows)
    query = run(
        installed, tmp_path, "actstore", "query", "s", "SELECT count(*) AS n FROM activations",
        "--format", "jsonl",
    )  # fmt: skip
    assert json.loads(query.stdout) == {"n": len(rows)}
