"""A capture that is broken off goes on where it was, and ends like one that never was."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import actstore
from actstore.capturing.prompts.example import Example
from actstore.capturing.run.resume import Chain
from actstore.errors import ConflictError, MixedRunError, UsageError
from actstore.storage.snapshot import open_snapshot
from actstore.storage.verification import verify
from tests.capturing import crashing, families
from tests.interrupting import ctrl_c_heeded
from tests.torture.effort import TORTURE, attack

ROOT = Path(__file__).resolve().parents[2]
KILLS = 40 if TORTURE else 4
_ROUND = 4
OF_A_RUN = ("run_id", "captured_at")


class Forks:
    """Captures in processes of their own."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.capturing.crashing"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline().strip()

    def run(self, store: Path, *, after: float | None = None, sign: int = signal.SIGKILL) -> int:
        """Capture into ``store``; end the process ``after`` seconds. Return its wait status."""
        assert self._server.stdin is not None
        self._server.stdin.write(f"{store}\n")
        self._server.stdin.flush()
        child = int(self._line())
        if after is not None:
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, sign)
        return int(self._line().split()[1])

    def close(self) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    found = Forks()
    yield found
    found.close()


def content(store: Path) -> tuple[dict[str, list[Any]], dict[tuple[str, int | None], bytes]]:
    """Return all metadata and the vectors' bytes of a store, in row order."""
    snapshot = open_snapshot(store)
    try:
        table = pq.read_table(snapshot.metadata_file())
        metadata = {name: table[name].to_pylist() for name in table.column_names if name != "shard"}
        vectors: dict[tuple[str, int | None], bytes] = {}
        for number, shard in enumerate(snapshot.shards):
            ids = np.arange(snapshot.offsets[number], snapshot.offsets[number + 1])
            key = (shard.site, shard.layer)
            vectors[key] = vectors.get(key, b"") + snapshot.gather(ids).tobytes()
    finally:
        snapshot.close()
    return metadata, vectors


def sound(store: Path) -> bool:
    snapshot = open_snapshot(store)
    try:
        return not verify(snapshot)
    finally:
        snapshot.close()


def assert_same_rows(store: Path, unbroken: Path) -> None:
    ours, theirs = content(store), content(unbroken)
    for name in ours[0]:
        if name not in OF_A_RUN:
            assert ours[0][name] == theirs[0][name], name
    assert ours[1] == theirs[1]


