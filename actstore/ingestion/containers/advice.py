"""How to save the objects of well-known libraries so that they can be opened here."""

from __future__ import annotations

import re
from typing import Final

from actstore.errors import UnsafeFileError

_OBJECTS: Final = (
    (
        re.compile(r"\btransformer_lens\.[\w.]*ActivationCache\b"),
        "an ActivationCache of TransformerLens: save what is in it instead, "
        "torch.save(dict(cache.items()), 'cache.pt')",
    ),
    (
        re.compile(r"\bnnsight\.[\w.]+"),
        "an object of nnsight: save the tensors instead, "
        "torch.save({path: cache[path].output for path in cache.keys()}, 'cache.pt')",
    ),
    (
        re.compile(r"\btransformers\.[\w.]*Output\w*\b"),
        "a model output of transformers: save its hidden states instead, "
        "torch.save({'hidden_states': output.hidden_states}, 'states.pt')",
    ),
)


def explained(error: UnsafeFileError) -> UnsafeFileError:
    """Return the refusal of an object with how to save it, where its library is known."""
    text = str(error)
    for pattern, advice in _OBJECTS:
        if pattern.search(text):
            where = text.partition("refused: ")[0]
            return UnsafeFileError(
                f"{where}refused: it holds {advice} (tensors in plain tables and lists are opened; "
                "classes, which only running code from the file could rebuild, are not)"
            )
    return error
