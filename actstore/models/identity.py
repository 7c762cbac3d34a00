"""Tells one model's weights from another's, by a checksum of each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from isal import isal_zlib
from safetensors import safe_open
from torch import nn

_SAMPLED = 16
_AT_ONCE = 256 << 20
"""Bytes that are brought from a device together."""


def weights_digest(model: nn.Module) -> str | None:
    """Return a hash of all weights: other ones, edited in place too, have another one.

    It is the same wherever the weights lie. None where that is on disk.
    """
    digest = hashlib.sha256()
    samples: list[torch.Tensor] = []
    with torch.no_grad():
        for name, weight in chain(model.named_parameters(), _kept_buffers(model)):
            if weight.device.type == "meta":
                return None
            digest.update(f"{name}{list(weight.shape)}".encode())
            if not weight.numel():
                continue
            flat = weight.detach().reshape(-1)
            samples.append(flat[:: max(1, len(flat) // _SAMPLED)][:_SAMPLED].float().cpu())
            digest.update(_checksum(flat))
    if samples:
        digest.update(torch.cat(samples).numpy().tobytes())
    return digest.hexdigest()


def _kept_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what a checkpoint holds beside parameters: routers' biases, packed weights."""
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(path, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                yield name, buffer


def checkpoint_digest(folder: Path) -> str | None:
    """Return such a hash of the weights in a folder's safetensors files; None if it has none.

    It is of the files, since an engine may keep the weights in another form than they came in.
    """
    digest = hashlib.sha256()
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        with safe_open(file, framework="pt") as weights:
            for name in sorted(weights.keys()):
                flat = weights.get_tensor(name).view(-1)
                digest.update(f"{name}{len(flat)}".encode())
                digest.update(_checksum(flat))
    return digest.hexdigest() if files else None


def _checksum(flat: torch.Tensor) -> bytes:
    """Return a CRC-32 of values' bytes; nothing of tensors whose bytes cannot be had."""
    crc = 0
    try:
        for part in torch.split(flat.view(torch.uint8), _AT_ONCE):
            crc = isal_zlib.crc32(part.cpu().numpy(), crc)
    except (NotImplementedError, RuntimeError, TypeError):  # of a kind that keeps them its own way
        return b""
    return crc.to_bytes(4, "little")
