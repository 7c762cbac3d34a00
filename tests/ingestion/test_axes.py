"""The meaning of axes, pooling, and cutting large tensors into pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from actstore.errors import LayoutError
from actstore.ingestion import axes
from actstore.ingestion.axes import Grid, blocks, interpret, limited, pooled
from actstore.ingestion.tensor import Tensor

ALL = {
    1: ("hidden",),
    2: ("batch", "hidden"),
    3: ("example", "token", "hidden"),
    4: ("example", "batch", "token", "hidden"),
}


def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    count = int(np.prod(shape))
    return Tensor(torch.arange(count, dtype=torch.float32).reshape(shape).to(dtype))


@pytest.mark.parametrize(
    ("shape", "rows", "tokens", "view"),
    [
        ((5,), {}, None, (5,)),
        ((1, 5), {}, None, (5,)),
        ((2, 3, 5), {"example": 2}, 3, (2, 3, 5)),
        ((2, 1, 5), {"example": 2}, None, (2, 5)),
        ((2, 1, 3, 5), {"example": 2}, 3, (2, 3, 5)),
        ((2, 1, 1, 5), {"example": 2}, None, (2, 5)),
    ],
)
def test_ranks(shape: tuple[int, ...], rows: Any, tokens: Any, view: tuple[int, ...]) -> None:
    grid = interpret(tensor(*shape), ALL)
    assert (dict(grid.rows), grid.tokens, grid.width) == (rows, tokens, 5)
    assert grid.tensor.shape == view


def test_one_token_may_stay_a_token() -> None:
    grid = interpret(tensor(2, 1, 5), ALL, squeeze=False)
    assert (grid.tokens, grid.tensor.shape) == (1, (2, 1, 5))


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((2, 5), r"shape \[2, 5\]: the batch axis must be 1, got 2"),
        ((2, 2, 3, 5), "the batch axis must be 1"),
        ((1, 1, 1, 1, 5), r"expected \[hidden\], \[batch, hidden\]"),
        ((0, 3, 5), "holds no values"),
        ((0,), "holds no values"),
    ],
)
def test_what_does_not_fit(shape: tuple[int, ...], reason: str) -> None:
    with pytest.raises(LayoutError, match=reason):
        interpret(tensor(*shape), ALL)


def together(grid: Grid, **options: Any) -> tuple[np.ndarray, list[Any], list[Any]]:
    found = list(blocks(grid, **options))
    positions = [each for block in found for each in block.positions or []]
    counts = [each for block in found for each in block.counts or []]
    return np.concatenate([block.vectors for block in found]), positions, counts


def test_every_token() -> None:
    source = tensor(2, 3, 5)
    vectors, positions, counts = together(interpret(source, ALL))
    assert np.array_equal(vectors, source.numpy().reshape(6, 5))
    assert (positions, counts) == ([0, 1, 2, 0, 1, 2], [])


def test_a_mask_leaves_tokens_out() -> None:
    source = tensor(2, 3, 5)
    mask = np.array([[False, True, True], [True, False, True]])
    vectors, positions, _ = together(interpret(source, ALL), mask=mask)
    assert np.array_equal(vectors, source.numpy()[mask])
    assert positions == [1, 2, 0, 2]


@pytest.mark.parametrize("pool", ["first", "last", "max", "mean"])
@pytest.mark.parametrize("masked", [False, True])
def test_pooling(pool: Any, masked: bool) -> None:
    values = np.random.default_rng(3).standard_normal((4, 6, 8)).astype(np.float16)
    mask = np.random.default_rng(4).random((4, 6)) > 0.4
    mask[:, 2] = True
    grid = Grid(Tensor(values), {"example": 4}, 6, 8)
    vectors, positions, counts = together(grid, pool=pool, mask=mask if masked else None)
    kept = mask if masked else np.ones((4, 6), bool)
    for row in range(4):
        tokens = values[row][kept[row]]
        expected = {
            "first": tokens[0],
            "last": tokens[-1],
            "max": tokens.max(axis=0),
            "mean": tokens.astype(np.float32).mean(axis=0),
        }[pool]
        assert vectors.dtype == expected.dtype
        assert np.allclose(vectors[row], expected, rtol=1e-6, atol=1e-7)
        if pool != "mean":
            assert vectors[row].tobytes() == expected.tobytes()
    assert positions == []
    assert counts == kept.sum(axis=1).tolist()


def test_the_mean_is_not_accumulated_in_float16() -> None:
    values = np.full((1, 4096, 2), 60000, np.float16)
    assert np.array_equal(pooled(values, "mean"), np.full((1, 2), values[0, 0, 0], np.float32))


@pytest.mark.parametrize("masked", [False, True])
def test_the_mean_of_thousands_of_tokens_keeps_its_digits(masked: bool) -> None:
    drawn = np.random.default_rng(0).standard_normal((2, 3000, 4))
    slab = (1000.3 + 0.01 * drawn).astype(np.float32)
    found = pooled(slab, "mean", np.ones((2, 3000), bool) if masked else None)
    assert found.dtype == np.float32
    assert found == pytest.approx(slab.mean(axis=1, dtype=np.float64), rel=1e-7)


def test_a_row_without_tokens_cannot_be_pooled() -> None:
    grid = Grid(tensor(2, 3, 4), {"example": 2}, 3, 4)
    mask = np.array([[True, True, True], [False, False, False]])
    with pytest.raises(LayoutError, match="row 1: the mask leaves no token"):
        list(blocks(grid, pool="mean", mask=mask))


@pytest.mark.parametrize(
    "meaning",
    [
        ("example", "hidden"),
        ("example", "token", "hidden"),
        ("layer", "example", "token", "hidden"),
        ("example", "layer", "hidden"),
        ("token", "hidden"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [1, 64, 200, 1 << 20])
def test_pieces_put_together_are_the_whole(
    meaning: tuple[str, ...], dtype: torch.dtype, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(axes, "CHUNK_BYTES", size)
    lengths = {"example": 5, "layer": 3, "token": 4, "hidden": 6}
    source = tensor(*(lengths[name] for name in meaning), dtype=dtype)
    grid = interpret(source, {len(meaning): meaning})
    found = list(blocks(grid))
    vectors = np.concatenate([block.vectors for block in found])
    assert np.array_equal(vectors, source.numpy().reshape(-1, 6))
    if size > 64:
        assert all(block.vectors.nbytes <= max(size, 24) for block in found)
    if "token" in meaning:
        positions = [each for block in found for each in block.positions or []]
        assert positions == list(range(4)) * (len(vectors) // 4)
    assert sum(block.rows for block in found if (block.positions or [0])[0] == 0) == grid.count


def test_the_first_examples() -> None:
    source = tensor(3, 5, 2)
    grid = interpret(source, {3: ("layer", "example", "hidden")})
    cut = limited(grid, "example", 2)
    assert dict(cut.rows) == {"layer": 3, "example": 2}
    assert np.array_equal(together(cut)[0], source.numpy()[:, :2].reshape(6, 2))
    assert limited(grid, "example", 9) is grid
    assert limited(grid, "token", 1) is grid


def test_views_are_not_copied_whole() -> None:
    storage = torch.zeros(1000, 64)
    grid = interpret(Tensor(storage[999:]), {2: ("example", "hidden")})
    (block,) = blocks(grid)
    assert block.vectors.nbytes == 64 * 4


@pytest.mark.parametrize(
    ("meaning", "order"),
    [
        (("token", "example", "hidden"), (1, 0, 2)),
        (("token", "layer", "hidden"), (1, 0, 2)),
        (("layer", "token", "example", "hidden"), (0, 2, 1, 3)),
    ],
)
def test_tokens_may_come_before_rows(meaning: tuple[str, ...], order: tuple[int, ...]) -> None:
    values = tensor(*range(2, 2 + len(meaning)))
    grid = interpret(values, {len(meaning): meaning})
    expected = values.numpy().transpose(order)
    assert grid.tensor.shape == expected.shape
    assert grid.tokens == expected.shape[-2]
    found = np.concatenate([block.vectors for block in blocks(grid)])
    assert found.tolist() == expected.reshape(-1, grid.width).tolist()
    last = np.concatenate([block.vectors for block in blocks(grid, pool="last")])
    assert last.tolist() == expected[..., -1, :].reshape(-1, grid.width).tolist()
