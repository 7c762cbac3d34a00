"""Figures of the study on the real model: AUROC by layer, and answers word for word.

``recorded.json`` holds what was measured; ``ACTSTORE_RECORD=1`` writes it anew, to be looked at
and committed when model, facts or the measure itself have changed on purpose.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import actstore
from actstore.models.loading import LoadedModel
from docs.study import facts

RECORDED = Path(__file__).with_name("recorded.json")
LAYERS = [0, 10, 15, 20, 29]
ASKED = 10
"""Capitals whose answers are compared word for word."""


def recorded(name: str, measured: Any) -> Any:
    """Return what was recorded under a name; record what was measured where that is asked for."""
    known = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    if os.environ.get("ACTSTORE_RECORD"):
        known[name] = measured
        text = json.dumps(known, indent=2, ensure_ascii=False, sort_keys=True)
        RECORDED.write_text(text + "\n", encoding="utf-8")
    return known[name]


def test_truth_by_layer() -> None:
    """The README's commands are run and print these figures: tests/test_docs.py sees to it."""
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ actstore (.+)$", text, re.MULTILINE)
    for command in ("capture --model SmolLM2-135M-Instruct", "probe cities.store"):
        assert any(each.startswith(command) for each in commands)
    shown = re.findall(r"^resid_post  last +(\d+) +320 +160  (0\.\d{3}) ", text, re.MULTILINE)
    found = {int(layer): float(auroc) for layer, auroc in shown}
    measured = {str(layer): found[layer] for layer in LAYERS}
    expected = recorded("auroc", measured)
    assert list(expected) == [str(layer) for layer in LAYERS]
    for layer, value in expected.items():
        assert measured[layer] == pytest.approx(value, abs=0.01), layer
    # Words alone tell nothing, the middle of the model does.
    assert 0.4 < measured["0"] < 0.6
    assert measured["20"] > 0.9


def test_answers_word_for_word(loaded: LoadedModel, tmp_path: Path) -> None:
    actstore.capture(
        loaded.model,
        loaded.processor,
        [row._asdict() for row in facts.capitals(ASKED)],
        store=tmp_path / "store",
        layers=[15],
        max_new_tokens=16,
        grade="contains",
        batch_size=ASKED,
        self_check=False,
    )
    with actstore.open(tmp_path / "store") as store:
        rows = store.select().table(["question", "prediction", "label"]).to_pylist()
    measured = {row["question"]: [row["prediction"], row["label"]] for row in rows}
    assert measured == recorded("capitals", measured)
    # Without actstore: the same question through transformers' own generate.
    question = "What is the capital of Japan?"
    prompt = loaded.processor.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    inputs = loaded.processor(prompt, return_tensors="pt", add_special_tokens=False)
    made = loaded.model.generate(**inputs, max_new_tokens=16, do_sample=False)
    text = loaded.processor.decode(
        made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert measured[question] == [text.strip(), "correct"]
    assert "Tokyo" in text
