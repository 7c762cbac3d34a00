"""Near copies: all pairs that a slow search finds, and no alarm at what a template makes alike."""

import re

import numpy as np
import pytest

from actstore.analysis.examples import near_copies


def slowly(texts: list[str], groups: list[int]) -> set[int]:
    """Return texts with a near copy in another group, each pair looked at."""
    sets = [frozenset(re.findall(r"\w+", text.casefold())) for text in texts]
    distinct = sorted({tuple(sorted(each)) for each in sets if each})
    weight = {
        word: np.log((len(distinct) + 1) / sum(word in each for each in distinct))
        for word in set().union(*sets)
    }
    found = set()
    for one, a in enumerate(sets):
        for other, b in enumerate(sets):
            if groups[one] == groups[other] or not a or not b:
                continue
            rare = sum(weight[word] for word in a & b)
            either = sum(weight[word] for word in a | b)
            if len(a & b) >= 0.8 * len(a | b) - 1e-9 and rare >= 0.5 * either - 1e-9:
                found.add(one)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_every_near_copy_is_found(seed: int) -> None:
    draw = np.random.default_rng(seed)
    texts: list[str] = []
    for _ in range(60):
        own = draw.choice(40, draw.integers(3, 12)).tolist()
        texts.append(" ".join(f"w{word}" for word in own))
        if draw.random() < 0.5:
            changed = [*own[1:], int(draw.integers(40))]
            texts.append(" ".join(f"W{word}" for word in draw.permutation(changed)) + "?")
    texts = list(dict.fromkeys(texts))
    groups = draw.integers(0, 30, len(texts))
    found = near_copies.find(texts, np.arange(len(texts)), groups)
    expected = slowly(texts, groups.tolist())
    assert found.whole
    assert found.copies == len(expected)
    assert found.questions == len(texts)
    if expected:
        assert found.example is not None
        assert {texts.index(text) for text in found.example} <= expected


def test_a_template_raises_no_alarm_and_a_changed_word_does() -> None:
    made = [f"Is it true that the large city of X{n} lies in Y{n % 9}?" for n in range(90)]
    whole = [*made, "Who wrote the long poem about bees and honey in 1714?"]
    assert near_copies.find(whole, np.arange(91), np.arange(91)).copies == 0
    whole.append("Who penned the long poem about bees and honey in 1714?")
    found = near_copies.find(whole, np.arange(92), np.arange(92))
    assert found.copies == 2
    remark = near_copies.note(found, "example_id or question")
    assert remark is not None
    assert "2 questions of 92" in remark
    assert "penned" in remark
    together = np.append(np.arange(91), 90)
    assert near_copies.find(whole, np.arange(92), together).copies == 0


def test_one_question_in_two_groups_is_a_copy_of_itself() -> None:
    found = near_copies.find(["the same"], np.array([0, 0]), np.array([0, 1]))
    assert (found.copies, found.example) == (1, ("the same", "the same"))
    assert "twice" in str(near_copies.note(found, "row_id"))


def test_the_search_ends_however_alike_all_are() -> None:
    draw = np.random.default_rng(0)
    texts = [" ".join(map(str, draw.integers(0, 60, 40).tolist())) for _ in range(1500)]
    found = near_copies.find(texts, np.arange(1500), np.arange(1500))
    assert found.questions == 1500
