"""Pooling a prompt's states: runs on a CPU and masked pieces on a GPU give the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actstore.capturing.forward import prompt_pooling
from actstore.capturing.forward.pooling import parse_pools
from actstore.capturing.forward.prompt_pooling import PromptPlan


def plan(mask: torch.Tensor, excluded: torch.Tensor | None = None) -> PromptPlan:
    return PromptPlan({"prompt": mask}, excluded, parse_pools("prompt.mean,prompt.max,prompt.last"))


def gaps() -> torch.Tensor:
    """Return a mask with several runs, a whole row, a single token and an empty row."""
    mask = torch.rand(5, 23, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[1] = True
    mask[2] = False
    mask[3] = False
    mask[3, 7] = True
    return mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1 << 22, 5 * 8 * 3])
def test_runs_and_masked_pieces_agree_with_numpy(
    dtype: torch.dtype, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_pooling, "_CHUNK", size)
    mask = gaps()
    excluded = mask & (mask.cumsum(dim=1) == 2)
    states = torch.randn(5, 23, 8, generator=torch.Generator().manual_seed(2)).to(dtype)
    states[~mask] = torch.nan
    wanted = plan(mask, excluded)
    found = wanted.take(states)
    kept = mask & ~excluded
    exact = [states[row][kept[row]].double().numpy() for row in range(5)]
    sums = np.stack([rows.sum(axis=0) for rows in exact])
    maxima = np.stack([rows.max(axis=0, initial=-np.inf) for rows in exact])
    masked = kept[..., None]
    for pieces in (
        found,
        found._replace(
            sums=prompt_pooling._masked(states, masked, prompt_pooling._SUM)[None],
            maxima=prompt_pooling._masked(states, masked, prompt_pooling._MAX)[None],
        ),
    ):
        assert pieces.sums is not None
        assert pieces.maxima is not None
        assert pieces.sums.dtype == torch.float32
        assert pieces.maxima.dtype == dtype
        np.testing.assert_allclose(pieces.sums[0], sums, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(pieces.maxima[0].float(), maxima)


def test_picked_states_are_as_the_model_computed_them_and_no_views() -> None:
    mask = gaps()
    states = torch.randn(5, 23, 8).to(torch.bfloat16)
    found = plan(mask).take(states)
    lasts = [int(row.nonzero()[-1]) for row in mask if row.any()]
    rows = [row for row in range(5) if mask[row].any()]
    assert torch.equal(found.picked, states[rows, lasts])
    assert found.picked.untyped_storage().data_ptr() != states.untyped_storage().data_ptr()
    assert found.picked.untyped_storage().nbytes() == found.picked.nbytes


def test_the_end_of_everything_is_kept_in_case_no_response_comes() -> None:
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, :4] = False
    wanted = PromptPlan({"prompt": mask}, None, parse_pools("all.-3"))
    states = torch.arange(12.0).reshape(2, 6, 1)
    assert wanted.take(states).picked.flatten().tolist() == [3.0, 4.0, 5.0, 10.0, 11.0]
