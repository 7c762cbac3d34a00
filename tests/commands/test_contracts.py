"""`actstore contracts` lists the built-in contracts and prints one as it is."""

import json
from pathlib import Path

from actstore.ingestion import contract
from tests.commands.conftest import Command


def test_every_contract_is_listed(actstore: Command) -> None:
    listed = {line.split()[0] for line in actstore("contracts").out.splitlines()[1:]}
    assert listed == set(contract.known())
    assert listed == {item["name"] for item in json.loads(actstore("contracts", "--json").out)}


def test_a_printed_contract_is_a_contract(actstore: Command, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(actstore("contracts", "faithfulness-v1").out, encoding="utf-8")
    assert contract.load(path) == contract.load("faithfulness-v1")


def test_an_unknown_contract_names_those_there_are(actstore: Command) -> None:
    finished = actstore("contracts", "faithful")
    assert finished.code == 2
    assert "faithfulness-v1" in finished.err
