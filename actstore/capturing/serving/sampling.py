"""Generation settings as vLLM takes them; what it would do otherwise is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actstore.capturing.forward.generation import Generation
from actstore.errors import UsageError

_SEED_STEP = 1_000_003
_MOST = 1 << 63
_DRAWN = ("temperature", "top_p", "top_k", "min_p")
_ALWAYS = {"repetition_penalty": "repetition_penalty", "min_new_tokens": "min_tokens"}
_SETTLED = ("do_sample", "max_new_tokens", "eos_token_id", "pad_token_id", "bos_token_id")
"""Settings that are passed on in another way, or that ``generate`` alone needs."""
_IDLE = ("num_beams", "num_return_sequences", "use_cache", "cache_implementation")
"""Settings of how ``generate`` goes about it, or that were settled to one sequence before."""


def sampling_options(generation: Generation | None, seed: int, position: int) -> dict[str, Any]:
    """Return the keywords of vLLM's ``SamplingParams`` for one example.

    Every example draws from a seed of its own, so it is answered in the same way whatever
    others are served beside it.

    Args:
        generation: None where nothing is to be generated; vLLM then writes one token, which
            nobody looks at.
        seed: of the run.
        position: place of the example in the source.

    Raises:
        UsageError: a setting that vLLM does not know, or takes in another sense.
    """
    # Ends are named here alone: vLLM would add those of the tokenizer to the checkpoint's.
    found: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True, "detokenize": False}
    if generation is None:
        return {**found, "max_tokens": 1}
    settings = generation.settings
    check_options(settings)
    found["max_tokens"] = generation.max_new_tokens
    found["stop_token_ids"] = sorted(generation.eos_ids)
    for name, theirs in _ALWAYS.items():
        if settings.get(name) is not None:
            found[theirs] = settings[name]
    if generation.samples:
        found["temperature"] = 1.0
        for name in _DRAWN:
            value = getattr(generation.config, name, None)
            if value is not None:
                found[name] = value
        found["seed"] = (seed * _SEED_STEP + position) % _MOST
    return found


def check_options(settings: Mapping[str, Any]) -> None:
    """Refuse generation settings that are not the same thing in vLLM.

    Raises:
        UsageError: names them.
    """
    known = {*_DRAWN, *_ALWAYS, *_SETTLED, *_IDLE}
    unknown = [
        name for name in settings if name not in known and settings[name] not in (None, False)
    ]
    if unknown:
        raise UsageError(
            f"engine vllm generates without {', '.join(unknown)}: it takes "
            f"{', '.join((*_DRAWN, *_ALWAYS))} (--generation NAME=VALUE); use --engine local for "
            "anything else, also where the checkpoint's own generation settings ask for it"
        )
