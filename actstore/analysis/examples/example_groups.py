"""Which rows belong together, so that a probe is never tested on what it was trained on.

Two phrasings of one example, and one question asked in several examples, are not
independent: what tells them apart from others is learned from one and found in the other.
So rows that share their example or their question are kin, and so are rows that are kin of
the same row: the groups are the connected components, over all rows of a run at once.

An example is known by its data set, split and id: ids count from 0 again in each split. Where
no data set is named, an id means something within its own store alone; of another store's
row with that id, it is the same example if the same run made it, or if one of the two has no
question that could tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from actstore.querying import row_texts
from actstore.querying.metadata import ROW_ID

if TYPE_CHECKING:
    import pyarrow as pa

    from actstore.querying.selected import SelectedRows

EXAMPLE, DEFAULT = "example_id", "example_id or question"
"""What keeps rows together by default, without questions and with them."""
COLUMNS = (
    *("dataset", "example_id", "split", "example_index", "mode", "variant", "position"),
    "question",
)
"""What :func:`of_table` needs."""
_LEVELS = (
    ("dataset", "split", "example_id"),
    ("example_index", "mode", "variant"),
    ("position",),
)
"""What tells examples apart, then versions of an example, then tokens of a version."""
_STORE = "__store__"
"""Number of the store whose ids a row has, where no data set is named and there are several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleGroups:
    """The groups of some rows."""

    groups: np.ndarray
    """Number of each row's group, int64 ``[rows]``, from 0 in the order of their first rows."""
    units: np.ndarray
    """Numbers of each row's example, version of the example and token, int64 ``[rows, 3]``:
    what labels belong to, from the largest to the smallest. A vector of the same token at
    another layer has the same numbers."""
    grouped_by: str
    """What kept rows together: ``example_id or question``, ``example_id``, or what was given."""

    @property
    def count(self) -> int:
        """How many groups there are."""
        return int(self.groups.max(initial=-1)) + 1

    def part(self, rows: np.ndarray | slice) -> ExampleGroups:
        """Return that of some of the rows, group numbers unchanged."""
        return ExampleGroups(
            groups=self.groups[rows], units=self.units[rows], grouped_by=self.grouped_by
        )


def groups_of(
    selections: SelectedRows | Sequence[SelectedRows],
    group_by: str | None = None,
    *,
    used: np.ndarray | None = None,
    notes: list[str] | None = None,
) -> ExampleGroups:
    """Return which rows of one or several selections must stay on one side.

    Args:
        selections: rows, of several stores if wanted; one after the other in the result.
        group_by: a column, ``extra.FIELD`` or an SQL expression whose equal values stay
            together; rows where it is null go with the other rows of their example. By default
            rows that share their example (``dataset``, ``split`` and ``example_id``) or their
            question, and all that are connected so; by example alone where one question is
            that of all rows.
        used: bool ``[rows]``: those that matter to whether there is one question for all.
        notes: takes remarks on what was decided.

    Raises:
        NotInStoreError: there is no such column or field.
        SqlError: the expression is refused or fails.
    """
    import pyarrow as pa

    several = selections if isinstance(selections, Sequence) else [selections]
    tables = [selection.table([*COLUMNS, "run_id"]) for selection in several]
    given = None
    if group_by is not None and group_by.strip() not in (EXAMPLE, ROW_ID):
        given = np.concatenate([row_texts.texts(selection, group_by) for selection in several])
    table = pa.concat_tables(tables)
    if len(several) > 1:
        stores = np.repeat(np.arange(len(several)), [len(each) for each in tables])
        unnamed = table["dataset"].is_null().to_numpy()
        table = table.append_column(_STORE, pa.array(stores, mask=~unnamed))
    return of_table(table, group_by, given, used=used, notes=notes)


