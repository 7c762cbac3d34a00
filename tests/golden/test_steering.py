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
    """Each question alone, and the two words by what they are as text; a push moves it."""
    texts, truth = asked
    vector = np.random.default_rng(0).standard_normal(WIDTH).astype(np.float32)
    curves = steering.measure(loaded, texts, truth, vector, LAYER, (0.0, 2.0))
    preferred = []
    for text in texts:
        inputs = loaded.processor.apply_chat_template(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.no_grad():
            logits = loaded.model(**inputs).logits[0, -1]
        likely = logits.topk(3000).indices.tolist()
        words = {loaded.processor.decode([token]): token for token in likely}
        preferred.append(float(logits[words["Yes"]] - logits[words["No"]]))
    for kind, of_kind in (("true", truth), ("false", ~truth)):
        plain, pushed = curves[kind].vector
        assert plain.value == pytest.approx(np.mean(np.array(preferred)[of_kind]), abs=1e-3)
        assert abs(pushed.change) > 0.01
        assert len(curves[kind].random) == steering.RANDOM
