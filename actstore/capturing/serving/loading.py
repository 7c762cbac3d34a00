"""Loads a model into vLLM such that hooks see every step of it, and refuses what they could not.

vLLM runs in this process (``VLLM_ENABLE_V1_MULTIPROCESSING=0``): hooks are functions of ours,
which another process could not be given. There nothing is serialized, so vLLM's insecure
serialization (``VLLM_ALLOW_INSECURE_SERIALIZATION``) stays off. Code is not compiled
(``enforce_eager``): compiled code leaves hooks out.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from actstore.capturing.serving.schedule import Schedule
from actstore.errors import MissingExtraError, ModelError, UsageError
from actstore.models import loading
from actstore.models.loading import DTYPES, TextModel

OPTIONS = (
    "block_size", "cpu_offload_gb", "gpu_memory_utilization", "kv_cache_memory_bytes",
    "max_model_len", "max_num_batched_tokens", "max_num_seqs", "num_gpu_blocks_override",
)  # fmt: skip
"""What may be chosen: how much memory is used, and how much runs at once."""
_REFUSED = {
    "enable_prefix_caching": "tokens that come out of a cache are never computed, so their states "
    "are never seen",
    "enforce_eager": "compiled code leaves hooks out",
    "tensor_parallel_size": "each GPU would hold a part of every state, in a process of its own "
    "that hooks do not reach; use --engine local with --device-map auto, or one run per GPU over "
    "parts of the data",
    "pipeline_parallel_size": "each process would hold other layers, which hooks do not reach",
    "data_parallel_size": "each process would answer its own requests, which hooks do not reach",
    "speculative_config": "guessed tokens are computed and taken back",
    "async_scheduling": "a step would begin before it is known which texts are over",
    "dtype": "it is an option of its own, --dtype",
    "quantization": "weights in other types than the checkpoint's are another model",
    "kv_cache_dtype": "states computed from rounded keys and values are other states",
}
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # The runner whose batches we know how to read; the second one keeps them elsewhere.
    "VLLM_USE_V2_MODEL_RUNNER": "0",
}
_QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_LOGGING_STREAM": "ext://sys.stderr"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model inside vLLM, ready to be asked."""

    llm: Any
    """The ``vllm.LLM``."""
    model: nn.Module
    """Its model, in this process."""
    schedule: Schedule
    text: TextModel
    dtype: str
    version: str
    """Of vLLM."""
    longest: int
    """Tokens of a prompt and what is generated."""
    trust_remote_code: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What was asked for, for the run's record."""

    def reference(self) -> loading.LoadedModel:
        """Load the same model with transformers, on the CPU, to hold this one against it.

        With eager attention, which is what the model's authors wrote: Gemma 2 loses the cap of
        its attention's logits in transformers' default, and keeps it in vLLM.
        """
        return loading.load(
            self.text.name,
            revision=self.text.revision,
            dtype=self.dtype,
            device="cpu",
            attn="eager",
            trust_remote_code=self.trust_remote_code,
        )


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options of vLLM that hooks could not follow, or that change values.

    Raises:
        UsageError: names the option and the reason.
    """
    for name, value in options.items():
        if name in ("tensor_parallel_size", "pipeline_parallel_size") and value == 1:
            continue
        if name in _REFUSED:
            raise UsageError(f"engine option {name}={value} is refused: {_REFUSED[name]}")
        if name not in OPTIONS:
            raise UsageError(
                f"engine vllm has no option {name!r} here: it takes {', '.join(OPTIONS)}"
            )


def load(
    model_id: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    options: Mapping[str, Any] | None = None,
) -> ServedModel:
    """Load a causal language model into vLLM, in place of the one that was there before.

    Args:
        model_id: a folder, or an id on the Hub.
        revision: branch, tag or commit on the Hub.
        dtype: ``auto`` keeps the checkpoint's own, also where vLLM would take a smaller one.
        trust_remote_code: run Python code that comes with the model.
        options: of :data:`OPTIONS`, as vLLM has them.

    Raises:
        MissingExtraError: vLLM is not installed.
        UsageError: an option that hooks could not follow.
        ModelError: no such model, one that sees images, or vLLM cannot load it.
        RepositoryNotFoundError, RevisionError, AccessError, OfflineError: the Hub's answer.
    """
    chosen = dict(options or {})
    check_options(chosen)
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r}: use one of {', '.join(DTYPES)}")
    if find_spec("vllm") is None:
        raise MissingExtraError("engine vllm", "vllm")
    text = loading.look_at_text_model(
        model_id, revision=revision, trust_remote_code=trust_remote_code
    )
    kind = str(getattr(text.config, "dtype", None) or "float32").removeprefix("torch.")
    kind = kind if dtype == "auto" else dtype
    vllm = _imported()
    _close_latest()
    try:
        llm = vllm.LLM(
            model=text.name,
            revision=text.revision,
            tokenizer_revision=text.revision,
            dtype=kind,
            trust_remote_code=trust_remote_code,
            enforce_eager=True,
            enable_prefix_caching=False,
            async_scheduling=False,
            generation_config="vllm",  # every setting is ours to give
            disable_log_stats=True,
            **chosen,
        )
    except Exception as problem:
        raise ModelError(
            f"{text.name}: vLLM {vllm.__version__} cannot load it: {_line(problem)}; memory is set "
            "by --engine-option max_model_len=N, gpu_memory_utilization=F or "
            "kv_cache_memory_bytes=N (on a CPU, by VLLM_CPU_KVCACHE_SPACE in GiB)"
        ) from problem
    _LATEST[:] = [weakref.ref(llm)]
    models: list[nn.Module] = []
    llm.apply_model(models.append)
    runners: list[Any] = []
    llm.collective_rpc(lambda worker: runners.append(worker.model_runner))
    return ServedModel(
        llm=llm,
        model=models[0],
        schedule=Schedule(runners[0], vllm.__version__),
        text=text,
        dtype=kind,
        version=vllm.__version__,
        longest=int(llm.llm_engine.model_config.max_model_len),
        trust_remote_code=trust_remote_code,
        options=chosen,
        settings={
            "dtype": dtype,
            "device": None,
            "device_map": None,
            "attn": None,
            "revision": revision,
            "layers_loaded": None,
            "trust_remote_code": trust_remote_code,
        },
    )


_LATEST: list[weakref.ref[Any]] = []


def _close_latest() -> None:
    """End the engine that was loaded before: a process has one set of process groups.

    Left to itself it would end some time later, and take the groups of the new one with it.
    """
    for each in _LATEST:
        llm = each()
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()
    _LATEST.clear()


def _imported() -> Any:
    os.environ.update(_ENVIRONMENT)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
    except Exception as problem:  # whatever its many packages raise
        raise ModelError(
            f"vLLM is installed but cannot be imported: {_line(problem)}; torchvision, torchaudio "
            "and torchcodec of another build than torch are a known cause, and not needed: pip "
            "uninstall torchvision torchaudio torchcodec"
        ) from problem
    return vllm


def _line(problem: BaseException) -> str:
    text = " ".join(str(problem).split()) or type(problem).__name__
    return text if len(text) <= 300 else f"{text[:299]}…"
