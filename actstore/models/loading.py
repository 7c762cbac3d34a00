"""Loads a model with its tokenizer or processor, of whatever family transformers knows."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actstore.errors import (
    AccessError,
    MissingExtraError,
    ModelError,
    OfflineError,
    RepositoryNotFoundError,
    RevisionError,
    UsageError,
)
from actstore.models import gguf

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")
# Names under which configurations hold the number of blocks.
_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


_WANTED = re.compile(
    r"requires (?:the )?`?(?P<package>[A-Za-z][\w-]*)`?"
    r"(?: library but it was not found| to be installed)"
)
"""How transformers says that a package is missing, which processors of several families want."""
_PACKAGES = {"pil": "pillow"}
"""Packages that are installed by another name than transformers calls them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model, ready to be asked."""

    model: Any
    """The ``torch.nn.Module``, in evaluation mode."""
    processor: Any
    """The tokenizer of a text model, the processor of one that sees images."""
    name: str
    """What the model was called."""
    revision: str | None
    """The commit the files came from; None for a folder."""
    is_vlm: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What was asked for, for the run's record."""


def load(
    model_id: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    attn: str | None = None,
    layers_needed: int | None = None,
    generate: bool = False,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a causal language model or a vision-language model with what prepares its input.

    Args:
        model_id: a folder, an id on the Hub, or a GGUF file (or a folder with nothing but one),
            whose weights are unpacked; ``auto`` is float32 there.
        revision: branch, tag or commit on the Hub.
        dtype: ``auto`` keeps the checkpoint's own.
        device: such as ``cpu``, ``cuda`` or ``cuda:1``; by default the accelerator if there is
            one, else the CPU.
        device_map: how to spread the weights (needs accelerate); excludes ``device``.
        attn: attention implementation; by default the model's own choice.
        layers_needed: load only that many blocks, from the bottom. What they compute is the
            same bit for bit; not for generating.
        generate: whether the model must be able to generate.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        MissingExtraError: transformers (or Pillow, accelerate or gguf) is not installed.
        UsageError: options that exclude each other, or an unknown dtype or device.
        ModelError: no such model, a damaged file, or no decoder that can be asked.
        RepositoryNotFoundError, RevisionError, AccessError, OfflineError: the Hub's answer.
    """
    try:
        import torch
        import transformers
    except ImportError:
        raise MissingExtraError("capturing activations", "capture") from None
    _check(dtype, device, device_map, layers_needed, generate)
    name = str(model_id)
    common: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    file = gguf.find(name)
    header = gguf.check(file) if file is not None else None
    if header is not None:
        # The whole path, since a bare name would first be looked for where we are.
        name, common["gguf_file"] = str(header.path.parent), str(header.path.absolute())
    else:
        _check_place(name)
    commit = _commit(name, revision)
    if commit is not None or (revision is not None and not os.path.isdir(name)):
        # All files of one commit, even if the branch moves on meanwhile.
        common["revision"] = commit or revision
    shown = str(header.path) if header is not None else name

    def explained(action: Any) -> Any:
        return _explained(shown, action, header)

    config = explained(lambda: transformers.AutoConfig.from_pretrained(name, **common))
    model_class, is_vlm = _model_class(transformers, config, shown, text_only=header is not None)
    options: dict[str, Any] = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    if attn is not None:
        options["attn_implementation"] = attn
    if device_map is not None:
        options["device_map"] = device_map
    if layers_needed is not None:
        truncate(config, layers_needed, shown)
    processor = explained(lambda: _processor(transformers, name, common, is_vlm))
    with gguf.quiet_bar() if header is not None else nullcontext():
        model, told = explained(
            lambda: model_class.from_pretrained(
                name, config=config, output_loading_info=True, **options, **common
            )
        )
    if header is not None:
        gguf.check_loaded(header, told["missing_keys"])
    if device_map is None:
        model = _placed(model, device, torch)
    model.eval()
    if generate and not getattr(model, "can_generate", lambda: True)():
        raise ModelError(
            f"{shown}: {type(model).__name__} cannot generate; capture it with --max-new-tokens 0"
        )
    return LoadedModel(
        model=model,
        processor=processor,
        name=header.path.name if header is not None else name,
        revision=commit,
        is_vlm=is_vlm,
        settings={
            "dtype": dtype,
            "device": device,
            "device_map": str(device_map) if device_map is not None else None,
            "attn": attn,
            "revision": revision,
            "layers_loaded": layers_needed,
            "trust_remote_code": trust_remote_code,
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextModel:
    """What is known of a model of texts before its weights are read."""

    name: str
    revision: str | None
    """The commit on the Hub; None for a folder."""
    config: Any
    tokenizer: Any
    generation_config: Any
    """The checkpoint's ``GenerationConfig``."""

    @property
    def folder(self) -> Path:
        """Where its files are: the folder itself, or the commit in the Hub's cache."""
        if os.path.isdir(self.name):
            return Path(self.name)
        from transformers.utils import hub

        found = hub.cached_file(self.name, "config.json", revision=self.revision)
        return Path(str(found)).parent


def look_at_text_model(
    model_id: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> TextModel:
    """Read everything of a causal language model but its weights, for another engine to load.

    Raises:
        MissingExtraError: transformers is not installed.
        ModelError: no such model, one that sees images, or a GGUF file.
        RepositoryNotFoundError, RevisionError, AccessError, OfflineError: the Hub's answer.
    """
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("capturing activations", "capture") from None
    name = str(model_id)
    if gguf.find(name) is not None:
        raise ModelError(
            f"{name} is a GGUF file, whose weights are unpacked for transformers alone: capture it "
            "with --engine local"
        )
    _check_place(name)
    commit = _commit(name, revision)
    common: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if commit is not None:
        common["revision"] = commit

    def explained(action: Any) -> Any:
        return _explained(name, action)

    config = explained(lambda: transformers.AutoConfig.from_pretrained(name, **common))
    _, is_vlm = _model_class(transformers, config, name)
    if is_vlm:
        raise ModelError(
            f"{name} is a model that sees images: only models of texts alone are captured while "
            "they are served; use --engine local"
        )
    tokenizer = explained(lambda: _processor(transformers, name, common, False))
    try:
        defaults = transformers.GenerationConfig.from_pretrained(name, **common)
    except OSError:  # as models of transformers do it where there is no such file
        defaults = transformers.GenerationConfig.from_model_config(config)
    return TextModel(
        name=name,
        revision=commit,
        config=config,
        tokenizer=tokenizer,
        generation_config=defaults,
    )


def block_count(
    model_id: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> int | None:
    """Return how many blocks the model's configuration speaks of, or None if it does not say.

    Only the configuration is read.
    """
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("capturing activations", "capture") from None
    name = str(model_id)
    file = gguf.find(name)
    if file is not None:
        return gguf.check(file).blocks
    _check_place(name)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None and not os.path.isdir(name):
        options["revision"] = revision
    _commit(name, revision)
    config = _explained(name, lambda: transformers.AutoConfig.from_pretrained(name, **options))
    _, count = _counted(config)
    return count


def commit_of(model_id: str | Path, revision: str | None = None) -> str | None:
    """Return the commit on the Hub that a model would be loaded at; None for folder and file.

    Raises:
        ModelError: no such folder.
        RepositoryNotFoundError, RevisionError, AccessError, OfflineError: the Hub's answer.
    """
    name = str(model_id)
    if gguf.find(name) is not None:
        return None
    _check_place(name)
    return _commit(name, revision)


def _commit(name: str, revision: str | None) -> str | None:
    """Return the commit on the Hub that ``revision`` stands for; None for a folder."""
    if os.path.isdir(name):
        return None
    from transformers.utils import hub

    from actstore.remote import model_lookup

    def look_up() -> str | None:
        model_lookup.look(name, revision)
        path = hub.cached_file(name, "config.json", revision=revision)
        found = hub.extract_commit_hash(path, None)
        return str(found) if found is not None else None

    commit: str | None = _explained(name, look_up)
    return commit


def truncate(config: Any, layers: int, name: str) -> None:
    """Make ``config`` describe the lowest ``layers`` blocks only.

    Raises:
        ModelError: the configuration does not say how many blocks there are.
        UsageError: there are fewer.
    """
    found, count = _counted(config)
    if found is None or count is None:
        raise ModelError(
            f"{name}: cannot load a part of the model: its configuration has none of "
            f"{', '.join(_COUNTS)}"
        )
    if not 1 <= layers <= count:
        raise UsageError(f"{name} has {count} blocks; asked for the lowest {layers}")
    text = config.get_text_config(decoder=True)
    setattr(text, found, layers)
    # A list with one entry per block must keep to the same number.
    for listed in ("layer_types", "mlp_layer_types", "layers_block_type"):
        kinds = getattr(text, listed, None)
        if isinstance(kinds, list) and len(kinds) == count:
            setattr(text, listed, kinds[:layers])


def _counted(config: Any) -> tuple[str | None, int | None]:
    text = config.get_text_config(decoder=True)
    for name in _COUNTS:
        value = getattr(text, name, None)
        if isinstance(value, int):
            return name, value
    return None, None


def _check(
    dtype: str,
    device: str | None,
    device_map: object,
    layers_needed: int | None,
    generate: bool,
) -> None:
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r}: use one of {', '.join(DTYPES)}")
    if device is not None and device_map is not None:
        raise UsageError("device and device map exclude each other: give one of them")
    if layers_needed is not None and generate:
        raise UsageError("a model whose upper blocks are not loaded cannot generate")
    if device_map is not None and find_spec("accelerate") is None:
        raise MissingExtraError("spreading a model over devices", "capture")


def _check_place(name: str) -> None:
    """Tell a mistyped path from an id on the Hub, which transformers words the same way."""
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"{name}: the folder has no config.json and no .gguf file, so it holds no model"
            )
        return
    if path.is_file():
        raise ModelError(
            f"{name} is a file; expected a model's folder, a GGUF file, or an id on the Hub"
        )
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"{name}: no such folder")


