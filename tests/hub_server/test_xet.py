"""The loopback Hub with Xet on: hf_xet itself cuts, deduplicates, uploads and downloads.

`local:` content stores are not a documented interface of hf_xet, and neither is the layout of
shards: where hf_xet is missing these tests are skipped, and where it has moved on they fail.
"""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import pytest

from tests.hub_server import Hub, faults, hub_env, run_python
from tests.hub_server.short import ID
from tests.hub_server.xet import XetMode

pytest.importorskip("hf_xet")

NOISE = random.Random(0).randbytes(1_500_000)
RAMP = bytes(range(256)) * 4096
FLOATS = b"".join(i.to_bytes(4, "little") for i in range(200_000))
"""Three contents that hf_xet stores in different ways: as they are, packed, and regrouped."""


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("mode", ["http", "local"])
def test_files_go_and_come_through_xet(tmp_path: Path, mode: XetMode) -> None:
    files = {"noise.npy": NOISE, "d/ramp.npy": RAMP, "d/floats.npy": FLOATS, "a.txt": b"text"}
    write(tmp_path / "folder", files)
    with Hub(tmp_path / "hub", xet=mode) as hub:
        hub.create(ID)
        upload = """
            from huggingface_hub import HfApi
            HfApi().upload_folder(repo_id="alice/x", repo_type="dataset", folder_path="folder")
        """
        run_python(dedent(upload), hub_env(hub, tmp_path / "home", xet=True), cwd=tmp_path)
        assert hub.log.entries(method="PUT") == []
        assert {p: e.xet_hash is not None for p, e in hub.files(ID).items()} == {
            "a.txt": False,
            "d/floats.npy": True,
            "d/ramp.npy": True,
            "noise.npy": True,
        }
        assert {path: hub.read(ID, path) for path in files} == files

        stored = hub.services.xet.stored_bytes if hub.services.xet else 0
        assert len(NOISE) < stored < len(NOISE) + len(RAMP) / 10 + len(FLOATS)
        changed = NOISE[:700_000] + b"a few new bytes" + NOISE[700_000:]
        write(tmp_path / "folder", {"noise.npy": changed})
        hub.reset()
        download = """
            from huggingface_hub import HfApi, HfFileSystem
            HfApi().snapshot_download("alice/x", repo_type="dataset", local_dir="local")
            part = HfFileSystem().cat_file("datasets/alice/x/noise.npy", start=10, end=1000)
            assert part == open("folder/noise.npy", "rb").read()[10:1000]
        """
        other = hub_env(hub, tmp_path / "other home", xet=True)
        run_python(dedent(upload) + dedent(download), other, cwd=tmp_path)
        assert (hub.services.xet.stored_bytes if hub.services.xet else 0) < stored + 300_000
        assert hub.log.bytes_received(origin="cas") < 300_000
        files["noise.npy"] = changed
        assert {path: (tmp_path / "local" / path).read_bytes() for path in files} == files
        asked = hub.log.entries(path=r"/resolve/.*noise")
        assert [entry.method for entry in asked if entry.range] == ["GET"]
        assert hub.crashes == []


def test_a_lost_answer_with_xet_on(tmp_path: Path) -> None:
    """The commit is sent again: twice on the branch, or refused although it has landed."""
    write(tmp_path, {"a.npy": NOISE[:100_000]})
    with Hub(tmp_path / "hub", xet="http") as hub:
        ids = ("alice/without", "alice/with")
        for id in ids:
            hub.create(id)
            hub.faults.add(faults.drop("after"), path=f"{id}/commit/main")
        head = hub.head("alice/with").oid
        code = f"""
            from huggingface_hub import HfApi
            from huggingface_hub.errors import HfHubHTTPError
            for id, parent in (("alice/without", None), ("alice/with", "{head}")):
                try:
                    HfApi().upload_folder(
                        repo_id=id, repo_type="dataset", folder_path=".", allow_patterns="a.npy",
                        commit_message="up", parent_commit=parent)
                except HfHubHTTPError as error:
                    print(id, error.response.status_code)
        """
        done = run_python(dedent(code), hub_env(hub, tmp_path / "home", xet=True), cwd=tmp_path)
        assert done.stdout == "alice/with 412\n"
        titles = {id: [c.title for c in hub.repository(id).history("main")] for id in ids}
        assert titles["alice/without"] == ["up", "up", "initial commit"]
        assert titles["alice/with"] == ["up", "initial commit"]
        assert hub.crashes == []


def test_two_clients_at_once(tmp_path: Path) -> None:
    """Over HTTP the content store serves any number of processes."""
    with Hub(tmp_path / "hub", xet="http") as hub:
        hub.create(ID)

        def push(name: str) -> None:
            write(tmp_path / name, {f"{name}.npy": NOISE + name.encode()})
            code = f"""
                from huggingface_hub import HfApi
                HfApi().upload_folder(
                    repo_id="alice/x", repo_type="dataset", folder_path="{name}")
            """
            env = hub_env(hub, tmp_path / f"home-{name}", xet=True)
            run_python(dedent(code), env, cwd=tmp_path)

        with ThreadPoolExecutor() as pool:
            list(pool.map(push, ["a", "b"]))
        assert {p: hub.read(ID, p) for p in ("a.npy", "b.npy")} == {
            "a.npy": NOISE + b"a",
            "b.npy": NOISE + b"b",
        }
        assert hub.crashes == []
