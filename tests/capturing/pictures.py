"""Small image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def picture(folder: Path, name: str, *, seed: int = 0, size: tuple[int, int] = (8, 6)) -> Path:
    """Write a noisy image of ``size`` (width, height) and return its path."""
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path = folder / name
    Image.fromarray(pixels).save(path)
    return path
