"""What is recorded about a capture, and which of these settings decide the values."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from actstore.errors import UsageError
from actstore.models.blocks import PATTERN, Anatomy, HookPoint, adds_residual
from actstore.models.identity import weights_digest
from actstore.models.interventions import interventions
from actstore.storage.manifest import Run, now

KIND = "capture"
_PACKAGES = ("actstore", "torch", "transformers", "tokenizers", "accelerate", "numpy", "pillow")
_SNAPSHOT = re.compile(r"models--(?P<name>.+?)/snapshots/(?P<revision>[0-9a-f]{7,40})")
# Of a configuration: where it came from, not what it computes.
_VOLATILE = {
    "_name_or_path", "name_or_path", "transformers_version", "_commit_hash", "torch_dtype", "dtype",
    "architectures", "_attn_implementation", "_attn_implementation_autoset", "use_cache",
    "gguf_file",
}  # fmt: skip
_PROMPT = 20_000


class Identity(NamedTuple):
    """What a model is called in the store."""

    name: str
    revision: str | None


def identify(model: nn.Module | None, name: str | None, revision: str | None) -> Identity:
    """Return the model's name and commit; of a folder no more than its own name.

    Raises:
        UsageError: the model was made in memory and nobody says what it is called.
    """
    config: Any = getattr(model, "config", None)
    packed = getattr(getattr(config, "quantization_config", None), "gguf_file", None)
    found = name or str(
        (packed and Path(packed).name) or getattr(config, "_name_or_path", "") or ""
    )
    if not found:
        raise UsageError(
            f"the {type(model).__name__} has no name: say what the store shall call it, "
            "model_name='…'"
        )
    revision = revision or getattr(config, "_commit_hash", None)
    snapshot = _SNAPSHOT.search(PurePath(found).as_posix())
    if snapshot:
        return Identity(snapshot["name"].replace("--", "/", 1), revision or snapshot["revision"])
    return Identity(without_folders(found), revision)


def without_folders(name: str) -> str:
    """Return the name of a model's folder alone; ``ORG/NAME`` stays as it is.

    A push publishes the name, and the folders above it are nobody's business.
    """
    path = Path(name)
    if path.is_absolute():
        return path.name
    if name.startswith((".", "~")):
        return path.expanduser().resolve().name
    return path.name if len(path.parts) > 2 else name


def describe_model(anatomy: Anatomy) -> dict[str, Any]:
    """Return what the model is: class, hashes of configuration and weights, type, attention.

    Where there are any, also hooks that others put on it, and the adapters that are on.
    """
    model = anatomy.model
    config: Any = getattr(model, "config", None)
    return {
        "architecture": type(model).__name__,
        "config_sha256": _digest(_plain_config(config)),
        "weights_sha256": weights_digest(model),
        "dtype": _type_name(getattr(model, "dtype", None)),
        "attention": getattr(config, "_attn_implementation", None),
        "blocks": anatomy.blocks_path,
        "quantization": type(getattr(config, "quantization_config", None)).__name__
        if getattr(config, "quantization_config", None) is not None
        else None,
        **interventions(model),
    }


def describe_tokenizer(tokenizer: Any) -> str | None:
    """Return a hash of everything the tokenizer does; None if it cannot be had."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    try:
        text = backend.to_str() if backend is not None else _json(tokenizer.get_vocab())
    except Exception:  # tokenizers in Python hold their rules in code
        return None
    document = json.loads(text)
    if isinstance(document, dict):
        # Set by whoever called the tokenizer last.
        document.pop("padding", None)
        document.pop("truncation", None)
    return _digest(document)


def describe_processor(processor: Any) -> str | None:
    """Return a hash of how pictures are prepared (sizes, means …); None if it cannot be had."""
    try:
        document = json.loads(processor.to_json_string())
    except Exception:  # a processor of somebody's own
        return None
    images = type(getattr(processor, "image_processor", None)).__name__  # Pillow's or torchvision's
    return _digest([images, _without(document)])


