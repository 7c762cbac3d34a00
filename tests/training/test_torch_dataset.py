"""The torch data set: the same batches for any number of workers, saved and resumed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

import actstore
from actstore.api.selection import Selection
from actstore.errors import MismatchError, TooFewRowsError, UsageError
from actstore.training.torch_dataset import SelectionDataset
from tests.querying import stores

SIZE = 16


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Selection]:
    root = tmp_path_factory.mktemp("module") / "s"
    stores.layered(root, rows=50)
    with actstore.open(root) as store:
        yield store.select(layer=[0, 1, 2])


def _dataset(selection: Selection, **more: Any) -> SelectionDataset:
    return selection.torch_dataset(SIZE, **{"shuffle": True, "seed": 3, **more})


def _loader(dataset: SelectionDataset, workers: int, **more: Any) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=None, num_workers=workers, **more)


def _ids(items: Iterable[Any]) -> list[list[int]]:
    return [item["row_id"].tolist() for item in items]


def _plain(selection: Selection, **more: Any) -> list[list[int]]:
    batches = selection.batches(SIZE, shuffle=True, seed=3, columns=["row_id"], **more)
    return [batch.table["row_id"].to_pylist() for batch in batches]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_any_number_of_workers_gives_the_same_batches(selection: Selection, workers: int) -> None:
    everything = selection.numpy()
    dataset = _dataset(selection)
    assert len(dataset) == 10
    items = list(_loader(dataset, workers))
    assert _ids(items) == _plain(selection)
    for item in items:
        assert item["activation"].dtype is torch.float16
        assert np.array_equal(item["activation"].numpy(), everything[item["row_id"].numpy()])


def test_what_a_spawned_worker_is_sent_is_small(selection: Selection) -> None:
    assert len(pickle.dumps(_dataset(selection))) < 20_000


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_goes_on_after_any_batch(selection: Selection, workers: int) -> None:
    dataset = _dataset(selection)
    states = [json.loads(json.dumps(dataset.state_after(item))) for item in dataset]
    for taken in (1, 4, 10):
        again = _dataset(selection, state=states[taken - 1])
        assert _ids(_loader(again, workers)) == _plain(selection)[taken:]


def test_a_state_after_a_batch_from_workers_counts_what_was_taken(selection: Selection) -> None:
    dataset = _dataset(selection)
    items = iter(_loader(dataset, 2, prefetch_factor=4))
    taken = [next(items) for _ in range(3)]
    again = _dataset(selection)
    again.load_state_dict(dataset.state_after(taken[-1]))
    assert _ids(taken) + _ids(_loader(again, 2)) == _plain(selection)


def test_each_pass_has_an_order_of_its_own(selection: Selection) -> None:
    dataset = _dataset(selection)
    loader = _loader(dataset, 2, persistent_workers=True)
    passes = []
    for epoch in (0, 1, 1):
        dataset.set_epoch(epoch)
        passes.append(_ids(loader))
    assert passes[0] == _plain(selection)
    assert passes[1] == passes[2] == _plain(selection, epoch=1)
    assert passes[0] != passes[1]


def test_a_state_is_for_the_pass_it_was_saved_in(selection: Selection) -> None:
    dataset = _dataset(selection)
    dataset.set_epoch(2)
    item = next(iter(dataset))
    again = _dataset(selection, state=dataset.state_after(item))
    assert _ids(again) == _plain(selection, epoch=2)[1:]
    again.set_epoch(3)
    assert _ids(again) == _plain(selection, epoch=3)


def test_passes_without_end(selection: Selection) -> None:
    dataset = _dataset(selection, epochs=None)
    items = iter(_loader(dataset, 2))
    taken = [next(items) for _ in range(12)]
    assert _ids(taken) == [*_plain(selection), *_plain(selection, epoch=1)][:12]
    again = iter(_dataset(selection, epochs=None, state=dataset.state_after(taken[-1])))
    assert next(again)["row_id"].tolist() == _plain(selection, epoch=1)[2]
    with pytest.raises(TypeError, match="no length"):
        len(dataset)


def test_what_torchdata_asks_of_a_data_set(selection: Selection) -> None:
    """Its StatefulDataLoader saves state_dict() after a batch and loads it before iterating."""
    dataset = _dataset(selection)
    items = iter(dataset)
    unbegun = dataset.state_dict()
    begun = [next(items) for _ in range(4)]
    again = _dataset(selection)
    again.load_state_dict(dataset.state_dict())
    assert again.state_dict() == dataset.state_dict()
    assert _ids(begun) + _ids(again) == _plain(selection)
    again.load_state_dict(unbegun)
    assert _ids(again) == _plain(selection)


def test_workers_of_a_copy_hear_of_the_next_pass(selection: Selection) -> None:
    dataset = pickle.loads(pickle.dumps(_dataset(selection)))
    loader = _loader(dataset, 2, persistent_workers=True)
    assert _ids(loader) == _plain(selection)
    dataset.set_epoch(1)
    assert _ids(loader) == _plain(selection, epoch=1)


@pytest.mark.parametrize(("context", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_that_outlive_a_pass_hear_of_a_state(
    selection: Selection, context: str, workers: int
) -> None:
    """A spawned one opens the store itself."""
    dataset = _dataset(selection)
    loader = _loader(dataset, workers, persistent_workers=True, multiprocessing_context=context)
    items = list(loader)
    assert _ids(items) == _plain(selection)
    dataset.load_state_dict(dataset.state_after(items[3]))
    assert _ids(loader) == _plain(selection)[4:]
    dataset.set_epoch(1)
    assert _ids(loader) == _plain(selection, epoch=1)
    dataset.load_state_dict(dataset.state_after(items[-2]))  # a batch knows its pass
    assert _ids(loader) == _plain(selection)[-1:]


def test_a_state_at_the_end_of_a_pass_does_not_undo_the_next_one(selection: Selection) -> None:
    """torchdata's loader loads states when it is iterated, so after set_epoch."""
    dataset = _dataset(selection)
    items = list(dataset)
    for state in (dataset.state_dict(), dataset.state_after(items[-1])):
        again = _dataset(selection)
        again.set_epoch(1)
        again.load_state_dict(state)
        assert _ids(again) == _plain(selection, epoch=1)
        again.set_epoch(0)
        again.load_state_dict(state)
        assert _ids(again) == []


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.filterwarnings("ignore")  # torchdata's own
def test_torchdata_goes_on_with_the_next_pass(
    selection: Selection, workers: int, persistent: bool
) -> None:
    options = {"num_workers": workers, "persistent_workers": persistent and workers > 0}
    loader = StatefulDataLoader(_dataset(selection), batch_size=None, **options)
    assert _ids(loader) == _plain(selection)
    state = loader.state_dict()
    dataset = _dataset(selection)
    again = StatefulDataLoader(dataset, batch_size=None, **options)
    again.load_state_dict(state)
    for epoch in (1, 2):
        dataset.set_epoch(epoch)
        assert _ids(again) == _plain(selection, epoch=epoch)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore")  # torchdata's own
