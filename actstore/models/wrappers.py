"""What stands around a model: torch.compile, PEFT and data parallelism, taken off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from actstore.errors import HookError, ModelError


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


@contextmanager
def uncompiled(model: nn.Module, when: Callable[[], bool]) -> Iterator[None]:
    """Within the block, refuse calls of what torch.compile made of a model, while ``when`` says so.

    Code that was compiled before leaves out the hooks that are on the model inside; later code
    compiles them along.

    Raises:
        HookError: of such a call; says what to call instead.
    """

    def refuse(module: nn.Module, args: Any) -> None:
        if when():
            raise HookError(
                f"the compiled {type(unwrap(module)).__name__} was called, whose code may leave "
                "hooks out in silence: call the model that was compiled (its _orig_mod)"
            )

    compiled = [each for each in model.modules() if type(each).__name__ == "OptimizedModule"]
    handles = [each.register_forward_pre_hook(refuse) for each in compiled]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
