"""Finds the rows that a vector or probe was trained on again, in any store, by hashed keys.

Figures of such rows flatter: on pure noise a vector tells the rows that it was made of apart
perfectly. So vectors and probes carry *keys*: the sorted first 8 bytes (big-endian) of the
SHA-256 of compact JSON lists in UTF-8, which are the same on every machine and in every copy:

- ``["example", dataset, split, example_id]`` where the data set is known;
- ``["example", run_id, example_id]`` where it is not: an id such as ``0`` then means
  something within its own run alone, which copies, commits and compaction leave as it is, and
  so does ``actstore rename`` where it gives the rows a data set;
- ``["unnamed", example_id, whether it has a question]`` there too, so that rows without a
  question on either side go by their id;
- ``["question", text]``, where rows of one question were kept together in training, as by default;
- ``["group", expression, value]`` where ``--group-by`` named something else.

A row that shares a key with the making counts as one of it, also where only the question or
only the example is shared: the other phrasing of a pair, or the same question in another
data set, is a row whose answer the making has seen. So the same rows are left out here as
are kept on one side of every fold (:mod:`~actstore.analysis.examples.example_groups`), but
for examples without the name of a data set, which two stores may number alike.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore.analysis.examples import classes, example_groups, place_rows
from actstore.analysis.examples.place_rows import ActivationPlace, RowChoice
from actstore.errors import ActstoreError, QueryError, TooFewRowsError
from actstore.querying import row_texts as columns
from actstore.querying.metadata import ROW_ID
from actstore.querying.reader import open_reader
from actstore.wording import counted

if TYPE_CHECKING:
    import pyarrow as pa

    from actstore.querying.reader import StoreReader
    from actstore.querying.selected import SelectedRows

TENSOR = "made_of"
"""Name of the tensor that holds the keys, beside the weights."""
_NO_GROUP = 0
_COLUMNS = ("dataset", "split", "example_id", "run_id", "question")
_CONDITION = re.compile(
    r"(model|site|pooling|layer) = ('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\[[^\]]*\])"
    r"(?: AND |$)"
)


def keys(selection: SelectedRows, grouped_by: str) -> np.ndarray:
    """Return the keys of rows that something is made of, uint64 ``[keys]``, ascending.

    Args:
        selection: the rows.
        grouped_by: what kept rows together, as
            :class:`~actstore.analysis.examples.example_groups.ExampleGroups` has it.
    """
    examples, _ = _examples(selection)
    found = set(_groups(selection, grouped_by).tolist()) - {_NO_GROUP}
    for dataset, split, example, run, question in examples:
        if dataset is not None:
            found.add(_hash("example", dataset, split, example))
        else:
            found.add(_hash("example", run, example))
            found.add(_hash("unnamed", example, question is not None))
        if grouped_by == example_groups.DEFAULT and question is not None:
            found.add(_hash("question", question))
    return np.array(sorted(found), np.uint64)


def shared(selection: SelectedRows, made_of: np.ndarray, grouped_by: str) -> np.ndarray:
    """Return which rows share an example or question with training rows, bool ``[rows]``.

    Args:
        selection: the rows.
        made_of: keys as :func:`keys` returns them.
        grouped_by: what kept rows together in training.
    """
    known = set(made_of.tolist())
    examples, numbers = _examples(selection)
    flags = np.zeros(len(examples), bool)
    for number, (dataset, split, example, run, question) in enumerate(examples):
        own = [_hash("example", run, example)]  # the data set may have got its name since
        if dataset is not None:
            own.append(_hash("example", dataset, split, example))
        else:
            own.append(_hash("unnamed", example, False))
            if question is None:
                own.append(_hash("unnamed", example, True))
        if question is not None:
            own.append(_hash("question", question))
        flags[number] = not known.isdisjoint(own)
    groups = _groups(selection, grouped_by)
    found: np.ndarray = flags[numbers] | np.isin(groups, made_of)
    return found


def asked(made_of: np.ndarray, question: str) -> bool:
    """Return whether a text is a question of the training rows; needs questions among the keys."""
    return bool(np.isin(np.uint64(_hash("question", question)), made_of))


class InSample(NamedTuple):
    """How many of the measured rows were trained on, and whether they are left in."""

    rows: int | None
    """How many there are; None where nobody knows which rows it was made of."""
    shown: bool
    """Whether they are among the figures, which are then in-sample figures."""

    @property
    def marked(self) -> bool:
        """Whether figures may not stand without saying that they are in-sample."""
        return self.rows is None or (self.shown and self.rows > 0)

    @property
    def summary(self) -> dict[str, Any]:
        """The two fields that every report has of it."""
        return {"in_sample": self.rows, "in_sample_shown": self.shown}


def count(own: np.ndarray | None, *, shown: bool, place: ActivationPlace, what: str) -> InSample:
    """Return how many of some rows were trained on.

    Args:
        own: which rows are, bool ``[rows]``; None where nobody knows.
        shown: they stay among the figures.
        place: of the rows, for messages.
        what: ``vector`` or ``probe``.

    Raises:
        TooFewRowsError: no row is left.
    """
    if own is None:
        return InSample(None, shown)
    if own.all() and len(own) and not shown:
        command = "steer" if what == "vector" else "probe"
        part = "--where" if what == "vector" else "--test"
        raise TooFewRowsError(
            f"{place.text}: all {counted(len(own))} share their example or question with a row "
            f"that the {what} was made of, and figures of those would be in-sample. Make the "
            f"{what} of a part of the rows (`actstore {command} STORE {part} "
            '"hash(example_id) % 2 = 0" --out DIR`; the other part is then left to look at), use '
            "another store, or see the figures as what they are with --in-sample"
        )
    return InSample(int(own.sum()), shown)


def notes(found: Sequence[InSample], what: str) -> list[str]:
    """Return what must be said beside the figures.

    Args:
        found: of each vector or probe.
        what: ``vector`` or ``probe``.
    """
    told = []
    counts = sorted({one.rows for one in found if one.rows})
    if counts:
        many = counted(counts[-1]) if len(counts) == 1 else f"up to {counted(counts[-1])}"
        each = f"{many} of each layer" if len(found) > 1 else many
        why = f"share their example or question with rows that the {what} was made of"
        if found[0].shown:
            told.append(f"IN-SAMPLE: {each} {why}, which flatters these figures")
        else:
            told.append(f"left out: {each} that {why}; --in-sample shows them under that name")
    if any(one.rows is None for one in found):
        told.append(
            f"it is not known which rows the {what}s were made of: if these are among them, the "
            "figures are in-sample"
        )
    return told


def title(found: Sequence[InSample]) -> str:
    """Return what a picture's title says of it; nothing where nothing need be said."""
    if any(one.rows is None for one in found):
        return "perhaps in-sample: made of unknown rows"
    return "IN-SAMPLE" if any(one.marked for one in found) else ""