def _model_class(
    transformers: Any, config: Any, name: str, *, text_only: bool = False
) -> tuple[Any, bool]:
    """Return the auto class that loads ``config``, and whether it may see images."""
    auto = transformers.models.auto.modeling_auto
    kind = config.model_type
    if text_only and kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return transformers.AutoModelForCausalLM, False
    if kind in auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES:
        return transformers.AutoModelForMultimodalLM, True
    remote = getattr(config, "auto_map", None) or {}
    for family in ("AutoModelForMultimodalLM", "AutoModelForImageTextToText"):
        if family in remote:
            return getattr(transformers, family), True
    if kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or "AutoModelForCausalLM" in remote:
        return transformers.AutoModelForCausalLM, False
    raise ModelError(
        f"{name}: models of type {kind!r} are neither causal language models nor "
        "vision-language models that transformers can load; encoders and encoder-decoders "
        "are not captured"
    )


def _processor(transformers: Any, name: str, common: Mapping[str, Any], is_vlm: bool) -> Any:
    if is_vlm:
        if find_spec("PIL") is None:
            raise MissingExtraError("models that see images", "capture")
        return _explained(name, lambda: transformers.AutoProcessor.from_pretrained(name, **common))
    return _explained(name, lambda: transformers.AutoTokenizer.from_pretrained(name, **common))


