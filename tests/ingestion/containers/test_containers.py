"""The front door: kinds, sniffing, lazy imports."""

from __future__ import annotations

import gzip
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from actstore.errors import UnreadableFileError, UsageError
from actstore.ingestion.containers import describe, read, sniff


def test_sniffs_every_kind(tmp_path: Path) -> None:
    content = {"x": torch.ones(2)}
    torch.save(content, tmp_path / "zip")
    torch.save(content, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    for protocol in range(6):
        (tmp_path / f"pickle{protocol}").write_bytes(pickle.dumps(content, protocol))
    (tmp_path / "gzip").write_bytes(gzip.compress(pickle.dumps(content)))
    save_file(content, tmp_path / "safe")
    np.save(tmp_path / "a.npy", np.ones(2))
    np.savez(tmp_path / "a.npz", a=np.ones(2))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "table")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "state.json").write_text("{}")
    with zipfile.ZipFile(tmp_path / "other", "w") as archive:
        archive.writestr("readme", "hello")
    (tmp_path / "json").write_text('{"a": 1}')
    assert {path.name: sniff(path) for path in tmp_path.iterdir()} == {
        "zip": "torch",
        "legacy": "torch",
        **{f"pickle{protocol}": "pickle" for protocol in range(6)},
        "gzip": "pickle",
        "safe": "safetensors",
        "a.npy": "numpy",
        "a.npz": "numpy",
        "table": "parquet",
        "folder": "huggingface",
        "other": None,
        "json": None,
    }
    assert describe(tmp_path / "gzip") == "gzip, and inside it a plain pickle"
    assert describe(tmp_path / "json") == "probably JSON"
    assert describe(tmp_path / "nowhere").startswith("not readable")


@pytest.mark.parametrize("length", [0x80, 0x180, 0x580, 0x4B50])
def test_a_safetensors_file_of_any_length_of_header(tmp_path: Path, length: int) -> None:
    described = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})
    header = described.encode().ljust(length)
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert sniff(tmp_path / "a") == "safetensors"


def test_torchscript_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/constants.pkl", b"\x80\x02).")
        archive.writestr("x/data.pkl", b"\x80\x02).")
    with pytest.raises(UnreadableFileError, match="a TorchScript archive"):
        read("torch", path)


def test_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'hdf5' is unknown; expected one of torch, pickle"):
        read("hdf5", tmp_path)


def test_importing_imports_nothing_heavy() -> None:
    code = (
        "import sys, actstore.ingestion.containers;"
        "sys.exit(bool({'torch', 'pyarrow', 'safetensors', 'datasets'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
