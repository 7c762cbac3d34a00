"""What a capture works with: an engine for the model, and what is known of that model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from actstore import schema
from actstore.capturing.forward import generation as generations
from actstore.capturing.forward import grading
from actstore.capturing.forward.engine import Engine, context_length
from actstore.capturing.forward.generation import Generation
from actstore.capturing.prompts.encode import Prompter
from actstore.capturing.prompts.example import Example
from actstore.capturing.run.options import CaptureSettings
from actstore.capturing.selfcheck import check
from actstore.capturing.selfcheck.batch_check import shortened
from actstore.errors import ModelError, UsageError
from actstore.models.blocks import PATTERN, Anatomy, HookPoint, find, parse_layers, points
from actstore.models.identity import checkpoint_digest
from actstore.models.interventions import hooks_around

if TYPE_CHECKING:
    from actstore.capturing.serving.engine import ServingEngine
    from actstore.capturing.serving.loading import ServedModel

VLLM: Literal["vllm"] = "vllm"
MEASURED = (
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "LlamaForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
"""Models whose states in vLLM were held against transformers by our own tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """An engine, not yet entered, and its model."""

    engine: Engine | ServingEngine
    anatomy: Anatomy
    prompter: Prompter
    generation: Generation | None
    layers: list[int]
    context: int | None
    """Tokens that a prompt and all of its response but the last token may have."""
    dtype: str
    """What the model computes in; empty where it does not say."""
    check: Callable[[Sequence[Example]], dict[str, Any]]
    """The self-check on a few examples."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """What decides the values beside what transformers' model tells of itself."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What else the run's record says of the engine."""


def local(model: Any, processor: Any, options: CaptureSettings) -> Parts:
    """Return the parts for a model of transformers in this process.

    Raises:
        ModelError: hooks are on what stands around it, and would be left out in silence.
    """
    anatomy = find(model, blocks=options.blocks)
    prompter = _prompter(anatomy.model, processor, options)
    generation = generations.settle(
        anatomy.model, prompter.pad_id, options.max_new_tokens, options.generation or {}
    )
    run = anatomy.base if generation is None else anatomy.model
    left_out = hooks_around(model, run)
    if left_out:
        raise ModelError(
            f"{type(model).__name__} has hooks on what stands around its {type(run).__name__} "
            f"({', '.join(left_out)}), which a capture runs alone: put them on that, or remove them"
        )
    options.check(generates=generation is not None)
    layers, found = _places(anatomy, options)
    if options.has_patterns:
        prompter.keys = options.pattern_length
    engine = Engine(
        anatomy,
        prompter,
        found,
        options.pools,
        exclude=options.excluded,
        generation=generation,
        grader=grading.parse(options.grade) if options.grade else None,
        padding_side=None if options.padding_side == "auto" else options.padding_side,
        seed=options.seed,
    )
    return Parts(
        engine=engine,
        anatomy=anatomy,
        prompter=prompter,
        generation=generation,
        layers=layers,
        context=context_length(anatomy.model),
        dtype=str(getattr(anatomy.model, "dtype", "")).removeprefix("torch."),
        check=lambda examples: check.check(engine, examples),
    )


def served(model: ServedModel, options: CaptureSettings) -> Parts:
    """Return the parts for a model in vLLM.

    Raises:
        UsageError: options that this engine does not serve.
        ModelError: the model's states in vLLM were never measured, and shall not be checked.
    """
    from actstore.capturing.serving.engine import ServingEngine
    from actstore.capturing.serving.sampling import check_options

    check_served_options(options)
    name = type(model.model).__name__
    if not options.self_check and name not in MEASURED:
        raise ModelError(
            f"{name} was never held against transformers in vLLM, so its first rows must be: "
            f"leave the self-check on (measured are {', '.join(MEASURED)})"
        )
    anatomy = find(model.model)
    prompter = _prompter(anatomy.model, model.text.tokenizer, options)
    generation = (
        generations.settle_config(
            model.text.generation_config,
            prompter.pad_id,
            options.max_new_tokens,
            options.generation or {},
        )
        if generations.generates(options.max_new_tokens, options.generation)
        else None
    )
    options.check(generates=generation is not None)
    if generation is not None:
        check_options(generation.settings)
    layers, found = _places(anatomy, options)
    engine = ServingEngine(
        model,
        prompter,
        found,
        options.pools,
        exclude=options.excluded,
        generation=generation,
        grader=grading.parse(options.grade) if options.grade else None,
        seed=options.seed,
    )

    def checked(examples: Sequence[Example]) -> dict[str, Any]:
        few = shortened(generation)
        short = ServingEngine(
            model,
            prompter,
            found,
            options.pools,
            exclude=options.excluded,
            generation=few,
            seed=options.seed,
        )
        with short:
            captured = short.run(examples, range(len(examples)))
        loaded = model.reference()
        plain = local(
            loaded.model,
            loaded.processor,
            dataclasses.replace(options, generation=None, grade=None),
        )
        assert isinstance(plain.engine, Engine)
        return check.check_served(plain.engine, captured, few)

    return Parts(
        engine=engine,
        anatomy=anatomy,
        prompter=prompter,
        generation=generation,
        layers=layers,
        # vLLM writes a token even where none is asked for, and counts the last one.
        context=model.longest - 1,
        dtype=model.dtype,
        check=checked,
        values={
            "engine": VLLM,
            "dtype": model.dtype,
            "weights_sha256": checkpoint_digest(model.text.folder),
        },
        settings={
            "engine": {"name": VLLM, "version": model.version, "options": dict(model.options)}
        },
    )


def check_served_options(options: CaptureSettings) -> None:
    """Refuse what vLLM does not serve, before it loads anything.

    Raises:
        UsageError: names the option and what to do instead.
    """
    local_only = "use --engine local for it"
    if any(schema.canonical_site(name)[0] == PATTERN for name in options.site_names):
        raise UsageError(
            f"site {PATTERN}: vLLM's attention never computes its weights as such; {local_only}"
        )
    if options.blocks is not None:
        raise UsageError(
            f"blocks={options.blocks!r}: vLLM builds the model of modules of its own, whose blocks "
            f"it names itself; {local_only}"
        )
    if options.padding_side != "auto":
        raise UsageError(
            f"padding_side {options.padding_side!r}: vLLM pads nothing, leave it on auto"
        )
    if any(pool.region == "image" for pool in options.pools):
        raise UsageError(f"pools of images: vLLM is given texts alone here; {local_only}")


def _prompter(model: Any, processor: Any, options: CaptureSettings) -> Prompter:
    return Prompter(
        model,
        processor,
        chat_template=options.chat_template,
        system=options.system,
        template_options=options.template_options or {},
    )


def _places(anatomy: Anatomy, options: CaptureSettings) -> tuple[list[int], list[HookPoint]]:
    layers = parse_layers(options.layers, len(anatomy.blocks))
    found = points(anatomy, options.site_names, layers, pattern_length=options.pattern_length)
    return layers, found
