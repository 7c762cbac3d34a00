"""Tokens as text and back: what one token stands for, and which token a word is."""

from __future__ import annotations

from typing import Any

from actstore.errors import UsageError

_BLANK = "\u2581"
"""What SentencePiece has for a blank."""


def text_of(tokenizer: Any, token: int) -> str:
    """Return what a token stands for, with the blank that it may begin with."""
    text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
    piece = tokenizer.convert_ids_to_tokens(token)
    if isinstance(piece, str) and piece.startswith(_BLANK) and not text.startswith(" "):
        text = f" {text}"
    return text or str(piece or token)


def id_of(tokenizer: Any, text: str) -> int:
    """Return the one token that a text is.

    Raises:
        UsageError: it is several tokens, or none.
    """
    tokens = _encoded(tokenizer, text)
    # SentencePiece puts a blank before the text itself: of "Paris" it makes " Paris".
    for each in (tokens, _encoded(tokenizer, text.lstrip())):
        if len(each) == 1 and text_of(tokenizer, each[0]) == text:
            return each[0]
    if len(tokens) == 1 and tokens[0] != tokenizer.unk_token_id:
        return tokens[0]
    if not tokens or tokenizer.unk_token_id in tokens:
        raise UsageError(f"{text!r} is no token of this model: give a word that it knows")
    parts = [text_of(tokenizer, token) for token in tokens]
    first = next((part for part in parts if part.strip()), parts[0])
    raise UsageError(
        f"{text!r} is {len(tokens)} tokens of this model ({', '.join(map(repr, parts))}), and one "
        f"is needed: give its first, {first!r}, or another word; a blank before it makes a "
        "difference"
    )


def _encoded(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
