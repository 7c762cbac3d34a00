"""The model of `actstore capture`: which one its options mean, and how it is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from actstore import schema
from actstore.commands import capture_parts as parts
from actstore.commands.capture_options import listed, named_values

if TYPE_CHECKING:
    from actstore.capturing.run.provenance import Identity
    from actstore.models.loading import LoadedModel


def layers(options: Mapping[str, Any], loading: Any) -> tuple[Any, int | None]:
    """Say which layers are meant, and how many blocks are loaded if not all."""
    return _lowest(options, loading) if options["lower_blocks_only"] else (options["layers"], None)


def loaded(
    options: Mapping[str, Any], loading: Any, needed: int | None
) -> tuple[Any, Any, str, str | None, Mapping[str, Any]]:
    """Return model, processor, name, commit, and how it was loaded."""
    if options["engine"] == "vllm":
        from actstore.capturing.serving import loading as serving

        served = serving.load(
            options["model"],
            revision=options["revision"],
            dtype=options["dtype"],
            trust_remote_code=options["trust_remote_code"],
            options=named_values(options["engine_option"], "--engine-option"),
        )
        text = served.text
        return served, text.tokenizer, text.name, text.revision, served.settings
    found: LoadedModel = loading.load(options["model"], **loading_options(options, needed))
    return found.model, found.processor, found.name, found.revision, found.settings


def refuse_unserved(options: Mapping[str, Any]) -> None:
    """Refuse options of a model in transformers before vLLM, which takes a while, is loaded."""
    from actstore.capturing.run.options import CaptureSettings
    from actstore.capturing.run.parts import check_served_options
    from actstore.capturing.serving.loading import check_options

    reasons = {
        "device": "vLLM takes the accelerator that it sees (CUDA_VISIBLE_DEVICES)",
        "device_map": "vLLM runs on one GPU here",
        "attn": "vLLM has attention of its own",
        "lower_blocks_only": "vLLM loads the whole model",
    }
    for name, reason in reasons.items():
        if options[name]:
            raise click.BadParameter(
                f"not with --engine vllm: {reason}; use --engine local for it",
                param_hint=f"--{name.replace('_', '-')}",
            )
    check_options(named_values(options["engine_option"], "--engine-option"))
    check_served_options(
        CaptureSettings(
            sites=listed(options["sites"]),
            pool=listed(options["pool"]),
            blocks=options["blocks"],
            padding_side=options["padding_side"],
        )
    )


def loading_options(options: Mapping[str, Any], needed: int | None) -> dict[str, Any]:
    """Return how the model is loaded."""
    return {
        "revision": options["revision"],
        "dtype": options["dtype"],
        "device": options["device"] or _device(options),
        "device_map": _device_map(options["device_map"]),
        "attn": _attention(options),
        "layers_needed": needed,
        "generate": options["max_new_tokens"] > 0,
        "trust_remote_code": options["trust_remote_code"],
    }


def meant(options: Mapping[str, Any], needed: int | None) -> tuple[Identity, dict[str, Any]]:
    """Return which model is meant, and how it would be loaded, without loading it."""
    from actstore.capturing.run.provenance import identify
    from actstore.models import loading

    commit = loading.commit_of(options["model"], options["revision"])
    spread = _device_map(options["device_map"])
    return identify(None, options["model_name"] or options["model"], commit), {
        "dtype": options["dtype"],
        "attn": _attention(options),
        "device_map": str(spread) if spread is not None else None,
        "layers_loaded": needed,
        "trust_remote_code": options["trust_remote_code"],
    }


def _device(options: Mapping[str, Any]) -> str | None:
    """Return the device of a process that shares its machine with others of the capture."""
    if options["world_size"] is None or options["device_map"] is not None:
        return None
    return parts.own_device()


def _lowest(options: Mapping[str, Any], loading: Any) -> tuple[list[int], int]:
    from actstore.models.blocks import parse_layers

    if options["max_new_tokens"] > 0 or "final_norm" in listed(options["sites"]):
        raise click.BadParameter(
            "generation and final_norm need all blocks", param_hint="--lower-blocks-only"
        )
    count = loading.block_count(
        options["model"],
        revision=options["revision"],
        trust_remote_code=options["trust_remote_code"],
    )
    if count is None:
        raise click.BadParameter(
            "the model's configuration does not say how many blocks there are",
            param_hint="--lower-blocks-only",
        )
    layers = parse_layers(options["layers"], count)
    return layers, max(layers) + 1


def _attention(options: Mapping[str, Any]) -> str | None:
    """Say which attention implementation is loaded: only eager attention shows its patterns."""
    named: str | None = options["attn"]
    if not any(
        schema.canonical_site(site)[0] == "attn_pattern" for site in listed(options["sites"])
    ):
        return named
    if named not in (None, "eager"):
        raise click.BadParameter(
            f"site attn_pattern needs eager attention, since {named} never computes the pattern "
            "as such: leave --attn out",
            param_hint="--attn",
        )
    return "eager"


def _device_map(text: str | None) -> Any:
    if text is None or not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as problem:
        raise click.BadParameter(f"not JSON: {problem}", param_hint="--device-map") from None