def own_rows(
    selection: SelectedRows,
    store: StoreReader,
    made_of: np.ndarray | None,
    lineage: Mapping[str, Any],
    place: ActivationPlace | None,
) -> np.ndarray | None:
    """Return which rows a saved probe or vector was trained on, bool ``[rows]``, or None.

    Args:
        selection: rows of ``store``.
        store: where they are.
        made_of: its keys; None in files that older versions or others wrote. Where their
            lineage names this store by its fingerprint, now or at the commit it tells, its
            query finds the rows again.
        lineage: what the file says of its origin.
        place: what it was made for.
    """
    grouped_by = str(lineage.get("group_by") or example_groups.DEFAULT)
    if made_of is None:
        grouped_by = example_groups.DEFAULT
        made_of = _recovered(store, lineage, place)
    return None if made_of is None else shared(selection, made_of, grouped_by)


def kept_together(
    lineage: Mapping[str, Any], selection: SelectedRows, told: list[str]
) -> str | None:
    """Return by what rows count as one in an interval: what ``--group-by`` named in the making.

    None, which is by example and question, where nothing was named or the rows lack it.

    Args:
        lineage: what the file of a vector or probe says of its origin.
        selection: the rows that it is held against.
        told: takes what was named and is not there.
    """
    named = str(lineage.get("group_by") or example_groups.DEFAULT)
    # The number of a row means nothing in another store.
    if named in (example_groups.DEFAULT, example_groups.EXAMPLE, ROW_ID):
        return None
    try:
        texts = columns.texts(selection, named)
    except QueryError:
        texts = np.empty(0, object)
    if all(text is None for text in texts.tolist()):
        told.append(
            f"made with --group-by {named}, which no row here has: intervals count rows that share "
            "their example or question as one"
        )
        return None
    return named


