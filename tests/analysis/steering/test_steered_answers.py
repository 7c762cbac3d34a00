"""Answers before and after steering come from the same prompt, one of them steered."""

from pathlib import Path

import numpy as np
import pytest

from actstore.analysis.steering import steered_answers
from actstore.errors import UsageError
from actstore.models import loading
from docs import two_choice


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> loading.LoadedModel:
    folder = tmp_path_factory.mktemp("model")
    two_choice.make(folder, steps=4)
    return loading.load(folder, generate=True)


def test_only_the_second_answer_is_steered(loaded: loading.LoadedModel, tmp_path: Path) -> None:
    vector = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    prompts = ["Which is larger: 12 or 34?", "Which is larger: 9 or 1?"]
    found = steered_answers.before_and_after(loaded, prompts, vector, 1, 200.0, max_new_tokens=5)
    assert [one.prompt for one in found] == prompts
    assert all(one.before != one.after for one in found)
    same = steered_answers.before_and_after(loaded, prompts, vector, 1, 0.0, max_new_tokens=5)
    assert [one.before for one in same] == [one.before for one in found]
    assert all(one.before == one.after for one in same)


def test_prompts_are_needed(loaded: loading.LoadedModel) -> None:
    with pytest.raises(UsageError, match="--prompt"):
        steered_answers.before_and_after(loaded, [], np.ones(64, np.float32), 1, 1.0)
