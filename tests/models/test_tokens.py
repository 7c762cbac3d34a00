"""Tokens as text and back, for tokenizers that mark a blank in their own ways."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from actstore.errors import UsageError
from actstore.models import tokens


def tokenizer(kind: str) -> Any:
    """One that has ` Paris`, `Paris`, ` is` and `ian`, as byte-level BPE or as SentencePiece."""
    blank = {"bytes": "Ġ", "pieces": "▁"}[kind]
    words = ["<unk>", f"{blank}Paris", "Paris", f"{blank}is", "ian"]
    if kind == "bytes":
        numbers = {word: number for number, word in enumerate(words)}
        inner = Tokenizer(models.WordPiece(numbers, unk_token="<unk>"))
        inner.model.continuing_subword_prefix = ""
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
    else:
        inner = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=0))
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        inner.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_a_blank_is_part_of_the_token(kind: str) -> None:
    found = tokenizer(kind)
    assert [tokens.text_of(found, token) for token in (1, 2, 3)] == [" Paris", "Paris", " is"]
    assert tokens.id_of(found, " Paris") == 1
    assert tokens.id_of(found, " is") == 3


def test_a_word_of_several_tokens_is_refused_with_them() -> None:
    found = tokenizer("bytes")
    assert tokens.id_of(found, "Paris") == 2
    with pytest.raises(UsageError, match=r"2 tokens of this model \(' Paris', 'ian'\).*' Paris'"):
        tokens.id_of(found, " Parisian")
    with pytest.raises(UsageError, match="no token of this model"):
        tokens.id_of(found, "London")
