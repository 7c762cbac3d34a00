"""A checkpoint's weights by its files: other weights, names or shapes have another hash."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from actstore.models.identity import checkpoint_digest, weights_digest


def saved(folder: Path, **tensors: torch.Tensor) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_weights_are_told_apart_by_value_name_and_size(tmp_path: Path) -> None:
    one, two = torch.arange(600.0).reshape(20, 30), torch.ones(7).to(torch.bfloat16)
    found = {
        "same": checkpoint_digest(saved(tmp_path / "a", one=one, two=two)),
        "value": checkpoint_digest(saved(tmp_path / "b", one=one, two=two * 2)),
        "name": checkpoint_digest(saved(tmp_path / "c", one=one, other=two)),
        "size": checkpoint_digest(saved(tmp_path / "d", one=one, two=two[:6])),
    }
    assert len(set(found.values())) == 4
    assert None not in found.values()
    assert checkpoint_digest(saved(tmp_path / "e", two=two, one=one)) == found["same"]


def test_without_such_files_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert checkpoint_digest(tmp_path) is None


def test_loaded_weights_are_told_apart_by_value_name_and_size() -> None:
    def digest(**tensors: torch.Tensor) -> str | None:
        return weights_digest(nn.ParameterDict(tensors))

    one, nothing = torch.arange(600.0).reshape(20, 30), torch.ones(0)
    found = [
        digest(one=one, two=nothing),
        digest(one=one * 2, two=nothing),
        digest(other=one, two=nothing),
        digest(one=one[:19], two=nothing),
        digest(one=one.T.contiguous(), two=nothing),
    ]
    assert None not in found
    assert len(set(found)) == 5
    assert digest(one=one.clone(), two=nothing) == found[0]


def test_weights_that_lie_another_way_round_are_told_apart() -> None:
    one = torch.arange(600.0).reshape(30, 20)
    found = weights_digest(nn.ParameterDict({"one": one.T}))
    assert found == weights_digest(nn.ParameterDict({"one": one.T.contiguous()}))
    assert found != weights_digest(nn.ParameterDict({"one": 2 * one.T}))


def test_what_a_checkpoint_holds_beside_parameters_is_told_apart() -> None:
    """Biases of routers, and packed weights, are buffers."""

    def digest(bias: float, scratch: float) -> str | None:
        model = nn.Sequential(nn.Linear(1, 1))
        for parameter in model.parameters():
            nn.init.ones_(parameter)
        model[0].register_buffer("route", torch.full((2,), bias))
        model[0].register_buffer("scratch", torch.full((2,), scratch), persistent=False)
        return weights_digest(model)

    assert digest(1, 1) == digest(1, 2)
    assert digest(1, 1) != digest(2, 1)


def test_weights_that_are_not_here_have_no_digest() -> None:
    assert weights_digest(nn.Linear(2, 3, device="meta")) is None
