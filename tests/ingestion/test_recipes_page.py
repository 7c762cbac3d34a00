"""docs/recipes.md: its example works, and it names every key that a recipe may have."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from actstore.ingestion import recipe_parsing
from actstore.ingestion.contract import Contract
from actstore.ingestion.recipe import AXES
from actstore.ingestion.recipes import parse
from actstore.ingestion.run import ingest
from tests.ingestion.storing import stored_rows

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    parts = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (found,) = [part for part in parts if part.replace("`", "").startswith(title)]
    return found


def keys(text: str) -> set[str]:
    """Return the names in the first cells of a section's tables that are plain keys."""
    cells = re.findall(r"^\| (`[^|]*) \|", text, flags=re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)}


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("Top of the file", recipe_parsing.TOP),
        ("[[files]]", recipe_parsing.FILES),
        ("[[tensors]]", recipe_parsing.TENSORS),
        ("[columns]", recipe_parsing.COLUMN),
        ("[extra]", recipe_parsing.EXTRA),
        ("[[sidecars]]", recipe_parsing.SIDECARS),
        ("Contracts", [item.name for item in dataclasses.fields(Contract)]),
    ],
)
def test_every_key_is_described(title: str, names: list[str]) -> None:
    assert keys(section(title)) == set(names)


def test_every_axis_is_described() -> None:
    text = section("[[tensors]]")
    assert all(f"`{axis}`" in text for axis in AXES)


def test_the_example_works(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    caches = tmp_path / "caches"
    (caches / "openai-community__gpt2/sums").mkdir(parents=True)
    acts = {f"layer_{layer}": torch.randn(2, 3, 8) for layer in range(2)}
    torch.save(
        {"prompt": ["1+1", "2+2"], "ok": [1, 0], "acts": acts},
        caches / "openai-community__gpt2/sums/run_1.pt",
    )
    (caches / "answers.csv").write_text("prompt,answer\n1+1,2\n2+2,5\n")
    summary = ingest(caches, tmp_path / "tokens", recipe=parse(text))
    assert summary.rows_written == 12
    assert summary.labels == {"right": 6, "wrong": 6}
    ingest(caches, tmp_path / "mean", recipe=parse(text), pool="mean")
    rows = stored_rows(tmp_path / "mean")
    names = ("example_id", "model", "task", "layer", "question", "prediction", "label", "pooling")
    assert [tuple(row[name] for name in names) for row in rows[:2]] == [
        ("1-0", "openai-community/gpt2", "sums", 0, "1+1", "2", "right", "mean"),
        ("1-1", "openai-community/gpt2", "sums", 0, "2+2", "5", "wrong", "mean"),
    ]
