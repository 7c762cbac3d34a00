"""How source files held their tensors, noted by an ingest in its run, looked up by an export.

A row says what a vector is. What it does not say is how its file held it: bfloat16 or
float32, ``[1, 1, hidden]`` or ``[hidden]``, layers under whole numbers or text. That is the
same for nearly all files of a run, so it stands once in the run's settings, and files that
differ are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from actstore.storage.manifest import Run

SETTING = "forms"
_NAMED = 5000
"""Files that differ from the first of their kind and are named; the manifest stays small."""
_SOURCES = "sources"
_CUT = "cut"

Form = Mapping[str, Any]


class FormNotes:
    """Collects the forms of one run, in ``settings`` of the run itself."""

    def __init__(self, settings: dict[str, Any] | None = None) -> None:
        self._settings = {} if settings is None else settings
        self._known: dict[str, dict[tuple[Any, ...], list[str] | None]] = {}
        self._named = 0

    def note(self, source: str, *, kind: str = "", **form: Any) -> None:
        """Note how ``source`` held its tensor.

        Args:
            source: path, with the key inside the file where its tensors may differ.
            kind: files of different kinds are expected to differ.
            form: what is to be known again: JSON values, lists as tuples.
        """
        record = self._settings.setdefault(SETTING, {})
        forms = self._known.setdefault(kind, {})
        key = tuple(sorted(form.items()))
        if key not in forms:
            entry: dict[str, Any] = {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in form.items()
            }
            forms[key] = None
            if record.get(kind):
                forms[key] = entry[_SOURCES] = []
            record.setdefault(kind, []).append(entry)
        named = forms[key]
        if named is not None and source not in named[-1:]:
            if self._named < _NAMED:
                named.append(source)
                self._named += 1
            else:
                record[_CUT] = True


class Forms:
    """Looks up what the runs of a snapshot noted."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._runs = {run.run_id: run.settings for run in runs}
        self._tables: dict[tuple[str, str], tuple[Form, dict[str, Form]]] = {}

    def recipe(self, run_id: str) -> str | None:
        """Return the recipe by which a run read its files, or None if it read none."""
        found = self._runs.get(run_id, {}).get("recipe")
        return found if isinstance(found, str) else None

    def find(self, run_id: str, source: str, kind: str = "") -> Form:
        """Return the form of a source; empty where nothing was noted."""
        key = run_id, kind
        if key not in self._tables:
            self._tables[key] = self._table(run_id, kind)
        usual, others = self._tables[key]
        return others.get(source, usual)

    def _table(self, run_id: str, kind: str) -> tuple[Form, dict[str, Form]]:
        record = self._runs.get(run_id, {}).get(SETTING)
        entries = record.get(kind) if isinstance(record, dict) else None
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            return {}, {}
        others = {source: each for each in entries for source in each.get(_SOURCES, ())}
        return (entries[0] if entries else {}), others

    def cut(self, run_id: str) -> bool:
        """Say whether a run had more differing files than it could name."""
        record = self._runs.get(run_id, {}).get(SETTING)
        return isinstance(record, dict) and bool(record.get(_CUT))
