"""Generation settings: checked before the run, refused where hooks could not follow."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from actstore.errors import ModelError, UsageError

_SINGLE = ("num_beams", "num_return_sequences", "num_beam_groups")
_SEVERAL = "several sequences per example cannot be told apart by hooks"
_UNFOLLOWED = {
    "prefill_chunk_size": "the prompt would go through the model in pieces",
    "assistant_model": "assisted decoding feeds several tokens at once and takes some back",
    "assistant_early_exit": "assisted decoding feeds several tokens at once and takes some back",
    "prompt_lookup_num_tokens": "assisted decoding feeds several tokens at once",
    "use_mtp": "assisted decoding feeds several tokens at once and takes some back",
    "guidance_scale": "the model runs a second time for each token, on the response alone",
    "token_healing": "the prompt's last token is taken back and another put in its place",
    "custom_generate": "what it does to the model's input is not known",
    "penalty_alpha": "contrastive search runs candidates through the model",
    "dola_layers": "its steps are not those of the model",
}
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {"guidance_scale": (None, 1)}
_OWN = ("max_new_tokens", "max_length", "return_dict_in_generate", "disable_compile")
# Meaningless unless drawing; a checkpoint's own values would only bring warnings.
_NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "top_k": 50}


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """The settled settings."""

    config: Any
    """A transformers ``GenerationConfig``."""
    max_new_tokens: int
    eos_ids: frozenset[int]
    """The tokens that end a response without being part of it. The pad's id is none of them:
    `generate` itself says which rows it fills up."""
    samples: bool
    """Whether tokens are drawn at random."""
    stops_at_text: bool
    """Whether there are stop strings, for which ``generate`` needs the tokenizer."""

    @property
    def settings(self) -> dict[str, Any]:
        """What is really used, for the run's record: everything but the library's defaults."""
        found: dict[str, Any] = self.config.to_diff_dict()
        for name in ("transformers_version", "_from_model_config", "disable_compile"):
            found.pop(name, None)
        for name in () if self.samples else _NEUTRAL:
            found.pop(name, None)
        return {
            "max_new_tokens": self.max_new_tokens,
            "do_sample": self.samples,
            **{name: value for name, value in sorted(found.items())},
        }


def settle(
    model: Any, pad_id: int, max_new_tokens: int, options: Mapping[str, Any] | None = None
) -> Generation | None:
    """Return how to generate, or None where nothing is to be generated.

    The checkpoint's generation settings hold, except that nothing is drawn at random and
    there is one beam; ``options`` go before both.

    Raises:
        UsageError: options that hooks could not follow, or that ``generate`` does not know.
        ModelError: the model cannot generate.
    """
    if not generates(max_new_tokens, options):
        return None
    if not hasattr(model, "generate") or not getattr(model, "can_generate", lambda: True)():
        raise ModelError(
            f"{type(model).__name__} cannot generate: capture it with max_new_tokens=0"
        )
    return settle_config(model.generation_config, pad_id, max_new_tokens, options)


def generates(max_new_tokens: int, options: Mapping[str, Any] | None) -> bool:
    """Say whether anything is to be generated.

    Raises:
        UsageError: a negative number, or options without generation.
    """
    if max_new_tokens < 0:
        raise UsageError(f"max_new_tokens {max_new_tokens}: 0 for no generation, or more")
    if max_new_tokens == 0 and options:
        raise UsageError(
            f"generation options ({', '.join(options)}) without generation: give max_new_tokens"
        )
    return max_new_tokens > 0


def settle_config(
    defaults: Any, pad_id: int, max_new_tokens: int, options: Mapping[str, Any] | None = None
) -> Generation:
    """Return how to generate, from a checkpoint's ``GenerationConfig``; see :func:`settle`."""
    wanted = dict(options or {})
    _refuse(wanted)
    config = copy.deepcopy(defaults)
    config.update(do_sample=False, num_beams=1, num_return_sequences=1)
    unknown = config.update(**wanted)
    if unknown:
        raise UsageError(f"generation has no option {', '.join(unknown)}")
    for name in _UNFOLLOWED:
        if getattr(config, name, None) is not None:
            setattr(config, name, None)
    if not isinstance(config.do_sample, bool):
        raise UsageError(f"do_sample={config.do_sample}: expected true or false")
    if not config.do_sample:
        idle = [name for name in _NEUTRAL if wanted.get(name) not in (None, _NEUTRAL[name])]
        if idle:
            raise UsageError(
                f"{', '.join(idle)} changes nothing unless tokens are drawn at random: add "
                "do_sample=true"
            )
        config.update(**_NEUTRAL)
    config.update(max_new_tokens=max_new_tokens, disable_compile=True, max_length=None)
    config.return_dict_in_generate = False
    ends = config.eos_token_id
    eos = {
        int(number) for number in (ends if isinstance(ends, list) else [ends]) if number is not None
    }
    if config.pad_token_id is None:
        config.pad_token_id = min(eos) if eos else pad_id
    return Generation(
        config=config,
        max_new_tokens=max_new_tokens,
        eos_ids=frozenset(eos),
        samples=bool(config.do_sample),
        stops_at_text=bool(config.stop_strings),
    )


def unfollowed(setting: Callable[[str], Any]) -> str | None:
    """Say why hooks could not follow a generation; None where they could.

    Args:
        setting: gives the value of a generation setting by its name, None where it has none.
    """
    for name in _SINGLE:
        if (setting(name) or 1) != 1:
            return f"{name}={setting(name)}: {_SEVERAL}"
    for name, reason in _UNFOLLOWED.items():
        if setting(name) not in _WITHOUT_EFFECT.get(name, (None, False)):
            return f"{name} cannot be captured: {reason}"
    return None


def _refuse(wanted: Mapping[str, Any]) -> None:
    reason = unfollowed(wanted.get)
    if reason is not None:
        other = "capture with one, and again with another seed under another data set's name"
        raise UsageError(f"{reason}; {other}" if _SEVERAL in reason else reason)
    own = [name for name in _OWN if name in wanted]
    if own:
        raise UsageError(f"generation option {', '.join(own)} is capture's own to set")


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Draw from ``seed`` within the block, and leave the generators as they were."""
    devices = [device] if device.type not in ("cpu", "mps", "meta") else []
    kind = device.type if devices else "cuda"
    with torch.random.fork_rng(devices=devices, device_type=kind):
        torch.manual_seed(seed)
        yield
