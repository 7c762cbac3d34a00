"""The best rows: those of float64, ties in row order, whatever the kernels and the blocks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actstore.querying import ranking, rough_scores, vector_math
from actstore.storage import floats, kernels
from actstore.storage.snapshot import Snapshot, open_snapshot
from tests.querying import stores

WIDTH = 96


@pytest.fixture(autouse=True, params=["numkong", "NumPy"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernels, and as on a machine without them, in blocks of few rows."""
    if request.param == "NumPy":
        monkeypatch.setattr(kernels, "library", lambda: None)
    monkeypatch.setattr(ranking, "_READ", 100 * WIDTH)
    monkeypatch.setattr(ranking, "_SAMPLE", 50)
    monkeypatch.setattr(rough_scores, "_READ", 100 * WIDTH)
    monkeypatch.setattr(rough_scores, "_WIDENED", 30 * WIDTH)
    monkeypatch.setattr(rough_scores, "_DOUBLES", 30 * WIDTH)
    monkeypatch.setattr(rough_scores, "_SCORES", 500)
    monkeypatch.setattr(ranking, "_KEYS", 200)
    monkeypatch.setattr(ranking, "_GATHERED", 7 * WIDTH)


def opened(folder: Path, matrix: np.ndarray) -> Snapshot:
    stores.add(folder / "s", matrix)
    return open_snapshot(folder / "s")


def search(
    snapshot: Snapshot, queries: np.ndarray, k: int, metric: Any, rows: np.ndarray | None = None
) -> list[ranking.Best]:
    rows = np.arange(snapshot.rows) if rows is None else rows
    nobody = np.full(len(queries), -1)
    return ranking.search(snapshot, rows, queries.astype(np.float32), k, metric, nobody)


def by_hand(stored: np.ndarray, query: np.ndarray, k: int, metric: str) -> np.ndarray:
    """Return float64's ranking, scores rounded to float32."""
    wide, towards = stored.astype(np.float64), query.astype(np.float32).astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1) * np.linalg.norm(towards)
    with np.errstate(invalid="ignore"):  # the cosine of an infinite row
        keys = {
            "dot": -np.vecdot(wide, towards),
            "cosine": -np.vecdot(wide, towards) / lengths,
            "l2": np.linalg.norm(wide - towards, axis=1),
        }[metric].astype(np.float32)
    return np.argsort(keys, kind="stable")[:k]


@pytest.mark.parametrize("metric", vector_math.METRICS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_ranking_is_that_of_float64(tmp_path: Path, dtype: str, metric: Any) -> None:
    # Rows that nearly agree, as those of a layer do, and some that do so to the last bit.
    generator = np.random.default_rng(0)
    matrix = 10 * generator.standard_normal(WIDTH) + 0.01 * generator.standard_normal((700, WIDTH))
    matrix = matrix.astype(dtype)
    matrix[350:] = matrix[:350]
    snapshot = opened(tmp_path, matrix)
    queries = np.concatenate([matrix[[3]], generator.standard_normal((7, WIDTH))])
    for count in (1, 8):
        for k in (1, 10, 699, 2000):
            found = search(snapshot, queries[:count], k, metric)
            for number, best in enumerate(found):
                expected = by_hand(matrix, queries[number], k, metric)
                assert best.places.tolist() == expected.tolist()
    rows = generator.permutation(700)[:333]
    for best, query in zip(search(snapshot, queries, 5, metric, rows), queries, strict=True):
        assert best.places.tolist() == by_hand(matrix[rows], query, 5, metric).tolist()


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_few_of_the_rows_that_nearly_agree_are_reckoned_in_float64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: Any
) -> None:
    """Those of a layer do, all in about one direction."""
    generator = np.random.default_rng(0)
    centre = generator.standard_normal(512)
    matrix = (centre + 0.003 * generator.standard_normal((2_000, 512))).astype(np.float16)
    snapshot = opened(tmp_path, matrix)
    reckoned: list[int] = []
    keys = rough_scores._Doubles.keys

    def counted(self: Any, rows: np.ndarray, norms: np.ndarray) -> Any:
        reckoned.append(len(rows))
        return keys(self, rows, norms)

    monkeypatch.setattr(rough_scores._Doubles, "keys", counted)
    queries = generator.standard_normal((6, 512))
    for count in (1, 6):
        reckoned.clear()
        for query, best in zip(
            queries[:count], search(snapshot, queries[:count], 3, metric), strict=True
        ):
            assert best.places.tolist() == by_hand(matrix, query, 3, metric).tolist()
        if kernels.library() is not None:
            assert sum(reckoned) < 400


