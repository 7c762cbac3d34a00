"""A loop of one's own is told, in its first call, of sites that are not what their names say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import actstore
from actstore.errors import HookError
from actstore.models import blocks
from tests.capturing import families, odd_families
from tests.ingestion.storing import stored_rows

IDS = torch.tensor([[1, 20, 21, 22, 30], [1, 25, 26, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def recorder(model: Any, store: Path, *sites: str) -> Any:
    return actstore.record(
        model, store, layers="all", sites=sites, pool="prompt.last", model_name="tiny"
    )


@pytest.mark.parametrize(("name", "site"), [("bloom", "attn_out"), ("mpt", "mlp_out")])
@pytest.mark.parametrize("generates", [False, True])
def test_a_module_that_returns_the_stream_is_refused_in_the_first_call(
    name: str, site: str, generates: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As modules of unknown models are that take the residual under another name."""
    monkeypatch.setattr(blocks, "own_part", lambda block, path: path)
    model = odd_families.build(name)

    def answer() -> None:
        with recording.example(id=["a", "b"]):
            if generates:
                model.generate(input_ids=IDS, attention_mask=MASK, max_new_tokens=2)
            else:
                model(input_ids=IDS, attention_mask=MASK)

    with recorder(model, tmp_path / "s", "resid_post", site) as recording:
        for _ in range(2):  # not the first time only
            with pytest.raises(HookError, match=rf"{site} of layer 0 .*Leave {site} out"):
                answer()
    assert recording.summary.rows_written == 0
    assert not any(module._forward_hooks for module in model.modules())


def test_a_second_mlp_is_refused_in_the_first_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "several_mlps", lambda block: [])
    model = odd_families.build("granitemoeshared")
    with (
        recorder(model, tmp_path / "s", "mlp_out") as recording,
        pytest.raises(HookError, match="adds shared_mlp beside block_sparse_moe"),
        recording.example(id=["a", "b"]),
    ):
        model(input_ids=IDS, attention_mask=MASK)


def steered(block: Any, states: Any, output: Any) -> Any:
    return (output[0] + 3.0, *output[1:]) if isinstance(output, tuple) else output + 3.0


def ablated(module: Any, states: Any, output: Any) -> Any:
    return output * 0


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "lfm2_moe", "gpt2", "bloom"])
@pytest.mark.parametrize("change", [None, "steered", "ablated", "training"])
def test_loops_that_change_the_model_on_purpose_are_left_alone(
    name: str, change: str | None, tmp_path: Path
) -> None:
    source: Any = odd_families if name in odd_families.ODD else families
    model = source.build(name)
    anatomy = blocks.find(model)
    (point,) = blocks.points(anatomy, ["mlp_out"], [1])
    if change == "steered":
        anatomy.blocks[1].register_forward_hook(steered)
    model.train(change == "training")
    with recorder(model, tmp_path / "s", "resid_post", "mlp_out") as recording:
        if change == "ablated":
            point.module.register_forward_hook(ablated)
        with recording.example(id=["a", "b"]):
            model(input_ids=IDS, attention_mask=MASK)
        with recording.example(id=["c", "d"]):
            model(input_ids=IDS, attention_mask=MASK)
    assert len(stored_rows(tmp_path / "s")) == 4 * 2 * families.BLOCKS
