"""The two classes that a probe or vector tells apart, found among the values of a column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from actstore.errors import NotInStoreError, TooFewRowsError, UsageError
from actstore.schema import is_no_label

_LISTED = 12
_NAMED = 4
"""Values of a class that its short name has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """Which values of a column are the positive class, and which the negative one."""

    column: str
    """The metadata column, ``label`` as a rule."""
    positive: tuple[str, ...]
    negative: tuple[str, ...]

    @property
    def names(self) -> tuple[str, str]:
        """Both classes in short, the positive one first."""
        return _either(self.positive), _either(self.negative)


def _either(values: Sequence[str]) -> str:
    if len(values) > _NAMED:
        values = [*values[: _NAMED - 1], f"{len(values) - _NAMED + 1} others"]
    return " or ".join(values)


def find(
    column: str,
    values: Iterable[object],
    positive: str | float | Sequence[str | float] | None = None,
    negative: str | float | Sequence[str | float] | None = None,
    *,
    option: str = "--label",
) -> Classes:
    """Decide on the classes.

    Where neither is named there must be two values; the second in alphabetical order is
    positive, as in scikit-learn. Where one is named, all other values are the other class.

    Args:
        column: name of the column, for messages.
        values: its values, one per row; null, NaN and an empty text do not count.
        positive: value or values of the positive class.
        negative: the same for the negative class.
        option: what names the column on the command line, for messages.

    Raises:
        TooFewRowsError: there is one value only, or none.
        NotInStoreError: a named value does not occur.
        UsageError: more than two values and none is named, or one is in both classes.
    """
    counts = _counted(values)
    wanted, others = listed(positive), listed(negative)
    both = set(wanted) & set(others)
    if both:
        raise UsageError(f"{sorted(both)[0]!r} is named as positive and as negative")
    for value in (*wanted, *others):
        if value not in counts:
            raise NotInStoreError(
                f"no row has {column} {value!r}: {column} has {_told(counts) or 'no values'}"
            )
    _two_at_least(column, counts, option)
    if not wanted and not others:
        if len(counts) > 2:
            raise UsageError(
                f"{column} has more than two values, {_told(counts)}: name one with --positive "
                "(all others are then negative), or both with --negative too"
            )
        others, wanted = ((value,) for value in sorted(counts))
    wanted = wanted or tuple(sorted(set(counts) - set(others)))
    others = others or tuple(sorted(set(counts) - set(wanted)))
    if not wanted or not others:
        raise TooFewRowsError(
            f"every row with a {column} is of one class: {column} has {_told(counts)}"
        )
    return Classes(column=column, positive=wanted, negative=others)


def several(column: str, values: Iterable[object], *, option: str = "--label") -> tuple[str, ...]:
    """Return all classes of a column, in alphabetical order.

    Args:
        column: name of the column, for messages.
        values: its values, one per row; null, NaN and an empty text do not count.
        option: what names the column on the command line, for messages.

    Raises:
        TooFewRowsError: there is one value only, or none.
    """
    counts = _counted(values)
    _two_at_least(column, counts, option)
    return tuple(sorted(counts))


def alike(
    wanted: Sequence[str], values: Iterable[object], others: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the values that mean the same classes: equal, or one word the start of the other.

    Document 002 calls its classes test and deploy in one cache, testing and deployment in
    the other.

    Args:
        wanted: the classes.
        values: of a column; null, NaN and an empty text do not count.
        others: classes that are held against these: what means one of them, or may mean either
            (``harmless`` beside ``harm``), is none of these.
    """
    known = sorted({text(value) for value in values if not is_no_label(value)})
    equal = tuple(value for value in known if value in wanted)
    if equal:
        return equal
    return tuple(
        value for value in known if _begin_alike(value, wanted) and not _begin_alike(value, others)
    )


def _begin_alike(value: str, names: Sequence[str]) -> bool:
    return any(value.startswith(one) or one.startswith(value) for one in names if one and value)


def _counted(values: Iterable[object]) -> Counter[str]:
    """Return how often each value occurs, by its text."""
    found: Counter[str] = Counter()
    for value, count in Counter(value for value in values if not is_no_label(value)).items():
        found[text(value)] += count
    return found


def text(value: object) -> str:
    """Return a value as text, as Arrow has it, which writes 2 for 2.0."""
    if isinstance(value, str):
        return value
    import pyarrow as pa

    return str(pa.scalar(value).cast("string").as_py())


def listed(names: object) -> tuple[str, ...]:
    """Return the classes that a caller names, one or several, by their texts; None names none.

    Raises:
        UsageError: one of them is no value that a column can hold.
    """
    if names is None:
        return ()
    if isinstance(names, Iterable) and not isinstance(names, str | bytes):
        found = list(names)
    else:
        found = [names]
    for name in found:
        if not isinstance(name, str | bool | int | float | np.generic):
            raise UsageError(
                f"a class is named by its text, number or truth value, or by a list of these, "
                f"got {name!r}"
            )
    return tuple(text(name) for name in found)


def _two_at_least(column: str, counts: Counter[str], option: str) -> None:
    if len(counts) < 2:
        raise TooFewRowsError(
            f"two classes are needed, and the rows have {_told(counts) or 'no ' + column}: give "
            f"them labels with `actstore label`, or name another column with {option}"
        )


def _told(counts: Counter[str]) -> str:
    told = [f"{value} ({count:,})" for value, count in counts.most_common(_LISTED)]
    return ", ".join(told) + (", …" if len(counts) > _LISTED else "")
