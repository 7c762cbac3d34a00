"""Pooling after the capture: regions, exclusions, gaps, what is there already, bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore.capturing import repooling
from actstore.capturing.repooling import repool
from actstore.errors import ConflictError, DamageError, NotInStoreError, UsageError
from actstore.storage.snapshot import open_snapshot
from tests.capturing import families
from tests.capturing import token_stores as stores
from tests.ingestion.storing import stored_rows
from tests.storage.stores import assert_sound
from tests.storage.undoing import files_of, flip

PROMPT = len(stores.PROMPT_ROLES)


def pooled(root: Path, **equals: Any) -> list[dict[str, Any]]:
    return [
        row
        for row in stored_rows(root)
        if row["pooling"] != "none" and all(row[name] == value for name, value in equals.items())
    ]


def test_means_of_the_response(tmp_path: Path) -> None:
    stores.write(tmp_path / "s")
    done = repool(tmp_path / "s", "response.mean")
    assert (done.commit, done.rows_written, done.rows_present) == (2, 4, 0)
    assert done.skipped == {"the region has no token": 2}
    rows = pooled(tmp_path / "s")
    assert [(row["example_id"], row["layer"], row["token_count"]) for row in rows] == [
        ("e0", 0, 3),
        ("e2", 0, 1),
        ("e0", 4, 3),
        ("e2", 4, 1),
    ]
    for row in rows:
        example = int(row["example_id"][1:])
        whole = stores.states(example, row["layer"], PROMPT + row["token_count"])
        expected = whole[PROMPT:].mean(axis=0)
        np.testing.assert_allclose(row["activation"], expected, rtol=1e-6, atol=1e-6)
        assert row["activation"].dtype == np.float32
        assert (row["pooling"], row["region"], row["position"]) == ("mean", "response", None)
        assert (row["token_id"], row["token_role"]) == (None, None)
        assert (row["question"], row["extra"]) == (f"Why {example}?", '{"n": 1}')
        assert row["label"] == ("yes" if example else None)
        assert row["captured_at"] == "2026-01-01T00:00:00Z"
    assert_sound(tmp_path / "s")
    run = open_snapshot(tmp_path / "s").manifest.runs[-1]
    assert (run.kind, run.run_id) == ("pool", rows[0]["run_id"])
    assert run.settings == {"pool": ["response.mean"], "exclude": ["bos"], "from_commit": 1}


def test_nothing_is_pooled_from_damage(tmp_path: Path) -> None:
    stores.write(tmp_path / "s")
    entry = open_snapshot(tmp_path / "s").shards[0]
    flip(tmp_path / "s" / entry.path, entry.pages[0][0] + 9)
    before = files_of(tmp_path / "s")
    with pytest.raises(DamageError, match="the vectors of its rows"):
        repool(tmp_path / "s", "response.mean")
    assert files_of(tmp_path / "s") == before


def test_again_adds_nothing(tmp_path: Path) -> None:
    stores.write(tmp_path / "s")
    pools = "response.mean,prompt.max,prompt.last,all.first"
    first = repool(tmp_path / "s", pools)
    again = repool(tmp_path / "s", pools.split(","))
    assert again.commit is None
    assert (again.rows_written, again.rows_present) == (0, first.rows_written)
    assert again.skipped == first.skipped


@pytest.mark.parametrize(
    ("exclude", "kept"),
    [
        ("none", [0, 1, 2, 3, 4, 5]),
        ("bos", [1, 2, 3, 4, 5]),
        ("bos,special", [2, 3, 4]),
        (["bos", "sinks"], [1, 2, 4, 5]),
        ("special,sinks", [0, 2, 4]),
    ],
)
@pytest.mark.parametrize("pool", ["mean", "max"])
def test_what_is_excluded(tmp_path: Path, exclude: Any, kept: list[int], pool: str) -> None:
    stores.write(tmp_path / "s", examples=1)
    repool(tmp_path / "s", f"prompt.{pool}", exclude=exclude)
    for row in pooled(tmp_path / "s"):
        tokens = stores.states(0, row["layer"], PROMPT + 3)[kept]
        expected = tokens.mean(axis=0) if pool == "mean" else tokens.max(axis=0)
        np.testing.assert_allclose(row["activation"], expected, rtol=1e-6, atol=1e-6)
        assert row["token_count"] == len(kept)


def test_the_sink_factor_says_what_a_sink_is(tmp_path: Path) -> None:
    stores.write(tmp_path / "s", examples=1)
    done = repool(tmp_path / "s", "prompt.mean", exclude="sinks", sink_factor=1e9)
    assert {row["token_count"] for row in pooled(tmp_path / "s")} == {6}
    assert done.rows_written == 2
    run = open_snapshot(tmp_path / "s").manifest.runs[-1]
    assert run.settings["sink_factor"] == 1e9


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_single_tokens_keep_their_bits_and_place(tmp_path: Path, dtype: str) -> None:
    stores.write(tmp_path / "s", dtype=dtype)
    repool(tmp_path / "s", "prompt.last,prompt.first,all.last,image.last,response.first")
    rows = pooled(tmp_path / "s", layer=0, example_id="e0")
    whole = stores.states(0, 0, PROMPT + 3, dtype)
    places = {(row["region"], row["pooling"]): row for row in rows}
    expected = {
        ("prompt", "last"): 5,
        ("prompt", "first"): 0,
        ("all", "last"): 8,
        ("image", "last"): 3,
        ("response", "first"): 6,
    }
    assert {place: row["token_id"] - 100 for place, row in places.items()} == expected
    assert {row["position"] for row in rows} == {None}
    for place, position in expected.items():
        row = places[place]
        assert row["activation"].tobytes() == whole[position].tobytes()
        assert row["activation"].dtype == dtype
        # Its region's tokens, as in the rows of a capture.
        tokens = {"prompt": PROMPT, "all": PROMPT + 3, "response": 3}.get(place[0], 1)
        assert (row["token_id"], row["token_count"]) == (100 + position, tokens)


def test_float16_tokens_have_means_in_float32(tmp_path: Path) -> None:
    stores.write(tmp_path / "s", dtype="float16", examples=1)
    repool(tmp_path / "s", "response.mean,response.max")
    tokens = stores.states(0, 0, PROMPT + 3, "float16")[PROMPT:].astype(np.float64)
    mean, highest = pooled(tmp_path / "s", layer=0)
    assert mean["activation"].dtype == highest["activation"].dtype == np.float32
    np.testing.assert_array_equal(mean["activation"], tokens.mean(axis=0).astype(np.float32))
    np.testing.assert_array_equal(highest["activation"], tokens.max(axis=0).astype(np.float32))


def test_what_a_capture_pooled_itself_counts_as_there(tmp_path: Path) -> None:
    stores.write(tmp_path / "s", examples=1)
    tokens = stores.states(0, 0, PROMPT + 3)[PROMPT:]
    one_by_one = np.float32(0) + tokens[2] + tokens[1] + tokens[0]
    store = actstore.open(tmp_path / "s")
    own = {"example_id": ["e0"], "region": "response", "pooling": "mean", "dataset": "data"}
    store.write({("resid_post", 0): one_by_one[None] / 3}, own, model=stores.MODEL)
    done = repool(tmp_path / "s", "response.mean")
    assert (done.rows_written, done.rows_present) == (1, 1)
    other = {**own, "region": "prompt"}
    store.write({("resid_post", 0): tokens[:1]}, other, model=stores.MODEL)
    with pytest.raises(ConflictError, match=r"prompt\.mean of example 'e0' .* --as-variant"):
        repool(tmp_path / "s", "prompt.mean")
    beside = repool(tmp_path / "s", "prompt.mean", variant="late")
    assert beside.rows_written == 2
    assert len(pooled(tmp_path / "s", variant="late")) == 2
    assert repool(tmp_path / "s", "prompt.mean", variant="late").rows_written == 0


@pytest.mark.parametrize("exclude", ["bos", "bos,special", "none"])
def test_a_capture_and_its_tokens_pooled_later_agree(tmp_path: Path, exclude: str) -> None:
    model, tokenizer = families.build("llama"), families.tokenizer()
    questions = [
        {"id": f"q{n}", "question": "which is larger : 3 or 5 ? " * (1 + n % 3)} for n in range(7)
    ]
    pools = (
        "prompt.mean,prompt.max,prompt.last,prompt.first,response.mean,response.max,"
        "response.last,all.mean,all.last,question.mean"
    )
    done = actstore.capture(
        model,
        tokenizer,
        questions,
        store=tmp_path / "s",
        model_name="tiny",
        pool=f"{pools},prompt.tokens,response.tokens,question.tokens",
        exclude=exclude.replace("none", ""),
        max_new_tokens=9,
        batch_size=4,
        layers=[0, 2],
        self_check=False,
    )
    made = repool(tmp_path / "s", pools, exclude=exclude)
    assert (made.rows_written, made.rows_present) == (0, 10 * 7 * 2 - sum(done.empty.values()) * 2)
    repool(tmp_path / "s", pools, exclude=exclude, variant="later")
    where = ("example_id", "layer", "region", "pooling", "token_count")
    counts: dict[str | None, set[tuple[object, ...]]] = {None: set(), "later": set()}
    for row in pooled(tmp_path / "s"):
        counts[row["variant"]].add(tuple(row[name] for name in where))
    assert counts["later"] == counts[None]


def test_a_token_stored_for_two_regions_counts_once(tmp_path: Path) -> None:
    stores.write(
        tmp_path / "s",
        examples=1,
        regions=("prompt+all+question", "all+response"),
        pools=("prompt.tokens", "all.tokens", "question.tokens", "response.tokens"),
    )
    repool(tmp_path / "s", "all.mean,prompt.mean,question.mean", exclude="none")
    counts = {row["region"]: row["token_count"] for row in pooled(tmp_path / "s")}
    assert counts == {"all": 9, "prompt": 6, "question": 6}


def test_a_region_that_was_not_kept_whole_is_not_made_up(tmp_path: Path) -> None:
    stores.write(tmp_path / "s", pools=("prompt.tokens", "response.-1"), layers=[0])
    done = repool(tmp_path / "s", "response.mean,all.mean,prompt.mean")
    assert {row["region"] for row in pooled(tmp_path / "s")} == {"prompt"}
    assert done.skipped == {
        "the region has no token": 3,
        "some tokens of the region are not stored": 3,
    }
    only = tmp_path / "only"
    stores.write(only, pools=("response.tokens",), layers=[0])
    repool(only, "response.mean,prompt.mean,all.mean")
    assert {row["region"] for row in pooled(only)} == {"response"}


def test_tokens_that_are_missing(tmp_path: Path) -> None:
    stores.write(tmp_path / "s", skip=[4], layers=[0])
    done = repool(tmp_path / "s", "prompt.mean,image.mean,response.last")
    assert {row["region"] for row in pooled(tmp_path / "s")} == {"response"}
    assert done.skipped["some tokens of the region are not stored"] == 6
    stores.write(tmp_path / "t", skip=[0], layers=[0])
    assert repool(tmp_path / "t", "all.mean,image.last").rows_written == 0


@pytest.mark.parametrize("missing", [PROMPT - 1, PROMPT])
def test_tokens_that_are_missing_between_prompt_and_response(tmp_path: Path, missing: int) -> None:
    # Example e0 has several generated tokens: one without any shows no gap.
    stores.write(tmp_path / "s", skip=[missing], layers=[0])
    done = repool(tmp_path / "s", "prompt.last,prompt.mean,response.first,response.mean")
    assert pooled(tmp_path / "s", example_id="e0") == []
    reason = "tokens between prompt and response are not stored, and they may be the region's"
    assert done.skipped[reason] >= 4


def test_sequences_without_roles_are_pooled_as_a_whole_only(tmp_path: Path) -> None:
    stores.write(tmp_path / "s", regions=(None, None), roles=False, kind="ingest", layers=[0])
    done = repool(tmp_path / "s", "all.mean,prompt.mean,response.mean,image.mean")
    assert {row["region"] for row in pooled(tmp_path / "s")} == {"all"}
    assert done.skipped == {
        "nothing says which tokens are the prompt's and which were generated": 6,
        "the region has no token": 3,
    }


def test_roles_alone_tell_prompt_from_response(tmp_path: Path) -> None:
    stores.write(tmp_path / "s", regions=(None, None), kind="ingest", layers=[0])
    repool(tmp_path / "s", "prompt.last,response.last,all.mean", exclude="none")
    rows = pooled(tmp_path / "s", example_id="e0")
    assert {(row["region"], row["token_id"], row["token_count"]) for row in rows} == {
        ("prompt", 105, 6),
        ("response", 108, 3),
        ("all", None, 9),
    }


def test_every_token_excluded(tmp_path: Path) -> None:
    stores.write(tmp_path / "s", examples=1, layers=[0])
    done = repool(tmp_path / "s", "image.mean", exclude="sinks")
    assert (done.rows_written, done.commit) == (0, None)
    assert done.skipped == {"every token of the region is excluded": 1}


def test_chosen_rows_only(tmp_path: Path) -> None:
    stores.write(tmp_path / "s")
    store = actstore.open(tmp_path / "s")
    chosen = np.zeros(store.rows, bool)
    chosen[store.select(layer=4, example_id="e2").rows] = True
    done = repool(tmp_path / "s", "prompt.mean", rows=chosen, where="layer=4")
    assert (done.rows_written, done.tokens) == (1, 7)
    with pytest.raises(NotInStoreError, match="holds no token rows there"):
        repool(tmp_path / "s", "prompt.mean", rows=np.zeros(store.rows + 1, bool))


def test_examples_longer_than_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores.write(tmp_path / "whole")
    stores.write(tmp_path / "pieces")
    pools = "all.mean,prompt.max,response.mean,all.last"
    repool(tmp_path / "whole", pools)
    monkeypatch.setattr(repooling, "_PIECE_BYTES", 2 * stores.WIDTH * 4)
    monkeypatch.setattr(repooling, "_BATCH_BYTES", stores.WIDTH * 4)
    repool(tmp_path / "pieces", pools)
    one, other = (pooled(tmp_path / name) for name in ("whole", "pieces"))
    names = ("example_id", "layer", "region", "pooling", "token_count", "position")
    assert [[row[name] for name in names] for row in one] == [
        [row[name] for name in names] for row in other
    ]
    for left, right in zip(one, other, strict=True):
        np.testing.assert_allclose(left["activation"], right["activation"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("pools", "options", "message"),
    [
        ("response.tokens", {}, "is no pooling of stored tokens"),
        ("response.-2", {}, "is no pooling of stored tokens"),
        ("poem.mean", {}, "not understood"),
        ("prompt.mean", {"exclude": "pads"}, "exclude 'pads' is unknown"),
        ("prompt.mean", {"exclude": "sinks", "sink_factor": 0.5}, "must be above 1"),
    ],
)
def test_what_cannot_be_made(
    tmp_path: Path, pools: str, options: dict[str, Any], message: str
) -> None:
    stores.write(tmp_path / "s", examples=1)
    with pytest.raises(UsageError, match=message):
        repool(tmp_path / "s", pools, **options)


def test_a_store_without_tokens(tmp_path: Path) -> None:
    store = actstore.open(tmp_path / "s", create=True)
    store.write({("resid_post", 0): np.ones((1, 4), "f4")}, {"id": "a"}, model="m", pool="last")
    with pytest.raises(NotInStoreError, match=r"no token rows \(pooling 'none'"):
        repool(tmp_path / "s", "prompt.mean")
