"""Small wrong changes to Python code, each at one place: what a test should notice."""

from __future__ import annotations

import ast
import copy
import hashlib
from dataclasses import dataclass

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
}
_PLAIN = (ast.Name, ast.Attribute, ast.Call, ast.NamedExpr, ast.Subscript)
"""Conditions that are turned round: others have an operator that is changed anyway."""


@dataclass(frozen=True)
class Mutant:
    """One change, by its place in the file's bytes."""

    path: str
    where: str
    """The function it lies in, qualified as Python does; empty outside of functions."""
    line: int
    start: int
    stop: int
    was: str
    becomes: str
    repeat: int
    """How many equal changes of equal code come before it in the same function."""

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.becomes.encode() + source[self.stop :]

    def rank(self, seed: int) -> str:
        """Return what mutants are drawn by: the same whatever becomes of other code."""
        text = f"{seed} {self.path} {self.where} {self.was} {self.becomes} {self.repeat}"
        return hashlib.sha256(text.encode()).hexdigest()

    def __str__(self) -> str:
        inside = f" in {self.where}" if self.where else ""
        return f"{self.path}:{self.line}{inside}: {_short(self.was)}  →  {_short(self.becomes)}"


def mutants(path: str, source: bytes) -> list[Mutant]:
    """Return every mutant of a file, in the file's order."""
    finder = _Finder(path, source)
    finder.visit(ast.parse(source))
    return finder.found


def _short(code: str) -> str:
    text = " ".join(code.split())
    return text if len(text) <= 90 else text[:89] + "…"


class _Finder(ast.NodeVisitor):
    def __init__(self, path: str, source: bytes) -> None:
        self.found: list[Mutant] = []
        self._path = path
        self._source = source
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._scopes: list[tuple[str, bool]] = []
        self._seen: dict[tuple[str, str, str], int] = {}

    def _offer(self, node: ast.expr | ast.stmt, becomes: str) -> None:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._starts[node.lineno - 1] + node.col_offset
        stop = self._starts[node.end_lineno - 1] + node.end_col_offset
        was = self._source[start:stop].decode()
        inside = any(function for _, function in self._scopes)
        where = ".".join(name for name, _ in self._scopes) if inside else ""
        repeat = self._seen.setdefault((where, was, becomes), 0)
        self._seen[where, was, becomes] += 1
        self.found.append(Mutant(self._path, where, node.lineno, start, stop, was, becomes, repeat))

    def _offer_expression(self, node: ast.expr, changed: ast.expr) -> None:
        self._offer(node, f"({ast.unparse(changed)})")

    def _turned(self, condition: ast.expr) -> None:
        if isinstance(condition, _PLAIN):
            self._offer(condition, f"(not ({ast.unparse(condition)}))")

    # What is left alone.

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Messages, for the most part."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """Said to the type checker."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_arguments(self, node: ast.arguments) -> None:
        for default in [*node.defaults, *node.kw_defaults]:
            if default is not None:
                self.visit(default)

    # Definitions: they name the place, and their decorators and annotations are left alone.

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._enter(node.name, node.body, function=False)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.visit(node.args)
        self._enter(node.name, node.body, function=True)

    def _enter(self, name: str, body: list[ast.stmt], *, function: bool) -> None:
        local = "<locals>." if self._scopes and self._scopes[-1][1] else ""
        self._scopes.append((local + name, function))
        for statement in body:
            self.visit(statement)
        self._scopes.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    # Expressions.

    def visit_Compare(self, node: ast.Compare) -> None:
        for at, operator in enumerate(node.ops):
            if swapped := _COMPARED.get(type(operator)):
                changed = copy.deepcopy(node)
                changed.ops[at] = swapped()
                self._offer_expression(node, changed)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        changed = copy.deepcopy(node)
        changed.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self._offer_expression(node, changed)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub):
            self._offer_expression(node, node.operand)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if swapped := _COMPUTED.get(type(node.op)):
            changed = copy.deepcopy(node)
            changed.op = swapped()
            self._offer_expression(node, changed)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._offer(node, str(not value))
        elif isinstance(value, int):
            self._offer(node, f"{value + 1}")
        elif isinstance(value, float):
            self._offer(node, f"{2 * value + 1!r}")

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id == "zip":
            for iterable in node.args:  # `strict` guards against what cannot be, mostly
                self.visit(iterable)
            return
        for at, keyword in enumerate(node.keywords):
            if keyword.arg is not None:
                changed = copy.deepcopy(node)
                del changed.keywords[at]
                self._offer_expression(node, changed)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._turned(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for condition in node.ifs:
            self._turned(condition)
        self.generic_visit(node)

    # Statements.

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self._turned(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._turned(node.test)
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        empty = isinstance(node.value, ast.Constant) and node.value.value is None
        if node.value is not None and not empty:
            self._offer(node.value, "None")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call | ast.Await):
            self._offer(node, "pass")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._offer(node, "pass")

    def visit_Assign(self, node: ast.Assign) -> None:
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self._offer(node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if swapped := _COMPUTED.get(type(node.op)):
            changed = copy.deepcopy(node)
            changed.op = swapped()
            self._offer(node, ast.unparse(changed))
        self.generic_visit(node)

    def visit_Break(self, node: ast.Break) -> None:
        self._offer(node, "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._offer(node, "break")
