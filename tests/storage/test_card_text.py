"""What the owner of a card wrote stays his: metadata keys, text, even what is no YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from actstore.storage import card, card_text
from actstore.storage.card_text import Own, merge, put_together, take_apart
from tests.storage.stores import batch, card_files, live_files, write


def metadata(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return loaded


def rewritten(root: Path, text: str) -> str:
    """The card of a store after its owner wrote `text` and another commit came."""
    (root / "README.md").write_text(text, encoding="utf-8")
    card.refresh(root)
    return (root / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write(tmp_path, batch(0, 3, layer=0), batch(0, 3, layer=1))
    return tmp_path


def test_a_new_card_has_a_template_and_all_that_the_hub_reads(store: Path) -> None:
    text = card.read(store)
    found = metadata(text)
    assert found["pretty_name"] == "Activations of model"
    assert found["base_model"] == ["org/model"]
    assert found["size_categories"] == ["n<1K"]
    features = {info["config_name"]: info["features"] for info in found["dataset_info"]}
    vector = next(f for f in features["org--model"] if f["name"] == "activation")
    assert vector == {"name": "activation", "list": "float16", "length": 8}
    assert "activation" not in [f["name"] for f in features["metadata"]]
    assert not any("splits" in info for info in found["dataset_info"])
    assert "Say here what the examples are" in text


def test_own_keys_and_text_stay_and_ours_are_brought_up_to_date(store: Path) -> None:
    text = card.read(store)
    text = text.replace("---\n", "---\nlicense: mit  # as agreed\ntags: [mine]\n", 1)
    text = text.replace("# Activations of model", "# Mine\n\nAbove.")
    after = rewritten(store, text + "\n## Below\n\nIt stays.\n")
    assert "license: mit  # as agreed" in after
    assert metadata(after)["tags"] == ["mine"]
    assert after.index("Above.") < after.index(card_text.BEGIN) < after.index("## Below")
    assert rewritten(store, after) == after
    write(store, batch(3, 2, layer=2))
    assert "8 activation vectors" in card.read(store)
    assert sorted(card_files(store)["metadata"]) == live_files(store)


def test_a_program_that_drops_comments_leaves_no_second_configs(store: Path) -> None:
    front = metadata(card.read(store)) | {"size_categories": ["n>1T"], "license": "mit"}
    text = f"---\n{yaml.safe_dump(front)}---\n# Title\n"
    after = rewritten(store, text)
    assert after.count("configs:") == after.count("dataset_info:") == 1
    assert metadata(after)["size_categories"] == ["n<1K"]
    assert metadata(after)["license"] == "mit"


@pytest.mark.parametrize(
    "broken",
    ["license: [mit", "just words", "- a\n- list", "a: b: c", "key: 'open\nother: 1", "x: \x07"],
)
def test_metadata_that_is_no_yaml_is_kept_as_a_comment(store: Path, broken: str) -> None:
    after = rewritten(store, f"---\n{broken}\n---\n# Mine\n")
    assert "is no valid YAML" in after
    assert broken.splitlines()[0] in after
    assert "# Mine" in after
    assert card_files(store)
    assert rewritten(store, after) == after


@pytest.mark.parametrize(
    "text",
    [
        "---\r\nlicense: mit\r\n---\r\n# Mine\r\n",
        "\ufeff---\nlicense: mit\n---\n# Mine\n",
        "---\n{license: mit}\n---\n# Mine\n",
        '---\n"license": mit\n---\n# Mine\n',
        "---\n# comment\nlicense:\n  mit\n\n---\n# Mine\n",
    ],
)
def test_metadata_in_other_spellings_is_understood(store: Path, text: str) -> None:
    (store / "README.md").write_bytes(text.encode())
    card.refresh(store)
    after = card.read(store)
    assert metadata(after)["license"] == "mit"
    assert "# Mine" in after


def test_a_card_without_metadata_or_without_its_end_is_text(store: Path) -> None:
    assert "# Only text" in rewritten(store, "# Only text\n")
    after = rewritten(store, "---\nlicense: mit\n# no end\n")
    assert "# no end" in after
    assert card_files(store)


def test_fields_are_set_over_what_is_there() -> None:
    own = take_apart("---\nlicense:\n- mit\nother: 1\n---\nText\n")
    text = put_together(card_text.with_fields(own, {"license": "apache-2.0"}), [], [])
    assert metadata(text) == {"license": "apache-2.0", "other": 1}


def own(before: str = "", after: str = "", **keys: str) -> Own:
    return Own(
        keys={key: f"{key}: {value}" for key, value in keys.items()}, before=before, after=after
    )


def test_merging_keeps_what_either_side_wrote() -> None:
    base = own("One\n\nTwo", a="1", b="1", c="1")
    ours = own("One\n\nTwo\n\nOurs", a="2", b="1", d="4")
    theirs = own("One\n\nTheirs", a="3", b="5", c="1", e="6")
    joined = merge(base, ours, theirs)
    assert joined.before == "One\n\nTheirs\n\nOurs"
    assert joined.keys == own(a="2", b="5", d="4", e="6").keys


@given(st.text(alphabet="ab \n", max_size=20), st.text(alphabet="ab \n", max_size=20))
def test_a_side_that_changed_nothing_leaves_the_other_as_it_is(base: str, changed: str) -> None:
    assert merge(own(base), own(base), own(changed)).before == changed
    assert merge(own(base), own(changed), own(base)).before == changed
    assert merge(own(base), own(changed), own(changed)).before == changed