def of_table(
    table: pa.Table,
    group_by: str | None = None,
    given: np.ndarray | None = None,
    *,
    used: np.ndarray | None = None,
    notes: list[str] | None = None,
) -> ExampleGroups:
    """Return which rows of a table with :data:`COLUMNS` must stay on one side.

    Args:
        table: the rows.
        group_by: its name in the result; None for the default.
        given: the text of each row's group, object ``[rows]``, where ``group_by`` is given and
            is neither ``example_id`` nor ``row_id``, by which nothing stays together.
        used: as in :func:`groups_of`.
        notes: as in :func:`groups_of`.
    """
    units = _units(table)
    examples = _across_stores(table, units[:, 0])
    if group_by is not None and group_by.strip() == ROW_ID:
        # A row's number is another at each layer; what it is a vector of is not.
        return ExampleGroups(groups=_from_zero(units[:, 2]), units=units, grouped_by=ROW_ID)
    if group_by is not None:
        if given is None:
            groups = examples
        else:
            named = np.array([text is not None for text in given.tolist()], bool)
            numbers = _numbered(given[named].tolist())
            groups = examples + (int(numbers.max(initial=-1)) + 1)
            groups[named] = numbers
            # Its own group would part a row from its example's other rows, which have theirs.
            unnamed = np.isin(examples, examples[~named])
            groups = connected(groups, np.where(unnamed, examples, -1))
        return ExampleGroups(groups=_from_zero(groups), units=units, grouped_by=group_by.strip())
    questions = row_codes(table, ["question"])
    questions[_blank(table)] = -1
    seen = questions if used is None else questions[used]
    if not (seen >= 0).any():
        return ExampleGroups(groups=_from_zero(examples), units=units, grouped_by=EXAMPLE)
    if len(np.unique(seen)) == 1:
        if notes is not None and len(np.unique(examples)) > 1:
            notes.append("all rows have one question: what stays together goes by example_id")
        return ExampleGroups(groups=_from_zero(examples), units=units, grouped_by=EXAMPLE)
    return ExampleGroups(groups=connected(examples, questions), units=units, grouped_by=DEFAULT)


def connected(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the number of each row's component, where equal numbers connect rows.

    Args:
        one: int64 ``[rows]``, from 0.
        other: the same; rows with -1 are connected by ``one`` alone.

    Returns:
        int64 ``[rows]``, from 0 in the order of the components' first rows.
    """
    both = np.unique(np.column_stack([one, other])[other >= 0], axis=0)
    first = int(one.max(initial=-1)) + 1
    parent = list(range(first + int(other.max(initial=-1)) + 1))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    for left, right in both.tolist():
        a, b = root(left), root(first + right)
        if a != b:
            parent[max(a, b)] = min(a, b)
    roots = np.array([root(at) for at in range(first)], np.int64)
    return _from_zero(roots[one])


def _units(table: pa.Table) -> np.ndarray:
    """Return the numbers of each row's example, version and token, int64 ``[rows, 3]``."""
    found = np.zeros((len(table), len(_LEVELS)), np.int64)
    codes = np.zeros(len(table), np.int64)
    for level, names in enumerate(_LEVELS):
        here = [*names, _STORE] if level == 0 and _STORE in table.column_names else names
        codes = row_codes(table, here, codes)
        found[:, level] = codes
    return found


def row_codes(table: pa.Table, names: Sequence[str], codes: np.ndarray | None = None) -> np.ndarray:
    """Return a number for each row's values of some columns, and for ``codes`` beside them."""
    found = np.zeros(len(table), np.int64) if codes is None else codes
    for name in names:
        column = table[name].combine_chunks().dictionary_encode()
        part = column.indices.fill_null(-1).to_numpy(zero_copy_only=False) + 1
        found = found * (len(column.dictionary) + 1) + part
        # Numbered anew each time, so that products of many columns cannot overflow.
        found = np.unique(found, return_inverse=True)[1].astype(np.int64)
    return found


def _across_stores(table: pa.Table, examples: np.ndarray) -> np.ndarray:
    """Join what is one example in several stores though no data set is named."""
    if _STORE not in table.column_names:
        return examples
    unnamed = table[_STORE].is_valid().to_numpy()
    runs = row_codes(table, ["run_id", "split", "example_id"])
    runs[~unnamed] = -1
    ids = row_codes(table, ["split", "example_id"])
    silent = np.isin(ids, ids[unnamed & _blank(table)])
    ids[~(unnamed & silent)] = -1
    return connected(connected(examples, runs), ids)


def _blank(table: pa.Table) -> np.ndarray:
    """Return which rows have no question, bool ``[rows]``."""
    import pyarrow.compute as pc

    texts = pc.fill_null(pc.utf8_trim_whitespace(table["question"]), "")
    found: np.ndarray = pc.equal(texts, "").to_numpy()
    return found


def _numbered(texts: Sequence[str]) -> np.ndarray:
    known: dict[str, int] = {}
    return np.array([known.setdefault(text, len(known)) for text in texts], np.int64)


def _from_zero(numbers: np.ndarray) -> np.ndarray:
    """Number groups in the order of their first rows."""
    _, first, codes = np.unique(numbers, return_index=True, return_inverse=True)
    order = np.empty(len(first), np.int64)
    order[np.argsort(first, kind="stable")] = np.arange(len(first))
    found: np.ndarray = order[codes]
    return found
