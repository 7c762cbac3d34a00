"""Labels that stand beside the vectors in a file: numbers, missing ones, too few; all formats."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from actstore.ingestion.labeling import label_by_expression, label_by_function, label_by_table
from actstore.ingestion.run import ingest
from tests.ingestion.storing import stored_rows

MODEL = "org/model"
ROWS = 4


def acts() -> torch.Tensor:
    return torch.arange(ROWS * 8).reshape(ROWS, 8) / 10


def write_torch(folder: Path, labels: list[Any]) -> None:
    torch.save({"layer_3": acts(), "label": labels}, folder / "acts.pt")


def write_torch_tensor(folder: Path, labels: list[Any]) -> None:
    torch.save({"layer_3": acts(), "label": torch.tensor(labels)}, folder / "acts.pt")


def write_stack(folder: Path, labels: list[Any]) -> None:
    torch.save({"acts": torch.stack([acts()] * 2), "labels": labels}, folder / "acts.pt")


def write_npz(folder: Path, labels: list[Any]) -> None:
    np.savez(folder / "layer_3.npz", acts=acts().numpy(), label=np.array(labels))


def write_pickle(folder: Path, labels: list[Any]) -> None:
    with (folder / "acts.pkl").open("wb") as file:
        pickle.dump({"layer_3": acts().numpy(), "label": np.array(labels)}, file)


def write_safetensors(folder: Path, labels: list[Any]) -> None:
    save_file({"layer_3": acts(), "label": torch.tensor(labels)}, folder / "acts.safetensors")


def write_dataset(folder: Path, labels: list[Any]) -> None:
    from datasets import Dataset

    rows = {"layer_3": acts().tolist(), "label": labels}
    Dataset.from_dict(rows).save_to_disk(folder / "data")


WRITERS = [
    write_torch,
    write_torch_tensor,
    write_stack,
    write_npz,
    write_pickle,
    write_safetensors,
    write_dataset,
]
Writer = Callable[[Path, list[Any]], None]


def stored(folder: Path, write: Writer, values: list[Any]) -> tuple[Any, list[Any]]:
    (folder / "in").mkdir()
    write(folder / "in", values)
    summary = ingest(folder / "in", folder / "s", model=MODEL, site="resid_post", yes=True)
    rows = stored_rows(folder / "s") if not summary.refused else []
    return summary, [row["label"] for row in rows][:ROWS]


@pytest.mark.parametrize("write", WRITERS)
def test_labels_may_be_numbers_with_a_fraction(tmp_path: Path, write: Writer) -> None:
    summary, labels = stored(tmp_path, write, [0.5, 1.0, 0.0, float("nan")])
    assert labels == ["0.5", "1.0", "0.0", None]
    mapping = summary.mapping
    assert mapping is None or "label" not in {key for key, _ in mapping.left_out}


@pytest.mark.parametrize("write", [write_torch, write_stack, write_npz, write_pickle])
def test_an_empty_text_and_nan_are_no_labels(tmp_path: Path, write: Writer) -> None:
    assert stored(tmp_path, write, ["a", "", "nan", "b"])[1] == ["a", None, None, "b"]


@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize("write", [each for each in WRITERS if each is not write_dataset])
def test_more_or_fewer_labels_than_rows_are_refused(
    tmp_path: Path, write: Writer, count: int
) -> None:
    summary, _ = stored(tmp_path, write, [1, 0, 1, 0, 1][:count])
    assert f"holds {count} value" in summary.refused[0].reason
    assert "for 4 rows" in summary.refused[0].reason


def test_files_without_labels_beside_files_with_them(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    files: dict[str, dict[str, Any]] = {"a": {"label": [0, 1, 1, 0]}, "b": {}, "c": {"label": None}}
    for name, more in files.items():
        torch.save({"layer_3": acts(), **more}, tmp_path / "in" / f"{name}.pt")
    ingest(tmp_path / "in", tmp_path / "s", model=MODEL, example_from="axis0")
    labels = [row["label"] for row in stored_rows(tmp_path / "s")]
    assert labels == ["0", "1", "1", "0"] + [None] * 8


def test_nan_takes_a_label_away_like_null(tmp_path: Path) -> None:
    def labels() -> list[Any]:
        return [row["label"] for row in stored_rows(tmp_path / "s")]

    stored(tmp_path, write_torch, ["a", "b", "c", "d"])
    (tmp_path / "new.csv").write_text("n,label\n0,nan\n1,\n2,NaN\n3,x\n")
    label_by_table(tmp_path / "s", tmp_path / "new.csv", on=["example_index=n"])
    assert labels() == [None, None, None, "x"]
    label_by_expression(tmp_path / "s", "CASE example_index WHEN 0 THEN 'a' WHEN 1 THEN 'y' END")
    label_by_expression(tmp_path / "s", "'nan'::double + 1", where="example_index = 0")
    label_by_function(tmp_path / "s", lambda row: "", where="example_index = 1")
    assert labels() == [None] * 4
    (tmp_path / "labels.csv").write_text("example_index,label\n0,nan\n1,z\n")
    options: dict[str, Any] = {"labels": tmp_path / "labels.csv", "labels_on": "example_index"}
    ingest(tmp_path / "in", tmp_path / "t", model=MODEL, yes=True, **options)
    assert [row["label"] for row in stored_rows(tmp_path / "t")] == ["a", "z", "c", "d"]
