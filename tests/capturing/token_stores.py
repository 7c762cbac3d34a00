"""Stores of token rows, with the regions and roles that a capture gives them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from actstore.storage.manifest import Run
from actstore.storage.rows import RowBatch
from actstore.storage.writer import StoreWriter

MODEL = "org/model"
PROMPT_ROLES = ("bos", "special", "user", "image", "user", "special")
WIDTH = 6
SINK = 3
"""The prompt token whose norm is far above the others'."""


def states(example: int, layer: int, tokens: int, dtype: str = "float32") -> np.ndarray:
    """Return the states of an example: its token 3 is a sink."""
    drawn = np.random.default_rng([example, layer]).standard_normal((tokens, WIDTH))
    drawn[SINK] *= 1000
    return drawn.astype(dtype)


def write(
    root: Path,
    *,
    examples: int = 3,
    responses: Sequence[int] = (3, 0, 1),
    layers: Sequence[int] = (0, 4),
    dtype: str = "float32",
    regions: Sequence[str | None] = ("prompt", "response"),
    roles: bool = True,
    kind: str = "capture",
    pools: Sequence[str] = ("prompt.tokens", "response.tokens"),
    skip: Sequence[int] = (),
) -> None:
    """Store prompts of six tokens, and as many generated ones as ``responses`` says.

    Args:
        regions: of prompt and response rows; several words with ``+`` make several rows.
        skip: positions whose rows are left out.
    """
    run = Run(
        run_id="capture-1",
        kind=kind,
        started_at="2026-01-01T00:00:00Z",
        settings={"pool": list(pools), "max_new_tokens": max(responses)},
    )
    with StoreWriter(root, run=run) as writer:
        for example in range(examples):
            count = len(PROMPT_ROLES) + responses[example]
            words = [*PROMPT_ROLES, *["generated"] * responses[example]]
            for layer in layers:
                vectors = states(example, layer, count, dtype)
                for at in range(count):
                    named = regions[at >= len(PROMPT_ROLES)]
                    for region in (named or "-").split("+"):
                        if at in skip:
                            continue
                        writer.add(
                            RowBatch(
                                vectors=vectors[at : at + 1],
                                constants={
                                    "example_id": f"e{example}",
                                    "dataset": "data",
                                    "question": f"Why {example}?",
                                    "label": "yes" if example else None,
                                    "model": MODEL,
                                    "site": "resid_post",
                                    "layer": layer,
                                    "pooling": "none",
                                    "region": None if region == "-" else region,
                                    "position": at,
                                    "token_id": 100 + at,
                                    "token_role": words[at] if roles else None,
                                    "token_count": 1,
                                    "captured_at": "2026-01-01T00:00:00Z",
                                    "extra": '{"n": 1}',
                                },
                            )
                        )
        writer.commit(operation="capture", message="tokens")
