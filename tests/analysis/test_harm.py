"""What a smaller type costs: nothing where nothing is lost, a signal where one is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actstore.analysis import harm
from actstore.errors import HarmError
from actstore.ingestion.memory import write
from actstore.querying.reader import open_reader
from actstore.storage import converting

ROWS, WIDTH = 120, 16


def stored(root: Path, *layers: np.ndarray, labels: list[str] | None = None) -> Path:
    rows = {"example_id": [f"e{row}" for row in range(len(layers[0]))]}
    metadata = rows if labels is None else {**rows, "label": labels}
    write(root, {("resid_post", n): each for n, each in enumerate(layers)}, metadata, model="m")
    return root


def signal(seed: int, strength: float, scale: float = 1.0) -> tuple[np.ndarray, list[str]]:
    """Return noise with a class in its first dimension."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, ROWS)
    vectors = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    vectors[:, 0] = strength * truth + scale * vectors[:, 0]
    return vectors, [f"c{value}" for value in truth]


def test_where_nothing_is_rounded_nothing_changes(tmp_path: Path) -> None:
    """float32 that hold float16: exactly no error and exactly the same AUROC, in every draw."""
    for seed in range(3):
        vectors, labels = signal(seed, 1.0)
        vectors = vectors.astype(np.float16).astype(np.float32)
        with open_reader(stored(tmp_path / f"s{seed}", vectors, labels=labels)) as store:
            found = harm.measure(store, "compact16")
        (place,) = found.places
        assert (place.relative_error, place.greatest_error) == (0, 0)
        assert (place.cosine, place.lowest_cosine) == (1, 1)
        assert place.score == "AUROC"
        assert place.before is not None
        assert 0.6 < place.before < 0.95
        assert place.change == 0
        assert found.bytes_after * 2 == found.bytes_before == 4 * ROWS * WIDTH
        harm.check(found, 0, asked=True)


def test_a_signal_below_the_step_is_lost_and_reported(tmp_path: Path) -> None:
    """Beside a value of 1,000 the step is 7.9: a class that is worth 1 is gone, the cosine is 1."""
    vectors, labels = signal(0, 1.0, scale=0.2)
    vectors[:, 1:] *= 0.01
    lost = vectors.copy()
    lost[:, 5] = 1000
    with open_reader(stored(tmp_path / "s", vectors, lost, labels=labels)) as store:
        found = harm.measure(store, "int8")
    kept, gone = found.places
    assert kept.before is not None
    assert gone.before is not None
    assert min(kept.before, gone.before) > 0.97
    assert kept.change is not None
    assert abs(kept.change) < 0.01
    assert gone.after is not None
    assert gone.after < 0.6
    assert gone.lowest_cosine > 0.999
    assert found.worst is gone
    with pytest.raises(HarmError, match=r"layer 1 of resid_post .* nothing was converted"):
        harm.check(found, 0.005, asked=False)
    harm.check(found, 0.6, asked=True)


def test_vectors_that_become_zero_have_lost_their_direction(tmp_path: Path) -> None:
    """Below 2^-25 nothing is left in float16: beside larger rows only the cosine can tell."""
    vectors, _ = signal(0, 1.0)
    vectors[:30] *= 1e-9
    vectors[30:40] = 0
    with open_reader(stored(tmp_path / "s", vectors)) as store:
        (place,) = harm.measure(store, "compact16").places
    assert place.lowest_cosine == 0
    assert place.cosine == pytest.approx(80 / 110, abs=1e-6)
    assert place.relative_error < 1e-3


def test_halves_are_measured_as_int8_hands_them_out(tmp_path: Path) -> None:
    """As float32: what is left of a half, rounded to a half again, is another number."""
    vectors = np.random.default_rng(0).standard_normal((40, WIDTH)).astype(np.float16)
    root = stored(tmp_path / "s", vectors)
    with open_reader(root) as store:
        found = harm.measure(store, "int8")
        converting.convert(store.select().snapshot, "int8")
    with open_reader(root) as store:
        left = store.select().numpy().astype(np.float64)
    gap = vectors.astype(np.float64) - left
    (place,) = found.places
    assert place.greatest_error == np.abs(gap).max()
    assert place.relative_error == pytest.approx(
        np.linalg.norm(gap) / np.linalg.norm(vectors.astype(np.float64)), rel=1e-12
    )


def test_rows_that_stay_are_counted_in_the_bytes(tmp_path: Path) -> None:
    vectors, _ = signal(0, 1.0)
    vectors[:50, 0] = 1e6
    root = stored(tmp_path / "s", vectors)
    with open_reader(root) as store:
        found = harm.measure(store, "compact16")
        converting.convert(store.select().snapshot, "compact16")
    with open_reader(root) as store:
        shards = store.select().snapshot.shards
    assert found.bytes_after == sum(each.vector_bytes for each in shards) == 170 * 2 * WIDTH


def test_rounding_noise_moves_a_probe_as_much_as_noise_of_its_size_may(tmp_path: Path) -> None:
    """int8 of Gaussian rows: errors of about 1 % of a value, AUROCs that hardly move."""
    changes = []
    for seed in range(4):
        vectors, labels = signal(seed, 1.0)
        with open_reader(stored(tmp_path / f"s{seed}", vectors, labels=labels)) as store:
            (place,) = harm.measure(store, "int8").places
        assert 1e-3 < place.relative_error < 1e-2
        assert place.lowest_cosine > 0.9998
        assert place.change is not None
        changes.append(place.change)
    assert max(map(abs, changes)) < 0.01


@pytest.mark.parametrize(
    ("labels", "score"),
    [
        ([f"c{row % 3}" for row in range(ROWS)], "macro AUROC"),
        (None, None),
        (["one"] * ROWS, None),
    ],
)
def test_labels_of_every_kind(tmp_path: Path, labels: list[str] | None, score: str | None) -> None:
    with open_reader(stored(tmp_path / "s", signal(0, 1.0)[0], labels=labels)) as store:
        found = harm.measure(store, "int8")
    assert found.places[0].score == score
    if score is None:
        assert found.worst is None
        assert "no probe of m" in found.notes[0]
        harm.check(found, 0.005, asked=False)
        with pytest.raises(HarmError, match="cannot be held: no probe could be trained"):
            harm.check(found, 0.005, asked=True)


def test_errors_are_those_of_what_is_read_back(tmp_path: Path) -> None:
    """Against a direct computation, with a row of zeros and one that does not fit."""
    vectors = signal(1, 0.0)[0]
    vectors[3] = 0
    vectors[4, 0] = 1e6
    with open_reader(stored(tmp_path / "s", vectors)) as store:
        (place,) = harm.measure(store, "compact16").places
    now = vectors.astype(np.float64)
    keep = np.arange(ROWS) != 4
    now[keep] = vectors[keep].astype(np.float16)
    gap = now - vectors
    assert place.greatest_error == np.abs(gap).max()
    total = np.sqrt((gap**2).sum() / (vectors.astype(np.float64) ** 2).sum())
    assert place.relative_error == pytest.approx(total)
    assert place.rows == ROWS
