"""Makes the demo's model: a small Llama that learns, in seconds, to say which number is larger.

Real questions, a real tokenizer and real mistakes: after a fixed number of training steps it is
right about four times out of five. ``make(folder)`` leaves a folder that
``AutoModelForCausalLM`` and ``AutoTokenizer`` load, and ``questions`` the lines of a data set.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ANSWERS = ("first", "second")
STEPS = 70
"""Enough to be right four times out of five; fixed, so that every machine makes the same model."""
_BATCH = 256
_RATE = 3e-3
_WARMUP = 50


class Question(NamedTuple):
    """One question with its ground truth."""

    id: str
    task: str
    question: str
    oracle: str


def questions(count: int, seed: int = 1) -> list[Question]:
    """Return questions such as ``Which is larger: 847 or 839?``, every fourth one close."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        task = "close" if number % 4 == 3 else "far"
        first, second = draw.sample(range(100, 1000), 2)
        if task == "close":
            apart = draw.randint(1, 12) * draw.choice((-1, 1))
            second = first + (apart if 100 <= first + apart <= 999 else -apart)
        text = f"Which is larger: {first} or {second}? Answer:"
        right = ANSWERS[second > first]
        found.append(Question(f"{task}-{number:05d}", task, text, right))
    return found


def write_questions(path: Path, count: int, seed: int = 1) -> None:
    """Write questions as JSON lines."""
    lines = [json.dumps(question._asdict()) for question in questions(count, seed)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def make(folder: Path, steps: int = STEPS, seed: int = 0) -> dict[str, Any]:
    """Train the model, save it and its tokenizer; return what it took."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=64,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / _WARMUP, (steps - step) / (steps - _WARMUP))
    )
    asked = questions(_BATCH * steps, seed=seed + 1000)
    model.train()
    for step in range(steps):
        tokens, wanted = _batch(tokenizer, asked[step * _BATCH : (step + 1) * _BATCH])
        loss = model(input_ids=tokens, labels=wanted).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"parameters": model.num_parameters(), "steps": steps, "loss": loss.item()}


def _batch(
    tokenizer: PreTrainedTokenizerFast, asked: Sequence[Question]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return questions with their answers, all of one length, and what is to be learnt."""
    texts = [f"{each.question} {each.oracle}{tokenizer.eos_token}" for each in asked]
    tokens = tokenizer(texts, return_tensors="pt")["input_ids"]
    wanted = tokens.clone()
    wanted[:, :-2] = -100  # what counts is the answer and the end
    return tokens, wanted


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of words and single digits."""
    words = [*"0123456789", *ANSWERS, "Which", "is", "larger", "or", "Answer", ":", "?"]
    special = ["<s>", "</s>", "<pad>", "<unk>"]
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
    )
