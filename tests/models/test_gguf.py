"""Models in GGUF files: what is loaded, what is written down, what is refused and how."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

import actstore
from actstore import cli
from actstore.errors import ModelError
from actstore.models import gguf as files
from actstore.models import loading
from actstore.storage import manifest
from tests.models import gguf_files

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1")
EXAMPLES = [
    {"id": number, "question": f"Is {number} the larger one?", "oracle": "yes"}
    for number in range(6)
]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.Q4_0.gguf"
    gguf_files.write(path, gguf_files.model(), quantization=gguf.GGMLQuantizationType.Q4_0)
    return path


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("name", TYPES)
def test_the_weights_are_those_in_the_file(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / "model.gguf"
    source = gguf_files.model(kind)
    written = gguf_files.write(
        path, source, kind=kind, quantization=gguf.GGMLQuantizationType[name]
    )
    found = loading.load(path, device="cpu")
    weights = found.model.state_dict()
    assert set(weights) == set(written)
    assert found.model.dtype == torch.float32
    for own, values in written.items():
        assert torch.equal(weights[own], values), own
    header = files.check(path)
    assert header.quantization == (None if name in ("F32", "F16", "BF16") else name)
    assert found.name == "model.gguf"
    # What the tokenizer does comes from the file as well.
    text = "This is \N{LATIN SMALL LETTER U WITH DIAERESIS}ber the 7"
    assert found.processor.decode(found.processor(text)["input_ids"]) == text
    assert found.processor.chat_template == gguf_files.TEMPLATE


def test_an_unquantised_file_computes_what_its_model_computes(tmp_path: Path) -> None:
    source = gguf_files.model()
    gguf_files.write(tmp_path / "model.gguf", source)
    found = loading.load(tmp_path / "model.gguf", device="cpu").model
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        ours, theirs = found(ids).logits, source(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_command_captures_and_writes_down_where_the_numbers_come_from(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, EXAMPLES)), encoding="utf-8")
    words = ["--data", str(tmp_path / "q.jsonl"), "--layers", "all", "--max-new-tokens", "2"]
    store = tmp_path / "store"
    # The folder that holds nothing but one GGUF file means that file.
    for number, given in enumerate((packed, packed.parent)):
        assert cli.run(["capture", "--model", str(given), "--store", str(store), *words]) == 0
        said = capsys.readouterr()
        assert "tiny.Q4_0.gguf holds weights quantised to Q4_0" in said.err
        assert "not of the one it was made from" in said.err
        assert ("6 were there already" in said.out) is (number == 1)  # one and the same model
    (run,) = manifest.load(store).runs
    assert run.settings["model"] == "tiny.Q4_0.gguf"
    record = run.settings["gguf"]
    assert (record["file"], record["quantization"]) == ("tiny.Q4_0.gguf", "Q4_0")
    assert record["types"] == {"Q4_0": 23, "F32": 7}
    assert len(record["sha256"]) == 64
    assert "quantised model" in record["notes"][0]
    # Questions are named with their folder, models are not.
    assert str(packed.parent) not in json.dumps(run.settings)


def test_the_states_are_those_of_the_unpacked_weights(packed: Path, tmp_path: Path) -> None:
    loaded = loading.load(packed, device="cpu")
    summary = actstore.capture(
        loaded.model, loaded.processor, EXAMPLES, store=tmp_path / "store", chat_template=False
    )
    assert any("quantised to Q4_0" in note for note in summary.notes)
    assert summary.model == "tiny.Q4_0.gguf"
    selection = actstore.open(tmp_path / "store").select(layer=1)
    plain = gguf_files.model()
    plain.load_state_dict(gguf_files.write(
        tmp_path / "again.gguf", gguf_files.model(),
        quantization=gguf.GGMLQuantizationType.Q4_0,
    ))  # fmt: skip
    order = selection.table(["example_id"])["example_id"].to_pylist()
    questions = {str(example["id"]): example["question"] for example in EXAMPLES}
    for row, example in zip(selection.numpy(), order, strict=True):
        ids = loaded.processor(questions[example], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            states = plain(ids, output_hidden_states=True).hidden_states
        error = np.linalg.norm(row - states[2][0, -1].numpy()) / np.linalg.norm(row)
        assert error < 1e-5


def test_the_lower_blocks_alone_can_be_loaded(packed: Path) -> None:
    assert loading.block_count(packed) == gguf_files.BLOCKS
    part = loading.load(packed, device="cpu", layers_needed=2).model
    whole = loading.load(packed, device="cpu").model
    assert len(part.model.layers) == 2
    for name, values in part.state_dict().items():
        assert torch.equal(values, whole.state_dict()[name])


def test_a_file_of_the_same_name_where_we_are_is_not_taken(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf_files.write(tmp_path / packed.name, gguf_files.model(seed=9))
    monkeypatch.chdir(tmp_path)
    here, there = loading.load(packed.name, device="cpu"), loading.load(packed, device="cpu")
    one, other = here.model.state_dict(), there.model.state_dict()
    assert not torch.equal(one["model.norm.weight"], other["model.norm.weight"])


def test_a_model_that_was_loaded_without_us_is_described_too(packed: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place, name = packed.parent, packed.name
    model = AutoModelForCausalLM.from_pretrained(place, gguf_file=name)
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name)
    ours = loading.load(packed, device="cpu")
    first = actstore.capture(model, tokenizer, EXAMPLES[:3], store=tmp_path / "store")
    # The same model, so the same rows: nothing is refused, and only what is new is captured.
    again = actstore.capture(ours.model, ours.processor, EXAMPLES, store=tmp_path / "store")
    assert (first.examples, again.examples, again.skipped) == (3, 3, 3)
    assert manifest.load(tmp_path / "store").runs[0].settings["gguf"]["quantization"] == "Q4_0"


def _refusal(place: Path) -> str:
    with pytest.raises(ModelError) as caught:
        loading.load(place, device="cpu")
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.2, 0.5, 0.999])
def test_a_truncated_file_is_refused(packed: Path, tmp_path: Path, share: float) -> None:
    content = packed.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(content[: int(len(content) * share)])
    text = _refusal(path)
    assert "cut.gguf" in text
    assert "damaged or incomplete" in text or "no GGUF file" in text


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    named = tmp_path / "model.gguf"
    named.write_bytes(b"PK\x03\x04 a zip file")
    assert "no GGUF file" in _refusal(named)
    other = tmp_path / "model.bin"
    other.write_bytes(b"nothing")
    assert "expected a model's folder, a GGUF file, or an id" in _refusal(other)
    assert "no such file" in _refusal(tmp_path / "gone.gguf")


def test_a_file_of_another_name_is_told_by_its_first_letters(packed: Path, tmp_path: Path) -> None:
    path = tmp_path / "blob-1234"
    path.write_bytes(packed.read_bytes())
    assert "link to it (ln -s blob-1234 blob-1234.gguf)" in _refusal(path)
    # As the Hub's cache has it: what is named is a link to a file without a name.
    link = tmp_path / "named.gguf"
    link.symlink_to(path)
    assert loading.load(link, device="cpu").name == "named.gguf"


def test_a_folder_with_several_files_asks_which(packed: Path, tmp_path: Path) -> None:
    for name in ("a.Q4_0.gguf", "a.Q8_0.gguf"):
        (tmp_path / name).write_bytes(packed.read_bytes())
    text = _refusal(tmp_path)
    assert "2 GGUF files (a.Q4_0.gguf, a.Q8_0.gguf)" in text
    (tmp_path / "empty").mkdir()
    assert "no config.json and no .gguf file" in _refusal(tmp_path / "empty")


Change = Callable[[gguf.GGUFWriter], None]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda writer: writer.add_uint16("split.count", 3), "one of 3 parts"),
        (lambda writer: writer.add_uint32("general.alignment", 48), "expected a power of two"),
    ],
    ids=["split", "alignment"],
)
def test_files_that_cannot_be_read_alone_or_right(
    tmp_path: Path, change: Change, said: str
) -> None:
    gguf_files.write(tmp_path / "m.gguf", gguf_files.model(), change=change)
    assert said in _refusal(tmp_path / "m.gguf")


def test_of_many_missing_weights_three_are_named(packed: Path) -> None:
    header = files.check(packed)
    with pytest.raises(ModelError, match=r"5 weights .*\(a, b, c …\)"):
        files.check_loaded(header, {"d", "b", "a", "e", "c"})


def test_weights_that_are_missing_are_never_made_up(tmp_path: Path) -> None:
    gguf_files.write(tmp_path / "m.gguf", gguf_files.model(), leave_out="blk.1.ffn_up.weight")
    text = _refusal(tmp_path / "m.gguf")
    assert "1 weight of the model" in text
    assert "model.layers.1.mlp.up_proj.weight" in text
    assert "random" in text


def test_positions_that_transformers_would_not_rescale_are_pointed_at(tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("rope_freqs.weight", np.full(8, 2.0, np.float32))

    gguf_files.write(tmp_path / "m.gguf", gguf_files.model(), change=change)
    loaded = loading.load(tmp_path / "m.gguf", device="cpu")
    origin = files.origin(loaded.model)
    assert origin is not None
    assert any("rotary positions" in note for note in origin["notes"])


def test_an_architecture_that_transformers_does_not_read_is_named(tmp_path: Path) -> None:
    gguf_files.write(tmp_path / "m.gguf", gguf_files.model(), kind="rwkv7")
    text = _refusal(tmp_path / "m.gguf")
    assert "cannot read GGUF files of the architecture 'rwkv7'" in text


def test_tensors_have_up_to_four_dimensions(tmp_path: Path) -> None:
    def with_tensor(*shape: int) -> Path:
        def change(writer: gguf.GGUFWriter) -> None:
            writer.add_tensor("odd.weight", np.zeros(shape, np.float32))

        path = tmp_path / f"{len(shape)}.gguf"
        gguf_files.write(path, gguf_files.model(), change=change)
        return path

    shape, _ = files.check(with_tensor(5, 4, 3, 2)).tensors["odd.weight"]
    assert shape == (2, 3, 4, 5)
    assert "'odd.weight' has 5 dimensions" in _refusal(with_tensor(6, 5, 4, 3, 2))


def _set(content: bytes, key: bytes, old: bytes, new: bytes) -> bytes:
    """Replace the value right behind a key."""
    at = content.index(key) + len(key) + 4
    assert content[at : at + len(old)] == old
    return content[:at] + new + content[at + len(new) :]


def test_sizes_that_do_not_fit_the_tensors_are_refused_before_anything_is_built(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.gguf"
    gguf_files.write(path, gguf_files.model())
    content = path.read_bytes()
    blocks, width = gguf_files.BLOCKS, gguf_files.WIDTH
    for key, old, new, said in (
        (b"llama.block_count", blocks, 2_000_000_000, "2000000000 blocks and holds tensors of 3"),
        (b"llama.block_count", blocks, blocks - 1, "2 blocks and holds tensors of 3"),
        (b"llama.embedding_length", width, 2_000_000_000, "a width of 2000000000"),
        (b"llama.feed_forward_length", gguf_files.FEED, 2_000_000_000, "not of the sizes"),
        (b"llama.attention.head_count", gguf_files.HEADS, 0, "ZeroDivisionError"),
    ):
        path.write_bytes(_set(content, key, struct.pack("<I", old), struct.pack("<I", new)))
        assert said in _refusal(path)


@pytest.mark.parametrize("at", [8, 16], ids=["tensors", "keys"])
def test_counts_that_the_file_cannot_hold_are_refused_at_once(
    packed: Path, tmp_path: Path, at: int
) -> None:
    content = bytearray(packed.read_bytes())
    content[at : at + 8] = struct.pack("<Q", 2**62)
    (tmp_path / "m.gguf").write_bytes(content)
    assert "in the middle of" in _refusal(tmp_path / "m.gguf")


def test_a_list_longer_than_the_file_is_refused_at_once(packed: Path, tmp_path: Path) -> None:
    content = packed.read_bytes()
    at = content.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 4 + 4
    broken = content[:at] + struct.pack("<Q", 2**60) + content[at + 8 :]
    (tmp_path / "m.gguf").write_bytes(broken)
    assert "an array of 1152921504606846976 texts" in _refusal(tmp_path / "m.gguf")


def test_whatever_byte_is_damaged_one_error_or_a_model_comes_of_it(
    packed: Path, tmp_path: Path
) -> None:
    """Bytes of the header changed at random: never a traceback, never a hang."""
    content = packed.read_bytes()
    end = content.index(b"blk.0.attn_norm.weight")
    draw = np.random.default_rng(0)
    path = tmp_path / "m.gguf"
    refused = 0
    for _ in range(300):
        broken = bytearray(content)
        for place in draw.integers(0, end + 2000, size=draw.integers(1, 4)):
            broken[place] = draw.integers(0, 256)
        path.write_bytes(broken)
        try:
            files.check(path)
        except ModelError:
            refused += 1
    assert 20 < refused < 300


def test_without_the_package_the_command_to_install_it_is_named(packed: Path) -> None:
    code = (
        "import sys; sys.modules['gguf'] = None\n"
        "from importlib import util\n"
        "own = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'gguf' else own(name, *rest)\n"
        "from actstore import cli\n"
        f"sys.exit(cli.run(['capture', '--model', {str(packed)!r}, '--data', 'q.jsonl', "
        "'--store', 's']))"
    )
    (packed.parent / "q.jsonl").write_text(json.dumps(EXAMPLES[0]), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=packed.parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    (packed.parent / "q.jsonl").unlink()
    assert done.returncode == 1
    assert "pip install 'actstore[gguf]'" in done.stderr
    assert "Traceback" not in done.stderr
