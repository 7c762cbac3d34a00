"""What the record of a capture says of it: all that decides its values, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actstore.capturing.run import provenance
from actstore.capturing.run.options import CaptureSettings
from actstore.capturing.run.parts import Parts
from actstore.capturing.run.pieces import Part
from actstore.capturing.run.provenance import Identity


def settings_of(
    parts: Parts,
    identity: Identity,
    options: CaptureSettings,
    *,
    part: Part | None,
    window: int,
) -> Mapping[str, Any]:
    """Return the settings of a run, its ``fingerprint`` among them.

    Args:
        parts: the model and what is made of it.
        identity: what the store calls the model.
        options: as they were given.
        part: of a capture in pieces, what this one does of it.
        window: examples that are looked at together.
    """
    points = parts.engine.points
    values = _values(parts, identity, options)
    settings: dict[str, Any] = {
        "model": identity.name,
        "revision": identity.revision,
        "dataset": options.dataset,
        "sites": sorted({point.site for point in points}),
        "layers": parts.layers,
        "pool": [pool.text for pool in options.pools],
        "batch_size": options.examples_at_once,
        "window": window,
        "max_new_tokens": options.max_new_tokens,
        "exclude": sorted(options.excluded),
        "padding_side": parts.engine.padding_side,
        "grade": options.grade,
        **provenance.describe_device(parts.anatomy.model),
        **parts.settings,
    }
    if part is not None:
        settings["part"] = part.as_dict()
    continues = {
        **settings,
        "seed": options.seed,
        "values": values,
        "versions": {name: provenance.versions().get(name) for name in ("torch", "transformers")},
    }
    return {
        **settings,
        **(options.settings or {}),
        "hooks": provenance.hook_paths(points),
        **provenance.head_shapes(points),
        # With these, means without special tokens can be made of stored tokens later.
        "special_ids": parts.prompter.known_ids["special_ids"],
        "fingerprint": provenance.fingerprint(values),
        "continues": provenance.fingerprint(continues),
        "values": values,
        # With these, what is stored is found without the model.
        "asked": provenance.plain(options.asked),
        "block_count": len(parts.anatomy.blocks),
    }


def _values(parts: Parts, identity: Identity, options: CaptureSettings) -> dict[str, Any]:
    """Return everything that decides the values, for the fingerprint."""
    generation = parts.generation
    found = provenance.describe_model(parts.anatomy)
    found |= parts.prompter.settings
    found["tokenizer_sha256"] = provenance.describe_tokenizer(parts.prompter.tokenizer)
    if parts.prompter.sees:
        found["processor_sha256"] = provenance.describe_processor(parts.prompter.processor)
    found["exclude"] = sorted(options.excluded)
    found["generation"] = generation.settings if generation else None
    found["seed"] = options.seed if generation and generation.samples else None
    found["storage_dtype"] = options.storage_dtype
    found |= provenance.corrected_sites(parts.anatomy, parts.engine.points)
    found |= parts.values
    if found["weights_sha256"] is None:  # weights on disk: nothing better than the commit
        found["revision"] = identity.revision
    return found
