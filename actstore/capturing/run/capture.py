"""Captures: a model, examples and a store in; rows, written while the model runs, out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from actstore.capturing.prompts.example import Example
from actstore.capturing.run import parts
from actstore.capturing.run.options import CaptureOptions, CaptureSettings, Source
from actstore.capturing.run.provenance import identify
from actstore.capturing.run.recall import recall
from actstore.capturing.run.session import Session
from actstore.capturing.run.summary import CaptureProgress, CaptureSummary
from actstore.errors import UsageError
from actstore.models import gguf
from actstore.models.wrappers import unwrap
from actstore.remote.bucket_address import is_bucket
from actstore.remote.working import working

if TYPE_CHECKING:
    import torch


def capture(
    model: Any,
    processor: Any,
    examples: Iterable[Example | Mapping[str, Any]],
    *,
    store: str | Path,
    progress: Callable[[CaptureProgress], None] | None = None,
    **options: Unpack[CaptureOptions],
) -> CaptureSummary:
    """Capture activations of ``model`` while it reads, and answers, ``examples``.

    Everything goes in one pass: hooks pool the states while the model runs, rows go to the
    store on a thread of their own, in the order of the examples. Whole windows of examples are
    committed now and then; a capture that was broken off goes on where it was when it is
    called again in the same way, and ends with the rows of an unbroken one, bit for bit.
    Where everything is stored already, the model does not run.

    Args:
        model: a decoder of transformers, text only or with images; on any device. None where
            everything that is asked is stored: ``model_name`` then says whose rows are meant.
            With ``engine="vllm"`` a folder or an id on the Hub, which vLLM loads.
        processor: its tokenizer, or its processor where it sees images; None with ``vllm``, which
            loads it too.
        examples: mappings with ``id``, ``question`` and more (the fields of
            :class:`~actstore.capturing.prompts.example.Example`), or a data set or data frame
            (pandas, Polars, Arrow) of such rows.
        store: folder of the store, made when missing, or its address in a bucket.
        progress: called after every batch.
        options: fields of :class:`~actstore.capturing.run.options.CaptureSettings`, which has
            their defaults; one by one:
        layers: ``all``, ``last``, ``0,6,12``, ``every-6``, ``0.25,0.5,0.75`` or numbers.
        sites: ``resid_post``, ``resid_pre``, ``mlp_in``, ``mlp_out``, ``attn_out``,
            ``head_out``, ``embeddings``, ``final_norm``, ``attn_pattern``, or a module's path
            inside the block.
        pool: REGION.POOL, such as ``prompt.last`` or ``response.mean``; see docs/capture.md.
        pattern_length: keys that a row of ``attn_pattern`` holds; longer prompts are refused.
        exclude: tokens that means and maxima leave out: ``bos``, ``special``.
        batch_size: examples at a time, or ``auto``: about 4,096 tokens, fewer if the device's
            memory runs out.
        max_new_tokens: how much the model may answer; 0 runs the prompt only, without head.
        generation: further options of ``generate``; nothing is drawn at random by default.
        seed: for drawing tokens (``generation={"do_sample": True}``).
        chat_template: True for the model's own, False for raw texts, or a template.
        system: system prompt of examples that have none of their own.
        template_options: variables for the template, such as ``{"enable_thinking": False}``.
        grade: ``exact``, ``contains``, ``choice``, ``number``, ``math``, ``regex:…`` or ``sql:…``:
            compares the answer with the oracle and sets ``label``; else the example's own label
            is kept.
        model_name: what the store calls the model; by default what it was loaded from.
        revision: the model's commit, where transformers does not know it.
        dataset: data set of the examples.
        first_k: only the first examples.
        blocks: dotted path of the list of blocks, where it is not found by itself.
        padding_side: of a run without generation; ``auto`` is right, where nothing depends on it.
        storage_dtype: None keeps single states of a float16 model in float16 and everything
            else in float32; ``float16`` and ``float32`` convert (to float16 with rounding);
            ``compact16`` (float16, but for rows that overflow) and ``int8`` round too and say
            in ``notes`` by how much.
        resume: go on with a run that was broken off, and leave out what is stored.
        allow_mixed: accept that the store has rows of the same model and data set that were made
            in another way.
        self_check: see :mod:`actstore.capturing.selfcheck.check`.
        strict: stop at the first example that cannot be captured, which else is refused, named
            in the summary, and passed over.
        rank: which of several processes this is, each of which captures its part of the same
            examples into the same store; see docs/many-machines.md.
        world_size: how many processes there are.
        piece: examples that stay together when they are divided; those of a window when missing.
        dry_run: store nothing; run two batches and estimate rows, bytes, memory and minutes.
        settings: whatever else the run's record should hold.
        engine: ``local`` runs ``model`` as it is, ``vllm`` captures while vLLM serves it (extra
            ``vllm``; see docs/vllm.md); ``actstore capture --engine`` has more.
        engine_options: of vLLM's memory and scheduling, such as ``{"max_model_len": 4096}``.

    Raises:
        UsageError: an argument cannot work.
        ModelError: blocks or sites are not found, or the device's memory runs out.
        ExampleError: there are no examples, one is no example, or (``strict``) is refused.
        SelfCheckError: the hooks do not see what the model computes.
        HookError: nor do they in the run itself.
        MixedRunError: the store has rows of this model and data set made in another way.
        DiskSpaceError: the disk cannot hold the rows.
        ConflictError: a row of the same key is stored with another vector, or its example was
            asked something else.
        NotInStoreError: there is no model, and the store has not all that is asked.
        CommitError: the store cannot be written.
        BucketError: the bucket cannot be read or written.
    """
    import torch

    chosen = CaptureSettings(**options)
    if chosen.engine not in ("local", "vllm"):
        raise UsageError(
            f"engine {chosen.engine!r} loads the model itself: use `actstore capture --engine "
            f"{chosen.engine}`, or leave it out for the model that is given"
        )
    source = Source(examples, chosen.first_k, chosen.part)
    if model is None and chosen.model_name is None:
        raise UsageError("without a model, say which one is meant: model_name='…'")
    local = chosen.engine == "local"
    if local and model is not None and not isinstance(model, torch.nn.Module):
        raise UsageError(f"model is a {type(model).__name__}; expected a loaded torch module")
    with working(store, dry=chosen.dry_run) as root:
        if model is None:
            identity = identify(None, chosen.model_name, chosen.revision)
            summary = recall(source, store=root, options=chosen, identity=identity)
        elif not local:
            summary = _served(model, source, root, chosen, progress).run()
        else:
            summary = session_of(
                model, processor, source, store=root, options=chosen, progress=progress
            ).run()
    if is_bucket(store) and summary.asked is not None:
        summary = replace(summary, asked=replace(summary.asked, store=str(store)))
    return summary


def session_of(
    model: torch.nn.Module,
    processor: Any,
    source: Source,
    *,
    store: Path,
    options: CaptureSettings,
    progress: Callable[[CaptureProgress], None] | None = None,
    committed: Callable[[int], None] | None = None,
    commit_seconds: float | None = None,
) -> Session:
    """Return the capture of a loaded model, ready to run.

    Args:
        model: as for :func:`capture`.
        processor: likewise.
        source: the examples.
        store: its folder.
        options: what the caller chose.
        progress: called after every batch.
        committed: called after every commit, with the number of pieces that are behind.
        commit_seconds: time between commits, instead of the usual one.
    """
    origin = gguf.origin(unwrap(model))
    notes: tuple[str, ...] = ()
    if origin is not None:
        notes = tuple(origin["notes"])
        options = replace(options, settings={"gguf": origin, **(options.settings or {})})
    return Session(
        parts.local(model, processor, options),
        source,
        store=store,
        options=options,
        identity=identify(unwrap(model), options.model_name, options.revision),
        progress=progress,
        committed=committed,
        commit_seconds=commit_seconds,
        notes=notes,
    )


def _served(
    model: Any,
    source: Source,
    store: Path,
    options: CaptureSettings,
    progress: Callable[[CaptureProgress], None] | None,
) -> Session:
    """Return the capture of a model that vLLM serves, ready to run."""
    from actstore.capturing.serving.loading import ServedModel, load

    parts.check_served_options(options)
    if isinstance(model, str | Path):
        model = load(model, revision=options.revision, options=options.engine_options)
    if not isinstance(model, ServedModel):
        raise UsageError(
            f"model is a {type(model).__name__}; with engine='vllm' it is a folder or an id on the "
            "Hub, which vLLM loads itself"
        )
    return Session(
        parts.served(model, options),
        source,
        store=store,
        options=options,
        identity=identify(
            None, options.model_name or model.text.name, options.revision or model.text.revision
        ),
        progress=progress,
    )