def test_killed_at_random_points_it_ends_bit_equal(tmp_path: Path, forks: Forks) -> None:
    began = time.monotonic()
    assert forks.run(tmp_path / "whole") == 0
    took = time.monotonic() - began
    draw = random.Random(os.environ.get("ACTSTORE_SEED", "11"))
    came_back = 0
    with attack("crashes", "a capture killed at a random moment") as tally:
        for number in range(KILLS // _ROUND):
            store = tmp_path / f"broken-{number}"
            for _ in range(_ROUND):
                status = forks.run(store, after=draw.random() * took)
                assert status in (0, signal.SIGKILL)
                tally.tries += status != 0
            assert forks.run(store) == 0, Path(f"{store}.json").read_text()
            summary = json.loads(Path(f"{store}.json").read_text())
            came_back += summary["skipped"]
            assert summary["skipped"] + summary["examples"] == crashing.EXAMPLES
            assert_same_rows(store, tmp_path / "whole")
            metadata, _ = content(store)
            for name in OF_A_RUN:
                assert len(set(metadata[name])) == 1
            assert sound(store)
            (run,) = open_snapshot(store).manifest.runs
            assert run.settings["progress"]["examples"] == crashing.EXAMPLES
    assert came_back > 0  # something was stored before a kill, and was not done again


@pytest.fixture(scope="module")
def model() -> Any:
    return families.build("llama")


def capture(model: Any, store: Path, count: int | None = None, **options: Any) -> Any:
    given = options.pop("examples", None) or crashing.examples(10)
    return actstore.capture(
        model,
        families.tokenizer(),
        given[:count],
        store=store,
        model_name=options.pop("model_name", "tiny/llama"),
        self_check=False,
        **{"batch_size": 4, "layers": "last", **options},
    )


def test_interrupted_it_keeps_what_is_whole_and_says_how_to_go_on(
    tmp_path: Path, model: Any
) -> None:
    given = crashing.examples(150)

    def interrupt(progress: Any) -> None:
        if progress.examples >= 100:
            signal.raise_signal(signal.SIGINT)

    capture(model, tmp_path / "whole", examples=given)
    with ctrl_c_heeded(), pytest.raises(KeyboardInterrupt) as caught:
        capture(model, tmp_path / "s", examples=given, progress=interrupt)
    (said,) = caught.value.__notes__
    assert said.startswith("64 examples are done")
    assert "run the same capture again to go on" in said
    assert sound(tmp_path / "s")
    assert len(content(tmp_path / "s")[0]["example_id"]) == 64
    told: list[Any] = []
    summary = capture(model, tmp_path / "s", examples=given, progress=told.append)
    assert (summary.skipped, summary.examples) == (64, 86)
    # What is there is told before the first batch.
    assert (told[0].examples, told[0].total, told[0].stored_earlier) == (0, 86, 64)
    assert_same_rows(tmp_path / "s", tmp_path / "whole")


def test_a_source_that_fails_leaves_what_came_before(tmp_path: Path, model: Any) -> None:
    def failing() -> Iterator[dict[str, Any]]:
        yield from crashing.examples(100)
        raise OSError("the file ends here")

    with pytest.raises(OSError, match="the file ends here") as caught:
        actstore.capture(
            model,
            families.tokenizer(),
            failing(),
            store=tmp_path / "s",
            model_name="tiny/llama",
            batch_size=4,
            layers="last",
            self_check=False,
        )
    assert "64 examples are done" in caught.value.__notes__[0]
    summary = capture(model, tmp_path / "s", examples=crashing.examples(100))
    assert (summary.skipped, summary.examples) == (64, 36)


def test_a_finished_run_is_not_done_again(tmp_path: Path, model: Any) -> None:
    first = capture(model, tmp_path / "s")
    again = capture(model, tmp_path / "s")
    assert (first.rows, again.rows, again.examples, again.skipped) == (10, 0, 0, 10)
    assert again.commit is None
    assert again.run_id == first.run_id
    assert any("stored already" in note for note in again.notes)


def test_more_examples_go_on_under_the_same_run(tmp_path: Path, model: Any) -> None:
    first = capture(model, tmp_path / "s", 6)
    more = capture(model, tmp_path / "s")
    assert (more.skipped, more.examples, more.rows) == (6, 4, 4)
    assert more.run_id == first.run_id
    assert actstore.open(tmp_path / "s").frame().collect()["example_id"].to_list() == [
        f"q{number}" for number in range(10)
    ]


def test_other_examples_in_front_do_not_shift_what_is_stored(tmp_path: Path, model: Any) -> None:
    capture(model, tmp_path / "s", 6)
    given = [{"id": "new", "question": "yes or no"}, *crashing.examples(10)]
    summary = capture(model, tmp_path / "s", examples=given)
    assert (summary.skipped, summary.examples, summary.rows) == (6, 5, 5)
    assert any("left out" in note for note in summary.notes)


def test_further_layers_and_pools_come_beside_the_stored_ones(tmp_path: Path, model: Any) -> None:
    first = capture(model, tmp_path / "s", batch_size=4)
    more = capture(
        model, tmp_path / "s", batch_size=3, layers="all", pool="prompt.last,prompt.mean"
    )
    assert more.run_id != first.run_id
    assert more.rows == 10 * (3 * 2 - 1)
    assert more.rows_present == 0  # what was there is not even compared


def test_a_stored_example_whose_values_would_differ_is_a_conflict(
    tmp_path: Path, model: Any
) -> None:
    capture(model, tmp_path / "s")
    given = crashing.examples(10)
    given[2]["question"] = "no or yes"
    with pytest.raises(ConflictError):
        capture(model, tmp_path / "s", examples=given, resume=False)


def test_without_resume_all_is_computed_and_found_to_be_there(tmp_path: Path, model: Any) -> None:
    capture(model, tmp_path / "s")
    again = capture(model, tmp_path / "s", resume=False)
    assert (again.rows, again.rows_present, again.examples) == (0, 10, 10)


def test_an_iterator_that_begins_otherwise_cannot_be_continued(tmp_path: Path, model: Any) -> None:
    capture(model, tmp_path / "s")
    others = [{**each, "question": "yes"} for each in crashing.examples(10)]
    with pytest.raises(UsageError, match="cannot be read from its beginning again"):
        actstore.capture(
            model,
            families.tokenizer(),
            iter(others),
            store=tmp_path / "s",
            model_name="tiny/llama",
            batch_size=4,
            layers="last",
            self_check=False,
        )


def test_a_run_made_in_another_way_is_refused_and_says_what_differs(
    tmp_path: Path, model: Any
) -> None:
    capture(model, tmp_path / "s", dataset="d")
    with pytest.raises(MixedRunError, match=r"system null → be brief") as caught:
        capture(model, tmp_path / "s", dataset="d", system="be brief")
    assert "--allow-mixed" in str(caught.value)
    other = families.build("llama", seed=1)
    with pytest.raises(MixedRunError, match="weights_sha256"):
        capture(other, tmp_path / "s", dataset="d")
    assert capture(other, tmp_path / "s", dataset="e").rows == 10
    assert capture(other, tmp_path / "s", dataset="d", model_name="tiny/other").rows == 10


def test_mixed_on_purpose_is_allowed_and_noted(tmp_path: Path, model: Any) -> None:
    given = crashing.examples(20)
    capture(model, tmp_path / "s", examples=given[:10])
    summary = capture(model, tmp_path / "s", examples=given[10:], system="be", allow_mixed=True)
    assert summary.rows == 10
    assert any("mixes" in note for note in summary.notes)


def test_the_chain_tells_apart_what_is_asked() -> None:
    def digest(*examples: Example) -> str:
        chain = Chain()
        for example in examples:
            chain.add(example)
        return chain.digest

    one, two = Example(id="1", question="a"), Example(id="2", question="a")
    assert digest(one, two) == digest(one, two)
    assert len({digest(), digest(one), digest(one, two), digest(two, one)}) == 4
    assert digest(one) != digest(Example(id="1", question="b"))
    assert digest(one) == digest(Example(id="1", question="a", label="x"))


def test_the_chain_tells_apart_what_is_shown(tmp_path: Path) -> None:
    def digest(image: Any, images: Path | None = None) -> str:
        chain = Chain()
        chain.add(Example(id="1", question="a", image=image, images=images))
        return chain.digest

    one, other = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    for name, image in (("one", one), ("other", other)):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "a.png")
    assert digest(one) == digest(one.copy()) != digest(other)
    first, second = digest("a.png", tmp_path / "one"), digest("a.png", tmp_path / "other")
    assert first != second
    assert digest("a.png", tmp_path) == digest("b/a.png", tmp_path) not in (first, second)
    content = (tmp_path / "one" / "a.png").read_bytes()
    for same in (str(tmp_path / "one" / "a.png"), content, {"bytes": content, "path": "b.png"}):
        assert digest(same) == first
    assert digest({"bytes": b"", "path": "a.png"}, tmp_path / "other") == second


def test_another_picture_under_a_stored_id_is_not_answered_by_the_first(tmp_path: Path) -> None:
    seeing, processor = families.build_vlm("llava")

    def asked(color: str) -> Any:
        example = {"id": 1, "question": "what is 3", "image": Image.new("RGB", (32, 32), color)}
        return actstore.capture(
            seeing, processor, [example], store=tmp_path / "s", model_name="m", layers="last"
        )

    asked("red")
    assert asked("red").rows == 0
    with pytest.raises(ConflictError, match="different vector"):
        asked("blue")