def _placed(model: Any, device: str | None, torch: Any) -> Any:
    chosen = device or default_device()
    try:
        return model.to(torch.device(chosen))
    except (RuntimeError, AssertionError) as problem:
        if isinstance(problem, torch.OutOfMemoryError):
            raise ModelError(
                f"the model does not fit into the memory of {chosen}; spread it with "
                "--device-map auto, or take a smaller --dtype"
            ) from None
        raise UsageError(f"device {chosen!r} cannot be used: {_line(problem)}") from None


def default_device() -> str:
    """Return the accelerator if this machine has one, else ``cpu``."""
    import torch

    found: torch.device | None = torch.accelerator.current_accelerator(check_available=True)
    return found.type if found is not None else "cpu"


def _explained(name: str, action: Any, header: gguf.Header | None = None) -> Any:
    """Run ``action``; what transformers and the Hub raise becomes one of our errors.

    The Hub client's errors are told by name: only ``hub/`` imports that client.
    """
    try:
        return action()
    except Exception as problem:
        for cause in _causes(problem):
            kinds = {each.__name__ for each in type(cause).__mro__}
            if "GatedRepoError" in kinds:
                raise AccessError(
                    f"{name} is gated: accept its terms on the Hub, then log in with `hf auth "
                    "login` or set HF_TOKEN"
                ) from None
            if "RevisionNotFoundError" in kinds:
                raise RevisionError(f"{name} has no such revision: {_line(cause)}") from None
            if "RepositoryNotFoundError" in kinds:
                raise RepositoryNotFoundError(
                    f"{name}: no such model on the Hub, or it is private and no token opens it; "
                    "a folder must exist on this machine"
                ) from None
            if kinds & {"OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError"}:
                raise OfflineError(
                    f"{name} is not in the cache and the Hub cannot be reached (or "
                    "HF_HUB_OFFLINE is set)"
                ) from None
        if header is not None:
            raise gguf.explain(problem, header) from problem
        if isinstance(problem, OSError | ValueError | ImportError | RuntimeError | KeyError):
            if "trust_remote_code" in str(problem):
                raise ModelError(
                    f"{name} brings Python code of its own, which is not run unless you trust it "
                    "(--trust-remote-code)"
                ) from None
            wanted = _WANTED.search(_line(problem))
            if wanted:
                package = wanted["package"].lower()
                package = _PACKAGES.get(package, package)
                raise ModelError(
                    f"{name} needs the package {package}, which is not installed: pip install "
                    f"{package}"
                ) from problem
            raise ModelError(f"{name} cannot be loaded: {_line(problem)}") from problem
        raise


def _causes(problem: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    at: BaseException | None = problem
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__ or at.__context__
    return found


def _line(problem: BaseException) -> str:
    """Return the message as one line, which on the Hub's errors spans many."""
    text = " ".join(str(problem).split())
    return text if len(text) <= 300 else f"{text[:299]}…"
