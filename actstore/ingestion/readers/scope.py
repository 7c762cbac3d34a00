"""Answers the references of a recipe's expressions for one file, tensor, row and token."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from actstore.errors import LayoutError, RecipeError, SidecarError
from actstore.ingestion import documents
from actstore.ingestion.expression import Index, Reference
from actstore.ingestion.recipe import ColumnSource, SidecarSpec
from actstore.ingestion.sidecar_table import Record, SidecarTable
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.template import part_value
from actstore.ingestion.tensor import Tensor
from actstore.ingestion.values import convert, text
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.ingestion.readers import Context

_ROW_OF_EXAMPLES = ("{row}", "{axis.example}")
"""Expressions of a table's row that go through the examples of one tensor."""


def column_value(name: str, source: ColumnSource, scope: FileScope) -> Any:
    """Return the value of a column, in its type, or None.

    Raises:
        LayoutError: the value cannot become the column's type.
    """
    value = source.expression.evaluate(scope)
    if source.pattern is not None and value is not None:
        match = source.pattern.search(text(value))
        value = match and (match[1] if match.re.groups else match[0])
    if source.map and value is not None:
        value = source.map.get(text(value), value)
    if value is None and source.default is not None:
        value = source.default.evaluate(scope)
    return convert(name, value)


class FileScope:
    """The values behind ``{file.X}``, ``{path.X}``, ``{sidecar.X.Y}`` … of one file.

    ``key``, ``row``, ``axis`` and ``token`` are moved along by the reader.
    """

    __slots__ = (
        "_active",
        "_columns",
        "_context",
        "_document",
        "_file",
        "_lists",
        "axis",
        "entry",
        "examples",
        "key",
        "key_text",
        "row",
        "rows",
        "tensor",
        "token",
    )

    def __init__(
        self,
        file: SourceFile,
        document: Any,
        columns: Mapping[str, ColumnSource],
        context: Context,
        entry: str | int | None = None,
    ) -> None:
        self._file = file
        self._document = document
        self._columns = columns
        self._context = context
        self._lists: dict[str, Any] = {}
        self._active: set[str] = set()
        self.entry = entry
        """Position or key of the document within its file, where the file holds several."""
        self.key: Mapping[str, Any] = {}
        """Named parts of the tensor's key."""
        self.key_text = ""
        self.tensor: Tensor | None = None
        self.row: int | None = None
        self.rows = 1
        """Rows of the tensor at hand."""
        self.examples: int | None = None
        """Examples among which ``row`` counts; None where that is not known."""
        self.axis: Mapping[str, int] = {}
        """Axis: index of the row along it."""
        self.token: int | None = None

    def with_columns(self, columns: Mapping[str, ColumnSource]) -> None:
        """Let ``{column.X}`` mean these columns from here on."""
        self._columns = columns

    def value(self, ref: Reference) -> Any:
        """Return the value of a reference, or None.

        Raises:
            LayoutError: a list that should hold a value for each row is of another length.
        """
        root = ref.root
        if root == "path":
            return part_value(self._file.parts, ref.rest)
        if root == "key":
            return self.key.get(ref.rest)
        if root == "file":
            return self._from_file(ref)
        if root == "row":
            return self.row
        if root == "token":
            return self.token
        if root == "entry":
            return self.entry
        if root == "axis":
            return self.axis.get(ref.rest)
        if root == "column":
            return self._column(ref.rest)
        if root == "sidecar":
            return self._from_sidecar(ref.rest)
        if root == "tensor":
            return self._about_tensor(ref.rest)
        return self._about_file(root)

    def _about_file(self, root: str) -> Any:
        file = self._file
        if root == "cache":
            return file.cache
        if root == "stem":
            return PurePosixPath(file.relative).stem
        if root == "name":
            return PurePosixPath(file.relative).name
        return file.path.parent.name if root == "folder" else file.relative

    def _about_tensor(self, what: str) -> Any:
        if what == "key":
            return self.key_text
        if self.tensor is None:
            return None
        return {"dtype": self.tensor.dtype, "shape": list(self.tensor.shape)}.get(what)

    def _from_file(self, ref: Reference) -> Any:
        if ref.index is Index.WHOLE:
            value = documents.find(self._document, ref.rest)
            if isinstance(value, Tensor) and not value.ndim:
                return value.item()
            return value
        values = self._list(ref.rest)
        if not isinstance(values, list):
            return values
        if ref.index is not Index.TOKEN:
            if len(values) == self.rows:
                return _at(values, self.row)
            plain = not any(isinstance(value, (dict, list, tuple)) for value in values)
            if ref.index is Index.ROW or (plain and self.rows > 1):
                raise LayoutError(
                    f"{ref.rest} holds {counted(len(values), 'value')} for "
                    f"{counted(self.rows, 'row')}, and nothing says which belongs to which: one "
                    "for each row is needed, or a single value that is no list"
                )
            return values
        # One row of tokens per example, or the tokens of the only example.
        if values and isinstance(values[0], list):
            inner = values[0] if len(values) == 1 else _at(values, self.row)
            return _at(inner, self.token) if isinstance(inner, list) else None
        return _at(values, self.token)

    def _list(self, dotted: str) -> Any:
        """Return a value of the file with tensors as lists, made once per file."""
        if dotted not in self._lists:
            value = documents.find(self._document, dotted)
            if isinstance(value, Tensor):
                value = value.tolist()
            elif isinstance(value, tuple):
                value = list(value)
            self._lists[dotted] = value
        return self._lists[dotted]

    def _column(self, name: str) -> Any:
        if name in self._active:
            raise RecipeError(f"column {name} depends on itself")
        source = self._columns.get(name)
        if source is None:
            return None
        self._active.add(name)
        try:
            return column_value(name, source, self)
        finally:
            self._active.discard(name)

    def _from_sidecar(self, rest: str) -> Any:
        name, _, column = rest.partition(".")
        record = self.record(name)
        if record is None or not column:
            return record
        return documents.find(record, column)

    def record(self, name: str) -> Record | None:
        """Return the row of a sidecar that belongs here, or None.

        Raises:
            SidecarError: the table is required and missing, or cannot be joined.
        """
        spec = self._context.recipe.sidecar(name)
        table = self._context.sidecars.table(name, self._file)
        if table is None:
            return None
        if spec.row is not None:
            number = spec.row.evaluate(self)
            if number is None:
                return None
            at = self._row_of(spec, table, number)
            record = table.at(at)
            self._context.sidecars.asked(name, (self._file.relative, number), record is not None)
            return record
        wanted = {column: each.evaluate(self) for column, each in spec.on.items()}
        if not wanted or None in wanted.values():
            return None
        record = table.find(wanted)
        self._context.sidecars.asked(name, tuple(wanted.values()), record is not None)
        return record

    def _row_of(self, spec: SidecarSpec, table: SidecarTable, number: Any) -> int:
        """Return the row of a table that is joined by position.

        Raises:
            SidecarError: it has fewer or more rows than that takes.
        """
        source = spec.row.source if spec.row is not None else None
        try:
            at: int = convert("example_index", number)
        except LayoutError as error:
            raise SidecarError(
                f"sidecar {spec.name}: row = {source} is {number!r}; expected a whole number"
            ) from error
        in_order = source in _ROW_OF_EXAMPLES and self.examples is not None
        fits = self.examples == len(table) if in_order else 0 <= at < len(table)
        if fits or not spec.complete:
            return at
        needed = counted(self.examples or 0, "example") if in_order else f"row {at}, from 0"
        raise SidecarError(
            f"sidecar {spec.name}: {table.path.name} has {counted(len(table), 'row')} for {needed},"
            " and is joined by their order, which would shift them; repair the table, or say "
            "complete = false in the recipe's [[sidecars]] where its first rows are those of the "
            "first examples all the same"
        )


def _at(values: list[Any], index: int | None) -> Any:
    return values[index] if index is not None and 0 <= index < len(values) else None
