"""What a model says to prompts without and with a steering vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actstore.analysis.steering.intervention import steering
from actstore.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from actstore.models.loading import LoadedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeredAnswer:
    """Answers to one prompt."""

    prompt: str
    before: str
    after: str


def before_and_after(
    loaded: LoadedModel,
    prompts: Sequence[str],
    vector: np.ndarray,
    layer: int,
    scale: float,
    *,
    site: str = "resid_post",
    max_new_tokens: int = 40,
    chat_template: bool = True,
) -> list[SteeredAnswer]:
    """Let a model answer each prompt greedily, first as it is and then steered.

    Args:
        loaded: the model with its tokenizer.
        prompts: texts.
        vector: ``[width]``.
        layer: 0-based number of the block.
        scale: the vector's factor.
        site: where in the block it is added.
        max_new_tokens: length of an answer.
        chat_template: use the tokenizer's template where it has one.

    Raises:
        MismatchError: the model's states have another width.
        UsageError: there is no prompt.
    """
    if not prompts:
        raise UsageError("give at least one --prompt to see the vector's effect on")
    tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
    found = []
    for prompt in prompts:
        inputs = inputs_of(tokenizer, prompt, chat_template).to(loaded.model.device)
        before = _answer(loaded.model, tokenizer, inputs, max_new_tokens)
        with steering(loaded.model, vector, layer, scale, site=site):
            after = _answer(loaded.model, tokenizer, inputs, max_new_tokens)
        found.append(SteeredAnswer(prompt=prompt, before=before, after=after))
    return found


def inputs_of(tokenizer: Any, prompt: str, chat_template: bool) -> Any:
    """Return ids and mask of a prompt, ``[1, T]``, in the chat template where there is one."""
    if chat_template and getattr(tokenizer, "chat_template", None):
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
    return tokenizer(prompt, return_tensors="pt")


def _answer(model: Any, tokenizer: Any, inputs: Any, max_new_tokens: int) -> str:
    import torch

    ids = inputs["input_ids"]
    given = {"input_ids": ids, "attention_mask": inputs["attention_mask"]}
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    with torch.no_grad():
        whole = model.generate(
            **given, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=padding
        )
    text: str = tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
    return text
