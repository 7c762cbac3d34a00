"""What the study measures of a steering vector, against the model's own logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from actstore.models.loading import LoadedModel
from docs.study import facts, steering

WIDTH, LAYER = 576, 15


@pytest.fixture
def asked(tmp_path: Path) -> tuple[list[str], np.ndarray]:
    facts.write(tmp_path, cities_count=10, capitals_count=1)
    texts, truth = steering.questions(tmp_path / "others.jsonl")
    return texts[:4], truth[:4]


def test_statements_become_questions(asked: tuple[list[str], np.ndarray]) -> None:
    texts, truth = asked
    assert truth.tolist() == [True, False, True, False]
    for text in texts:
        assert text.startswith("Is it true that the city of ")
        assert text.endswith("? Answer with Yes or No.")


def test_without_a_push_it_is_the_models_own_preference(
    loaded: LoadedModel, asked: tuple[list[str], np.ndarray]
) -> None:
    """Each question alone and unpadded, and the two words by what they are as text."""
    texts, _ = asked
    tokenizer, vector = loaded.processor, np.ones(WIDTH, np.float32)
    found = steering.preference(loaded.model, tokenizer, texts, vector, LAYER, 0.0)
    for text, value in zip(texts, found, strict=True):
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.no_grad():
            logits = loaded.model(**inputs).logits[0, -1]
        words = {tokenizer.decode([token]): token for token in logits.topk(3000).indices.tolist()}
        assert value == pytest.approx(float(logits[words["Yes"]] - logits[words["No"]]), abs=1e-3)


def test_a_push_moves_it_and_is_taken_back(
    loaded: LoadedModel, asked: tuple[list[str], np.ndarray]
) -> None:
    texts, truth = asked
    draw = np.random.default_rng(0)
    vector = draw.standard_normal(WIDTH).astype(np.float32)
    scales = (0.0, 2.0, 0.0)
    first, pushed, again = steering.measure(
        loaded.model, loaded.processor, texts, truth, vector, LAYER, scales
    )
    assert first == again
    assert abs(pushed.true - first.true) > 0.01
    assert steering.shift([first, pushed]) == pytest.approx(
        (pushed.true + pushed.false - first.true - first.false) / 2
    )
