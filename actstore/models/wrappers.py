"""What stands around a model: torch.compile, PEFT and data parallelism, taken off."""

from __future__ import annotations

from typing import Any

from torch import nn

from actstore.errors import ModelError


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside what torch.compile, PEFT and data parallelism put around it.

    Raises:
        ModelError: what PEFT put around it are learned prompts, which are not inside.
    """
    while True:
        inner = getattr(model, "_orig_mod", None)  # torch.compile
        if not isinstance(inner, nn.Module) and isinstance(
            model, nn.DataParallel | nn.parallel.DistributedDataParallel
        ):
            inner = model.module
        if not isinstance(inner, nn.Module) and hasattr(model, "peft_config"):
            _refuse_learned_prompts(model)
            inner = asked(model, "get_base_model")
        if not isinstance(inner, nn.Module) or inner is model:
            return model
        model = inner


def asked(model: nn.Module, method: str) -> nn.Module | None:
    """Call a getter of transformers that some models refuse to answer."""
    try:
        found = getattr(model, method)()
    except (AttributeError, NotImplementedError, TypeError):
        return None
    return found if isinstance(found, nn.Module) else None


def _refuse_learned_prompts(model: nn.Module) -> None:
    """Refuse what PEFT puts before the text, around a model: inside it nothing is to be seen.

    Raises:
        ModelError: names the kind.
    """
    config: Any = getattr(model, "active_peft_config", None)
    if getattr(config, "is_prompt_learning", False):
        raise ModelError(
            f"{type(model).__name__} has learned prompts ({type(config).__name__}): they are put "
            "before the text around the model, not inside it, and states without them are those of "
            "the model as it was; give its base model (get_base_model()) if these are meant"
        )