def describe_device(model: nn.Module) -> dict[str, Any]:
    """Return what the model runs on."""
    found: dict[str, Any] = {}
    spread: Any = getattr(model, "hf_device_map", None)
    kinds = sorted({str(parameter.device) for parameter in model.parameters()} - {"meta"})
    found["device"] = ", ".join(kinds) or "meta"
    if torch.cuda.is_available() and any(kind.startswith("cuda") for kind in kinds):
        found["device_name"] = torch.cuda.get_device_name()
    if spread and len(set(map(str, spread.values()))) > 1:
        found["device_map"] = {str(path): str(place) for path, place in spread.items()}
    return found


def hook_paths(points: Sequence[HookPoint]) -> dict[str, list[str]]:
    """Return where each site was taken: dotted paths, the block's number as ``{layer}``."""
    found: dict[str, dict[str, None]] = {}
    for point in points:
        path = point.path
        if point.layer is not None and point.layer >= 0:
            path = re.sub(rf"(?<=\.){point.layer}(?=\.|$)", "{layer}", path, count=1)
        found.setdefault(point.site, {})[f"{path} ({point.take})"] = None
    return {site: list(paths) for site, paths in found.items()}


def head_shapes(points: Sequence[HookPoint]) -> dict[str, Any]:
    """Return, as ``shapes``, by site and layer what vectors by head are reshaped to.

    Nothing where there are none: settings of other runs are what they were.
    """
    found: dict[str, dict[str, list[int]]] = {}
    for point in points:
        if point.shape is not None:
            found.setdefault(point.site, {})[str(point.layer)] = list(point.shape)
    return {"shapes": found} if found else {}


def pattern_length(settings: Mapping[str, Any]) -> int | None:
    """Return how many keys the attention patterns of a run have; None where it took none."""
    shapes = settings.get("shapes", {}).get(PATTERN, {}).values()
    return next((int(keys) for _, keys in shapes), None)


def corrected_sites(anatomy: Anatomy, points: Sequence[HookPoint]) -> dict[str, Any]:
    """Return, as ``corrected``, which sites were not taken where their module ends, and why.

    Nothing where there is none: settings of other models are what they were.
    """
    found: dict[str, str] = {}
    for point in points:
        holder, _, name = point.path.rpartition(".")
        if point.site in ("attn_out", "mlp_out") and adds_residual(
            anatomy.model.get_submodule(holder)
        ):
            word = holder.rpartition(".")[2]
            found[point.site] = f"taken at {name}: {word} returns its sum with the residual stream"
    return {"corrected": found} if found else {}


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as a run's record keeps them."""
    found: dict[str, Any] = json.loads(_json(values))
    return found


def fingerprint(values: Mapping[str, Any]) -> str:
    """Return a hash of everything that decides the values of a run."""
    return _digest(values)


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return the names of settings that differ, each with both values, for a message."""
    found = []
    for name in sorted({*ours, *theirs}):
        one, other = theirs.get(name), ours.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += [f"{name} {each}" for each in differences(other, one)]
        elif one != other:
            found.append(f"{name} {_short(one)} → {_short(other)}")
    return found


def new_run(settings: Mapping[str, Any]) -> Run:
    """Return the record of a run that begins now."""
    return Run(
        run_id=f"{KIND}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}",
        kind=KIND,
        started_at=now(),
        settings={name: value for name, value in settings.items() if value is not None},
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that touch the values."""
    return dict(_versions())


@cache
def _versions() -> Mapping[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def shown_prompt(text: str) -> str:
    """Return a rendered prompt as it is kept; of a very long one the beginning and the end."""
    if len(text) <= _PROMPT:
        return text
    half = _PROMPT // 2
    return f"{text[:half]}…[{len(text) - _PROMPT} characters]…{text[-half:]}"


def _plain_config(config: Any) -> Any:
    if config is None:
        return None
    return _without(config.to_dict())


def _without(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _without(v) for k, v in value.items() if k not in _VOLATILE}
    if isinstance(value, list | tuple):
        return [_without(each) for each in value]
    return value


def _digest(value: Any) -> str:
    return hashlib.sha256(_json(value).encode()).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=_word)


def _word(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return str(value)


def _type_name(dtype: Any) -> str | None:
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else _json(value)
    if re.fullmatch(r"[0-9a-f]{40,}", text):
        return text[:8]
    return text if len(text) <= 40 else f"{text[:39]}…"
