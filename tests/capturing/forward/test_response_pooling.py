"""Sums that are made token by token: as exact after thousands of tokens as after a few."""

from __future__ import annotations

import numpy as np
import torch

from actstore.capturing.forward.pooling import parse_pools
from actstore.capturing.forward.response_pooling import Responses, needs


def test_the_mean_of_thousands_of_tokens_loses_nothing() -> None:
    steps, width = 4000, 8
    # As the largest values of a residual stream are: nearly the same for every token.
    states = torch.linspace(-300, 300, width) + 0.01 * torch.randn(
        (steps, width), generator=torch.Generator().manual_seed(0)
    )
    wanted = needs(parse_pools("response.mean"), frozenset({"prompt", "all"}))
    like = (torch.device("cpu"), torch.float32, width)
    kept = Responses(1, 1, like, wanted, np.zeros((0, 1), np.int64))
    real = torch.ones(1, dtype=torch.bool)
    for number, state in enumerate(states):
        kept.stage[0, 0] = state
        kept.add(real, real, torch.tensor([number]))
    sums = kept.states().sums
    assert sums is not None
    expected = states.double().mean(dim=0)
    np.testing.assert_allclose(sums[0, 0].float() / steps, expected, rtol=3e-7)
