"""What changes a model's values beside its weights: somebody's hooks, adapters that are on."""

from __future__ import annotations

import dis
import hashlib
import inspect
from collections.abc import Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

_OWN = ("torch", "transformers", "accelerate", "peft")
"""Whose hooks move tensors about or look at them: they belong to how a model runs."""
_CAPTURE = ("actstore.capturing.", "actstore.models.wrappers")
_DEPTH = 3
_PASSED_OVER = (nn.Module, type, ModuleType, RemovableHandle, list, dict, set)
"""What is told by its kind alone: hooks that only look on collect in lists and dicts."""
_NUMBERS = (bool, int, float, complex, str, bytes, torch.Tensor, np.ndarray, np.generic)


def interventions(model: nn.Module) -> dict[str, Any]:
    """Return, as ``interventions`` and ``adapters``, what the weights do not say of the values.

    Nothing where there is none: settings of other models are what they were. A hook, or what was
    put in place of a module's own ``forward``, is told by its place, its code and the numbers and
    tensors it holds.
    """
    hooks: list[str] = []
    adapters: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        for kind, found in (
            ("before", module._forward_pre_hooks),
            ("after", module._forward_hooks),
        ):
            hooks += [f"{path or 'model'} {kind}: {_told(each)}" for each in _others(found)]
        own = {0: module.__dict__["forward"]} if "forward" in module.__dict__ else {}
        hooks += [f"{path or 'model'} in place: {_told(each)}" for each in _others(own)]
        told = _adapters_of(module)
        if told is not None:
            adapters.setdefault(told, []).append(path)
    found = {"interventions": hooks} if hooks else {}
    if adapters:
        on = {how: _digest(repr(paths).encode()) for how, paths in adapters.items()}
        found["adapters"] = [f"{how} in {paths}" for how, paths in sorted(on.items())]
    return found


def hooks_around(given: nn.Module, run: nn.Module) -> list[str]:
    """Return, told likewise, the hooks that change what a module is given, if all of it is called.

    Args:
        given: a model with whatever stands around it.
        run: the module inside that is called instead.
    """
    place = next((path for path, module in given.named_modules() if module is run), "")
    above = [place[:at] for at, mark in enumerate(place) if mark == "."]
    return [
        f"{path or type(given).__name__} before: {_told(hook)}"
        for path in (["", *above] if place else [])
        for hook in _others(given.get_submodule(path)._forward_pre_hooks)
    ]


def _others(hooks: Mapping[int, Any]) -> Iterator[Any]:
    for hook in hooks.values():
        home = str(getattr(_function(hook), "__module__", ""))
        if home.partition(".")[0] not in _OWN and not home.startswith(_CAPTURE):
            yield hook


def _function(hook: Any) -> Any:
    """Return the function that runs: of a partial one, a method, an object that can be called."""
    while isinstance(hook, partial):
        hook = hook.func
    hook = getattr(hook, "__func__", hook)
    return hook if inspect.isfunction(hook) else type(hook).__call__


def _told(hook: Any) -> str:
    name = getattr(_function(hook), "__qualname__", type(hook).__name__)
    return f"{name.rpartition('.<locals>.')[2]} {_digest(_held(hook, _DEPTH))}"


def _held(value: Any, depth: int) -> bytes:
    """Return what decides what a hook does, as far as it can be seen; the same in every process."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value).encode()
    if isinstance(value, torch.Tensor):
        if value.device.type == "meta":
            return repr(tuple(value.shape)).encode()
        value = value.detach().float().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.kind in "biufc":
            return f"{array.dtype}{array.shape}".encode() + array.tobytes()
    kind = type(value).__qualname__.encode()
    if depth == 0 or isinstance(value, _PASSED_OVER):
        return kind
    if isinstance(value, tuple):
        return kind + b"".join(_held(each, depth - 1) for each in value)
    if isinstance(value, partial):
        parts: list[Any] = [value.func, *value.args, *value.keywords.values()]
        return kind + b"".join(_held(each, depth - 1) for each in parts)
    if inspect.ismethod(value):
        return _of_function(value.__func__, depth) + _of_object(value.__self__, value, depth)
    if inspect.isfunction(value):
        return _of_function(value, depth)
    run = _function(value)
    code = _of_function(run, depth) if inspect.isfunction(run) else b""
    return kind + code + _of_object(value, run, depth)


def _of_object(value: Any, run: Any, depth: int) -> bytes:
    if isinstance(value, nn.Module):  # its weights are told apart, and its mode does not matter
        return b""
    own = getattr(value, "__dict__", {})
    code = getattr(run, "__code__", None)
    seen = _written(code) if code is not None else set()
    return b"|".join(_held(each, depth - 1) for name, each in own.items() if name not in seen)


def _written(code: Any) -> set[str]:
    """Return the names that code gives values to: what a hook has counted or seen."""
    stores = ("STORE_ATTR", "STORE_DEREF", "STORE_GLOBAL")
    return {str(each.argval) for each in dis.get_instructions(code) if each.opname in stores}


def _of_function(function: Any, depth: int) -> bytes:
    code = function.__code__
    constants = [each for each in code.co_consts if not inspect.iscode(each)]
    held = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    seen = _written(code)
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        if name in seen:
            continue
        try:
            held.append(cell.cell_contents)
        except ValueError:  # not yet filled
            continue
    names = function.__globals__
    used = [name for name in code.co_names if name not in seen]
    held += [names[name] for name in used if isinstance(names.get(name), _NUMBERS)]
    parts = [_held(each, depth - 1) for each in (*constants, *held)]
    return str(function.__qualname__).encode() + bytes(code.co_code) + b"|".join(parts)


def _adapters_of(module: nn.Module) -> str | None:
    """Return which of PEFT's adapters a layer adds, and how strongly; None of other modules."""
    active = getattr(module, "active_adapters", None)
    scaling = getattr(module, "scaling", None)
    if not isinstance(active, list | tuple) or not hasattr(module, "merged_adapters"):
        return None
    if getattr(module, "disable_adapters", False):
        return "none"
    weights = scaling if isinstance(scaling, dict) else {}
    return ", ".join(
        f"{name} * {weights[name]:g}" if isinstance(weights.get(name), int | float) else str(name)
        for name in active
    )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