def _recovered(
    store: StoreReader, lineage: Mapping[str, Any], place: ActivationPlace | None
) -> np.ndarray | None:
    if place is None or not lineage.get("store_fingerprint"):
        return None
    try:
        choice = _choice(str(lineage["query"]))
        if choice is None:
            return None
        choice = choice.and_where(lineage.get("train") or _outside(lineage.get("test")))
        if store.fingerprint == lineage["store_fingerprint"]:
            return _of_query(store, choice, lineage, place)
        with open_reader(store.name, int(lineage["commit"])) as earlier:
            if earlier.fingerprint != lineage["store_fingerprint"]:
                return None
            return _of_query(earlier, choice, lineage, place)
    except (ActstoreError, KeyError, TypeError, ValueError, SyntaxError, OSError):
        return None


def _of_query(
    store: StoreReader, choice: RowChoice, lineage: Mapping[str, Any], place: ActivationPlace
) -> np.ndarray:
    selection, values = place_rows.rows_and_labels(store, choice, str(lineage["label"]))
    sides = classes.find(
        str(lineage["label"]), values, list(lineage["positive"]), list(lineage["negative"])
    )
    (rows,) = (rows for rows in place_rows.by_place(selection, sides) if rows.place == place)
    return keys(rows.selection, example_groups.DEFAULT)


def _choice(text: str) -> RowChoice | None:
    """Return the choice whose text lineage holds (:attr:`RowChoice.text`); None if it is none."""
    given: dict[str, Any] = {}
    position = 0
    while match := _CONDITION.match(text, position):
        given[match[1]] = ast.literal_eval(match[2])
        position = match.end()
    where = text[position:]
    if where and not (where.startswith("(") and where.endswith(")")):
        return None
    return RowChoice(
        where=where[1:-1] or None,
        layers=given.get("layer"),
        model=given.get("model"),
        site=given.get("site"),
        pooling=given.get("pooling"),
    )


def _outside(test: object) -> str | None:
    return None if test is None else f"NOT coalesce(({test}\n), false)"


def _examples(selection: SelectedRows) -> tuple[list[tuple[Any, ...]], np.ndarray]:
    """Return the distinct values of the columns that keys are of, and each row's number."""
    table = selection.table(list(_COLUMNS))
    codes = np.zeros(len(table), np.int64)
    for name in _COLUMNS:
        column = table[name].combine_chunks().dictionary_encode()
        part = column.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
        # Numbered anew after each column, so that products of many values do not overflow.
        codes = np.unique(codes * (len(column.dictionary) + 1) + part, return_inverse=True)[1]
    _, first, numbers = np.unique(codes, return_index=True, return_inverse=True)
    distinct: pa.Table = table.take(first)
    values = {name: distinct[name].to_pylist() for name in _COLUMNS}
    # A blank question is none here too, as it is for what stays together.
    values["question"] = [text if text and text.strip() else None for text in values["question"]]
    return list(zip(*values.values(), strict=True)), numbers


def _groups(selection: SelectedRows, grouped_by: str) -> np.ndarray:
    """Return the key of each row's group, uint64 ``[rows]``; 0 where it has none.

    Only where something else than examples and questions was named. Rows of a store where
    that does not exist have none.
    """
    found = np.full(len(selection), _NO_GROUP, np.uint64)
    # The number of a row means nothing in another store.
    if grouped_by in (example_groups.DEFAULT, example_groups.EXAMPLE, ROW_ID):
        return found
    try:
        texts = columns.texts(selection, grouped_by)
    except QueryError:
        return found
    for row, text in enumerate(texts.tolist()):
        if text is not None:
            found[row] = _hash("group", grouped_by, text)
    return found


@lru_cache(maxsize=1 << 17)
def _hash(*parts: object) -> int:
    text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