def test_a_store_of_equal_rows_gives_the_first(tmp_path: Path) -> None:
    row = np.random.default_rng(1).standard_normal(WIDTH).astype(np.float16)
    snapshot = opened(tmp_path, np.tile(row, (5000, 1)))
    for count in (1, 6):
        for best in search(snapshot, np.tile(row, (count, 1)), 9, "cosine"):
            assert best.places.tolist() == list(range(9))


@pytest.mark.parametrize("count", [1, 5])
def test_rows_without_a_score_are_left_out(tmp_path: Path, count: int) -> None:
    matrix = stores.vectors(40, WIDTH, "float32", 2)
    matrix[5] = 0
    matrix[6, 1] = np.nan
    matrix[7, 1] = np.inf
    snapshot = opened(tmp_path, matrix)
    queries = np.ones((count, WIDTH))
    for best in search(snapshot, queries, 100, "cosine"):
        assert set(range(40)) - set(best.places.tolist()) == {5, 6, 7}
    for best in search(snapshot, queries, 100, "l2"):
        assert set(range(40)) - set(best.places.tolist()) == {6}
        assert best.places[-1] == 7
    for best in search(snapshot, queries, 1, "dot"):
        assert best.places.tolist() == [7]


@pytest.mark.parametrize("count", [1, 5])
def test_products_beyond_float32_are_ranked_too(tmp_path: Path, count: int) -> None:
    matrix = stores.vectors(40, WIDTH, "float32", 3)
    matrix[:20] *= np.float32(1e37)
    snapshot = opened(tmp_path, matrix)
    query = 1e4 * np.ones(WIDTH)
    for best in search(snapshot, np.tile(query, (count, 1)), 30, "l2"):
        assert best.places[:20].tolist() == by_hand(matrix, query, 20, "l2").tolist()
        assert set(best.places[20:].tolist()) <= set(range(20))


@pytest.mark.parametrize("metric", vector_math.METRICS)
@pytest.mark.parametrize("count", [1, 5])
def test_norms_and_sums_beyond_float32(tmp_path: Path, count: int, metric: Any) -> None:
    matrix = stores.vectors(40, WIDTH, "float32", 3)
    matrix[::2] *= np.float32(7e37)
    matrix[:10, 1::2] = -matrix[:10, ::2]  # products of either sign leave a small sum
    query = np.random.default_rng(3).standard_normal(WIDTH).astype(np.float32) * np.float32(10)
    snapshot = opened(tmp_path, matrix)
    for best in search(snapshot, np.tile(query, (count, 1)), 40, metric):
        expected = oracle(matrix, query, 40, metric)
        assert best.places.tolist() == expected.places.tolist()
        assert best.scores.tolist() == expected.scores.tolist()


def test_a_row_that_must_not_be_found(tmp_path: Path) -> None:
    matrix = stores.vectors(60, WIDTH, "float16", 4)
    snapshot = opened(tmp_path, matrix)
    for count in (1, 5):
        left_out = np.arange(10, 10 + count)
        queries = matrix[left_out].astype(np.float32)
        for number, best in enumerate(
            ranking.search(snapshot, np.arange(60), queries, 60, "cosine", left_out)
        ):
            assert sorted(best.places.tolist()) == [n for n in range(60) if n != left_out[number]]


@pytest.mark.parametrize("side", [np.inf, -np.inf])
@pytest.mark.parametrize("count", [1, 6])
def test_an_infinite_query_finds_what_float64_finds(
    tmp_path: Path, count: int, side: float
) -> None:
    matrix = stores.vectors(40, WIDTH, "float32", 5)
    matrix[9, 3], matrix[12, 3] = side, -side
    snapshot = opened(tmp_path, matrix)
    queries = np.random.default_rng(5).standard_normal((count, WIDTH))
    queries[0, 3] = side
    same = np.flatnonzero(np.sign(matrix[:, 3]) == np.sign(side))
    assert search(snapshot, queries, 3, "dot")[0].places.tolist() == same[:3].tolist()
    everything = [number for number in range(40) if number != 9]  # infinity less itself
    found, *others = search(snapshot, queries, 40, "l2")
    assert found.places.tolist() == everything
    assert search(snapshot, queries, 40, "cosine")[0].places.tolist() == []
    for query, best in zip(queries[1:], others, strict=True):
        assert best.places.tolist() == by_hand(matrix, query, 40, "l2").tolist()


KINDS = (
    *("random", "one point", "near ties", "equal values", "duplicates", "huge norms"),
    *("tiny", "cancelling", "no numbers", "mixed scales"),
)
QUERIES = (
    *("random", "a row", "near a row", "ones", "zero", "huge", "tiny", "mixed scales"),
    "infinite",
)