def test_torchdata_resumes(selection: Selection, workers: int) -> None:
    for taken in (0, 1, 5):
        loader = StatefulDataLoader(_dataset(selection), batch_size=None, num_workers=workers)
        items = iter(loader)
        for _ in range(taken):
            next(items)
        state = loader.state_dict()
        again = StatefulDataLoader(_dataset(selection), batch_size=None, num_workers=workers)
        again.load_state_dict(state)
        assert _ids(again) == _plain(selection)[taken:]


def test_columns_come_as_tensors_and_lists(selection: Selection) -> None:
    item = next(iter(_dataset(selection, columns=["label", "layer", "norm", "position"])))
    table = selection.take(item["row_id"].numpy()).table()
    assert item["label"] == table["label"].to_pylist()
    assert item["layer"].tolist() == table["layer"].to_pylist()
    assert item["norm"].dtype is torch.float32
    assert item["position"] == [None] * SIZE


@pytest.mark.parametrize("workers", [0, 2])
def test_a_column_with_a_null_is_a_list_in_every_batch(tmp_path: Path, workers: int) -> None:
    ones = np.ones((40, 4), np.float32)
    stores.add(tmp_path / "s", ones, position=[None, *range(39)], token_id=[*range(40)])
    with actstore.open(tmp_path / "s") as store:
        dataset = store.select().torch_dataset(8, columns=["position", "token_id"])
        kinds = [(type(i["position"]), type(i["token_id"])) for i in _loader(dataset, workers)]
    assert kinds == [(list, torch.Tensor)] * 5


def test_normalisation_is_computed_before_there_are_workers(selection: Selection) -> None:
    items = list(_loader(_dataset(selection, normalise="mean-norm"), 2))
    vectors = torch.cat([item["activation"] for item in items])
    assert vectors.dtype is torch.float32
    assert vectors.norm(dim=1).mean().item() == pytest.approx(8**0.5, rel=1e-5)


def test_ranks_share_the_rows(selection: Selection) -> None:
    rows = [
        row
        for rank in range(2)
        for part in _ids(_loader(_dataset(selection, rank=rank, world_size=2), 2))
        for row in part
    ]
    assert sorted(rows) == list(range(150))


def test_errors_come_before_any_worker(selection: Selection) -> None:
    with pytest.raises(UsageError, match="shufle"):
        selection.torch_dataset(SIZE, shufle=True)  # type: ignore[call-arg]
    with pytest.raises(TooFewRowsError, match="nothing was selected"):
        _dataset(selection[:0])
    dataset = _dataset(selection)
    with pytest.raises(UsageError, match="no state"):
        dataset.load_state_dict({"step": 1})
    with pytest.raises(UsageError, match="-1"):
        dataset.set_epoch(-1)
    with pytest.raises(MismatchError, match="other rows"):
        _dataset(selection[:-1], state=dataset.state_dict())
