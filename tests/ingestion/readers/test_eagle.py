"""Training data of EAGLE and SpecForge: final states of every token, and what the loss covers."""

from __future__ import annotations

from pathlib import Path

import torch

from actstore.ingestion.run import ingest
from tests.ingestion.storing import round_trip

MODEL = "org/model"


def write(path: Path, tokens: int, *, batched: bool, seed: int) -> list[dict[str, object]]:
    """Write a file as the two projects do; return its rows."""
    draw = torch.Generator().manual_seed(seed)
    states = torch.randn(tokens, 8, generator=draw).bfloat16()
    auxiliary = torch.randn(tokens, 24, generator=draw).bfloat16()
    document = {
        "input_ids": torch.arange(10, 10 + tokens),
        "loss_mask": (torch.arange(tokens) > 1).long(),
        "hidden_state": states[None] if batched else states,
    }
    if batched:
        document["aux_hidden_state"] = auxiliary[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(document, path)
    rows: list[dict[str, object]] = []
    for site, matrix in (("final_norm", states), ("aux_hidden_state", auxiliary)):
        if site == "final_norm" or batched:
            rows += [
                {
                    "example_id": path.stem,
                    "site": site,
                    "layer": None,
                    "position": at,
                    "token_id": 10 + at,
                    "token_role": "assistant" if at > 1 else None,
                    "pooling": "none",
                    "dataset": None,
                    "extra": None,
                    "source": f"{path.parent.name}/{path.name}#"
                    + ("hidden_state" if site == "final_norm" else site),
                    "activation": vector.float().numpy(),
                }
                for at, vector in enumerate(matrix)
            ]
    return rows


def test_specforge(tmp_path: Path) -> None:
    folder = tmp_path / "hidden_states"
    expected = []
    for number, part in ((0, "rows_0-5000"), (5000, "rows_5000-10000")):
        path = folder / part / f"data_{number}.ckpt"
        expected += write(path, 4 + number // 5000, batched=True, seed=number)
    summary = round_trip(folder, tmp_path / "store", expected, model=MODEL)
    assert (summary.recipe, summary.detected) == ("eagle", True)


def test_eagle(tmp_path: Path) -> None:
    folder = tmp_path / "0"
    expected = write(folder / "data_0.ckpt", 5, batched=False, seed=1)
    expected += write(folder / "data_1.ckpt", 3, batched=False, seed=2)
    summary = round_trip(tmp_path, tmp_path / "store", expected, model=MODEL)
    assert summary.recipe == "eagle"


def test_states_without_a_loss_mask_are_another_layout(tmp_path: Path) -> None:
    document = {"input_ids": torch.arange(4), "hidden_state": torch.ones(4, 8)}
    torch.save(document, tmp_path / "data_0.ckpt")
    assert ingest(tmp_path, tmp_path / "s", model=MODEL).recipe == "folder"
