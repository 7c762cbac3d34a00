"""Walks over a pickle's instructions without executing them, to refuse what would exhaust memory.

Python's unpickler trusts lengths, memo indices and nesting: a file of a few bytes can make it
reserve gigabytes, and tuples that nest a million deep or share their parts over and over
overflow the C stack or take for ever when they are hashed.
"""

from __future__ import annotations

import mmap
import pickletools
from typing import Final, NamedTuple

from actstore.errors import UnreadableFileError, UnsafeFileError

# Ample for any file of tensors: 31 tensors take a thousand instructions, one million token
# ids take one million.
MAX_INSTRUCTIONS: Final = 20_000_000
MAX_TUPLE_DEPTH: Final = 100
MAX_TUPLE_VALUES: Final = 20_000_000

_LENGTH_BYTES: Final = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}

# EXT* look classes up in a process-wide table, past any allow-list; the buffer instructions
# need data from outside the file.
_REFUSED: Final = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}
_PUTS: Final = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS: Final = {"GET", "BINGET", "LONG_BINGET"}


class _Nested(NamedTuple):
    """How far hashing a value would go: through tuples, and no further."""

    depth: int
    values: int


_PLAIN: Final = _Nested(0, 1)
_MARK: Final = _Nested(-1, 0)


class _Instruction(NamedTuple):
    name: str
    argument: int
    """Bytes of the argument, or one of pickletools' negative codes."""
    pops: int
    pops_to_mark: bool
    pushes: int


def _table() -> list[_Instruction | None]:
    table: list[_Instruction | None] = [None] * 256
    for opcode in pickletools.opcodes:
        to_mark = pickletools.markobject in opcode.stack_before
        pops = [
            each
            for each in opcode.stack_before
            if each not in (pickletools.markobject, pickletools.stackslice)
        ]
        table[ord(opcode.code)] = _Instruction(
            opcode.name,
            0 if opcode.arg is None else opcode.arg.n,
            # OBJ's class lies above the mark, where popping to the mark takes it along.
            0 if opcode.name == "OBJ" else len(pops),
            to_mark,
            len(opcode.stack_after),
        )
    return table


_TABLE: Final = _table()


def check(data: bytes | mmap.mmap, start: int = 0) -> int:
    """Check one pickle that begins at ``start`` in ``data``; return where it ends.

    Raises UnreadableFileError where the bytes are no whole pickle, and UnsafeFileError where
    it asks for more than its own size can justify. The caller adds the file's name.
    """
    total = len(data)
    position = start
    # What the unpickler will have on its stack and in its memo.
    stack: list[_Nested] = []
    memo: dict[int, _Nested] = {}
    for _ in range(MAX_INSTRUCTIONS):
        if position >= total:
            raise UnreadableFileError(
                f"the pickle breaks off after {total:,} bytes, without an end"
            )
        instruction = _TABLE[data[position]]
        if instruction is None:
            raise UnreadableFileError(
                f"byte {position} (0x{data[position]:02x}) is no pickle instruction"
            )
        name = instruction.name
        if name in _REFUSED:
            raise UnsafeFileError(f"the pickle uses the instruction {name}, which no tensor needs")
        argument = position + 1
        position = _end_of_argument(data, argument, instruction)
        if position > total:
            raise UnreadableFileError(
                f"the pickle's {name} announces {position - argument:,} bytes, but the file holds "
                f"only {total:,} in all: it is cut off or damaged"
            )
        if name == "STOP":
            return position
        if name in _PUTS:
            index = _memo_index(data, argument, position, name)
            # The unpickler reserves its memo up to the highest index; writers count up from 0.
            if index > total:
                raise UnsafeFileError(
                    f"the pickle of {total:,} bytes uses the memo index {index:,}, beyond its own "
                    "length, which would reserve memory for nothing"
                )
            memo[index] = stack[-1] if stack else _PLAIN
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1] if stack else _PLAIN
        elif name in _GETS:
            stack.append(memo.get(_memo_index(data, argument, position, name), _PLAIN))
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "DUP":
            stack.append(stack[-1] if stack else _PLAIN)
        else:
            _apply(instruction, stack)
    raise UnsafeFileError(f"the pickle has more than {MAX_INSTRUCTIONS:,} instructions")


def _apply(instruction: _Instruction, stack: list[_Nested]) -> None:
    popped: list[_Nested] = []
    if instruction.pops_to_mark:
        while stack and (top := stack.pop()) is not _MARK:
            popped.append(top)
    for _ in range(instruction.pops):
        # Too few values: the unpickler itself will say so.
        if stack:
            popped.append(stack.pop())
    result = _PLAIN
    if instruction.name.startswith("TUPLE"):
        depth = 1 + max((each.depth for each in popped), default=0)
        values = 1 + sum(each.values for each in popped)
        if depth > MAX_TUPLE_DEPTH or values > MAX_TUPLE_VALUES:
            raise UnsafeFileError(
                f"the pickle nests tuples more than {MAX_TUPLE_DEPTH} deep, "
                f"or into more than {MAX_TUPLE_VALUES:,} values"
            )
        result = _Nested(depth, values)
    stack.extend([result] * instruction.pushes)


def _end_of_argument(data: bytes | mmap.mmap, start: int, instruction: _Instruction) -> int:
    width = instruction.argument
    if width >= 0:
        end = start + width
        if instruction.name == "FRAME":
            frame = int.from_bytes(data[start:end], "little")
            # Only checked: a frame's instructions are walked over one by one.
            return end if end + frame <= len(data) else end + frame
        return end
    if width == pickletools.UP_TO_NEWLINE:
        for _ in range(2 if instruction.name in ("GLOBAL", "INST") else 1):
            found = data.find(b"\n", start)
            if found < 0:
                return len(data) + 1
            start = found + 1
        return start
    lead = _LENGTH_BYTES[width]
    return start + lead + int.from_bytes(data[start : start + lead], "little")


def _memo_index(data: bytes | mmap.mmap, start: int, end: int, name: str) -> int:
    if name not in ("PUT", "GET"):
        return int.from_bytes(data[start:end], "little")
    digits = data[start : end - 1]
    if not digits.isdigit() or len(digits) > 20:
        raise UnreadableFileError(f"the pickle has a malformed {name} at byte {start}")
    return int(digits)
