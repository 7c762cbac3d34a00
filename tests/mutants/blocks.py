"""The blocks of a module (bodies of functions, branches and loops), and marks on entering them."""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType

Mark = tuple[str, int]
"""A block: its module's path in the project, and the line that its first statement stands in."""
_ENTERED = "__entered__"


def block_at(source: bytes, line: int) -> int | None:
    """Return the first line of the innermost block around a line; None outside of functions."""
    first = [
        block[0].lineno
        for block in _blocks(ast.parse(source))
        if block[0].lineno <= line <= (block[-1].end_lineno or line)
    ]
    return max(first, default=None)


def _blocks(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef):
            continue
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and block:
                yield block


class Marking(importlib.abc.MetaPathFinder):
    """Imports a package so that its blocks add themselves to a set as they are entered."""

    def __init__(self, root: Path, package: str) -> None:
        self.seen: set[int] = set()
        self._root = root
        self._package = package
        self._marks: list[Mark] = []

    def marks(self, numbers: set[int]) -> list[Mark]:
        return sorted(self._marks[number] for number in numbers)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != self._package:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path, self)
        return spec

    def compiled(self, source: bytes, path: str) -> CodeType:
        tree = ast.parse(source)
        inside = Path(path).relative_to(self._root).as_posix()
        for block in list(_blocks(tree)):
            entered = ast.Name(_ENTERED, ast.Load())
            mark = ast.Expr(ast.Call(entered, [ast.Constant(len(self._marks))], []))
            self._marks.append((inside, block[0].lineno))
            documented = isinstance(block[0], ast.Expr) and isinstance(block[0].value, ast.Constant)
            block.insert(int(documented), ast.copy_location(mark, block[0]))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, marking: Marking) -> None:
        super().__init__(name, path)
        self._marking = marking

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self._marking.compiled(self.get_data(path), path)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__[_ENTERED] = self._marking.seen.add
        super().exec_module(module)