def hostile(kind: str, dtype: str, generator: np.random.Generator, rows: int) -> np.ndarray:
    """Return rows that rough scores can hardly tell apart, or can hardly hold."""
    found = generator.standard_normal((rows, WIDTH))
    largest = 6e4 if dtype == "float16" else 3e38
    least = 6e-8 if dtype == "float16" else 1.4e-45
    if kind == "one point":
        found = 10 * found[:1] + 1e-3 * found
    elif kind == "near ties":  # by the last digit of one value
        found = np.repeat(found[:1], rows, axis=0).astype(dtype)
        at = generator.integers(0, WIDTH, rows)
        picked = found[np.arange(rows), at]
        towards = generator.choice([-np.inf, np.inf], rows).astype(dtype)
        found[np.arange(rows), at] = np.nextafter(picked, towards)
    elif kind == "equal values":  # each sum is rounded in one direction, again and again
        found = np.broadcast_to(1 + 1e-3 * generator.integers(0, 5, (rows, 1)), found.shape)
    elif kind == "duplicates":
        found = found[generator.integers(0, 3, rows)]
    elif kind == "huge norms":
        found[generator.random(rows) < 0.5] *= largest / 5
        found = np.clip(found, -largest, largest)
    elif kind == "tiny":
        found = np.rint(3 * found) * least
    elif kind == "cancelling":  # what is left of large products is small
        found[:, 1::2] = -found[:, ::2]
        found[:, ::2] *= 1 + 1e-3 * generator.standard_normal((rows, 1))
        found *= np.exp(3 * generator.standard_normal((rows, 1)))
    elif kind == "no numbers":
        odd = generator.choice([np.inf, -np.inf, np.nan, 0.0], rows)
        found[np.arange(rows), generator.integers(0, WIDTH, rows)] = odd
        found[generator.random(rows) < 0.3] = 0
    elif kind == "mixed scales":
        found *= np.exp(generator.uniform(np.log(least), np.log(largest / 5), (rows, 1)))
    with np.errstate(over="ignore"):
        return found.astype(dtype)


def asked(kind: str, stored: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a query of some kind, float32."""
    random = generator.standard_normal(WIDTH)
    finite = np.nan_to_num(stored[generator.integers(0, len(stored))].astype(np.float64), posinf=1)
    with np.errstate(over="ignore"):
        kinds: dict[str, np.ndarray] = {
            "random": random,
            "a row": finite,
            "near a row": finite * (1 + 1e-6 * random),
            "ones": np.ones(WIDTH),
            "zero": np.zeros(WIDTH),
            "huge": 1e37 * random,
            "tiny": 1e-41 * random,
            "mixed scales": random * np.exp(20 * generator.standard_normal(WIDTH)),
            "infinite": np.where(np.arange(WIDTH) == 7, np.inf, random),
        }
        return kinds[kind].astype(np.float32)


def oracle(stored: np.ndarray, query: np.ndarray, k: int, metric: str) -> ranking.Best:
    """Score every row in float64, and rank the scores once they are float32."""
    wide, towards = stored.astype(np.float64), query.astype(np.float64)
    with np.errstate(all="ignore"):
        if metric == "l2":
            found = np.sqrt(np.vecdot(wide - towards, wide - towards))
        else:
            found = np.vecdot(wide, towards)
        if metric == "cosine":
            lengths = np.linalg.norm(wide, axis=1) * np.linalg.norm(towards)
            found = np.clip(found / lengths, -1, 1)
        scores = found.astype(np.float32)
    usable = np.flatnonzero(~np.isnan(scores))
    keys = scores[usable] if metric == "l2" else -scores[usable]
    order = usable[np.argsort(keys, kind="stable")[:k]]
    return ranking.Best(order, scores[order])


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(["float16", "float32"]),
    metric=st.sampled_from(vector_math.METRICS),
    asking=st.lists(st.sampled_from(QUERIES), min_size=1, max_size=6),
    repeated=st.sampled_from([1, 1, 1, 9]),
    k=st.sampled_from([1, 3, 20, 400]),
    shuffled=st.booleans(),
    seed=st.integers(0, 1 << 32),
)
def test_whatever_the_rows_and_queries_are_the_result_is_that_of_float64(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    dtype: str,
    metric: Any,
    asking: list[str],
    repeated: int,
    k: int,
    shuffled: bool,
    seed: int,
) -> None:
    generator = np.random.default_rng(seed)
    matrix = hostile(kind, dtype, generator, 300)
    queries = np.stack([asked(each, matrix, generator) for each in asking * repeated])
    snapshot = opened(tmp_path_factory.mktemp("any"), matrix)
    rows = generator.permutation(300)[:250] if shuffled else np.arange(300)
    norms = floats.norms(matrix)[rows] if generator.random() < 0.5 else None
    found = ranking.search(snapshot, rows, queries, k, metric, np.full(len(queries), -1), norms)
    for query, best in zip(queries, found, strict=True):
        expected = oracle(matrix[rows], query, k, metric)
        assert best.places.tolist() == expected.places.tolist()
        assert np.array_equal(best.scores, expected.scores)
