"""The part of Thrift's compact protocol that Parquet footers and page headers use.

Format: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
A structure is a ``dict`` from field id to :class:`Field`, a list is :class:`ListOf`, so a
footer written by somebody else survives decode and encode with every field, known or not.
Where only some fields matter, :func:`partly` leaves the others as they are encoded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
_INTEGERS = frozenset({I16, I32, I64})
_NESTED = frozenset({STRUCT, LIST, SET})
_DEEPEST = 64


class Field(NamedTuple):
    """One field of a structure: its wire type and its value."""

    type: int
    value: Any


class ListOf(NamedTuple):
    """A list or set: the wire type of its items and the items."""

    type: int
    items: list[Any]


Wanted = dict[int, "Wanted"]
"""Fields of a structure that are decoded though they are nested, and which in each of them."""


class Encoded(bytes):
    """A structure or list as it is encoded, not looked into."""


Struct = dict[int, Field]


def i32(value: int) -> Field:
    """Make a 32-bit field."""
    return Field(I32, value)


def i64(value: int) -> Field:
    """Make a 64-bit field."""
    return Field(I64, value)


def binary(value: bytes) -> Field:
    """Make a binary or string field."""
    return Field(BINARY, value)


def struct(value: Struct) -> Field:
    """Make a field that holds a structure."""
    return Field(STRUCT, value)


def list_of(type_: int, items: list[Any]) -> Field:
    """Make a field that holds a list."""
    return Field(LIST, ListOf(type_, items))


def decode(data: bytes) -> Struct:
    """Decode one structure.

    Raises:
        ValueError: the bytes are not a compact-protocol structure.
    """
    return decode_prefix(data)[0]


def decode_prefix(data: bytes) -> tuple[Struct, int]:
    """Decode the structure that ``data`` starts with; also return its length in bytes.

    Raises:
        ValueError: the bytes are not a compact-protocol structure.
    """
    try:
        return _read_struct(data, 0, 0)
    except (IndexError, OverflowError) as error:
        raise ValueError("not a Thrift structure: the bytes end early") from error


def partly(data: bytes, wanted: Wanted) -> Struct:
    """Decode one structure; what is nested in it and not wanted becomes :class:`Encoded`.

    Raises:
        ValueError: the bytes are not a compact-protocol structure.
    """
    try:
        return _read_struct(data, 0, 0, wanted)[0]
    except (IndexError, OverflowError) as error:
        raise ValueError("not a Thrift structure: the bytes end early") from error


def encode(value: Struct) -> bytes:
    """Encode one structure."""
    out = bytearray()
    _write(out, STRUCT, value)
    return bytes(out)


def part(fields: Struct, after: int, until: int | None = None) -> bytes:
    """Encode the fields of a structure between two, up to the very value of the second.

    Pieces and values, one behind the other, are the structure as :func:`encode` gives it.

    Args:
        fields: of the structure.
        after: number of the field before the piece; 0: none.
        until: number of the field whose value comes behind the piece; None: the structure ends.
    """
    out = bytearray()
    chosen = {
        number: field
        for number, field in fields.items()
        if number > after and (until is None or number < until)
    }
    last = _write_fields(out, chosen, after)
    if until is None:
        out.append(0)
    else:
        _write_head(out, until - last, until, fields[until].type)
    return bytes(out)


def list_head(size: int, type_: int) -> bytes:
    """Encode what stands before the items of a list."""
    return bytes([size << 4 | type_]) if size < 15 else bytes([0xF0 | type_]) + varint(size)


def integer(value: int) -> bytes:
    """Encode an integer that is the value of a field."""
    return varint(_zigzag(value))


def decode_list(data: Encoded) -> ListOf:
    """Decode a list that :func:`partly` left as it is encoded."""
    return _read_list(data, 0, 0, None)[0]


def encode_list(value: ListOf) -> Encoded:
    """Encode a list, to stand in a structure."""
    out = bytearray()
    _write(out, LIST, value)
    return Encoded(out)


def varint(number: int) -> bytes:
    """Encode an unsigned LEB128 integer, as Thrift and Parquet's level runs use."""
    if number < 1 << 7:
        return bytes((number,))
    if number < 1 << 14:
        return bytes((number & 127 | 128, number >> 7))
    if number < 1 << 21:
        return bytes((number & 127 | 128, number >> 7 & 127 | 128, number >> 14))
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
        if shift > 63:
            raise ValueError("not a Thrift structure: an integer is too long")


def _read(
    data: bytes, at: int, type_: int, depth: int, wanted: Wanted | None = None
) -> tuple[Any, int]:
    if depth > _DEEPEST:
        raise ValueError("not a Thrift structure: nested too deeply")
    if type_ in _INTEGERS:
        number, at = _read_varint(data, at)
        return (number >> 1) ^ -(number & 1), at
    if type_ == BINARY:
        size, at = _read_varint(data, at)
        if at + size > len(data):
            raise ValueError("not a Thrift structure: a string runs past the end")
        return bytes(data[at : at + size]), at + size
    if type_ == STRUCT:
        return _read_struct(data, at, depth, wanted)
    if type_ in (LIST, SET):
        return _read_list(data, at, depth, wanted)
    if type_ == BYTE:
        return data[at], at + 1
    if type_ == DOUBLE:
        return bytes(data[at : at + 8]), at + 8
    raise ValueError(f"not a Parquet structure: Thrift type {type_} does not occur there")


def _read_list_head(data: bytes, at: int) -> tuple[int, int, int]:
    """Return the number of a list's items, their type, and where they begin."""
    head = data[at]
    at += 1
    size = head >> 4
    if size == 15:
        size, at = _read_varint(data, at)
    if size > len(data) - at:
        raise ValueError("not a Thrift structure: a list runs past the end")
    return size, head & 15, at


def _read_list(data: bytes, at: int, depth: int, wanted: Wanted | None) -> tuple[ListOf, int]:
    size, item_type, at = _read_list_head(data, at)
    items = []
    for _ in range(size):
        if item_type in (TRUE, FALSE):
            items.append(data[at] == TRUE)
            at += 1
        else:
            item, at = _read(data, at, item_type, depth + 1, wanted)
            items.append(item)
    return ListOf(item_type, items), at


def _read_struct(
    data: bytes, at: int, depth: int, wanted: Wanted | None = None
) -> tuple[Struct, int]:
    fields: Struct = {}
    number = 0
    while True:
        head = data[at]
        at += 1
        if head == 0:
            return fields, at
        type_ = head & 15
        if head > 15:
            number += head >> 4
        else:
            raw, at = _read_varint(data, at)
            number = (raw >> 1) ^ -(raw & 1)
        if type_ in _INTEGERS and data[at] < 128:  # most fields: saves two calls
            raw = data[at]
            at += 1
            fields[number] = Field(type_, (raw >> 1) ^ -(raw & 1))
        elif type_ in (TRUE, FALSE):
            fields[number] = Field(TRUE, type_ == TRUE)
        elif wanted is not None and number not in wanted and type_ in _NESTED:
            start, at = at, _end(data, at, type_, depth + 1)
            fields[number] = Field(type_, Encoded(data[start:at]))
        else:
            within = None if wanted is None else wanted.get(number)
            value, at = _read(data, at, type_, depth + 1, within)
            fields[number] = Field(type_, value)


def _end(data: bytes, at: int, type_: int, depth: int) -> int:
    """Return where a structure or list ends."""
    if type_ == STRUCT:
        while head := data[at]:
            at += 1
            if head < 16:
                at = _read_varint(data, at)[1]
            item = head & 15
            if item in _INTEGERS and data[at] < 128:
                at += 1
            elif item not in (TRUE, FALSE):
                at = _end_of_item(data, at, item, depth + 1)
        return at + 1
    size, item, at = _read_list_head(data, at)
    if item in (TRUE, FALSE):
        return at + size
    for _ in range(size):
        at = _end_of_item(data, at, item, depth + 1)
    return at


def _end_of_item(data: bytes, at: int, type_: int, depth: int) -> int:
    if type_ in _NESTED and depth <= _DEEPEST:
        return _end(data, at, type_, depth)
    return int(_read(data, at, type_, depth)[1])


def _zigzag(number: int) -> int:
    return (number << 1) ^ (number >> 63)


def _write(out: bytearray, type_: int, value: Any) -> None:
    if type(value) is Encoded:
        out += value
    elif type_ in _INTEGERS:
        if -64 <= value < 64:
            out.append((value << 1) ^ (value >> 63))
        else:
            out += varint(_zigzag(value))
    elif type_ == BINARY:
        out += varint(len(value)) + value
    elif type_ == STRUCT:
        _write_struct(out, value)
    elif type_ in (LIST, SET):
        out += list_head(len(value.items), value.type)
        for item in value.items:
            if value.type in (TRUE, FALSE):
                out.append(TRUE if item else FALSE)
            else:
                _write(out, value.type, item)
    elif type_ == BYTE:
        out.append(value)
    else:  # DOUBLE is kept as its eight bytes
        out += value


def _write_struct(out: bytearray, fields: Struct) -> None:
    _write_fields(out, fields, 0)
    out.append(0)


def _write_fields(out: bytearray, fields: Struct, previous: int) -> int:
    """Write fields that follow another one; return the number of the last."""
    for number in sorted(fields):
        type_, value = fields[number]
        if type_ == TRUE:
            type_ = TRUE if value else FALSE
        _write_head(out, number - previous, number, type_)
        previous = number
        if type_ not in (TRUE, FALSE):
            _write(out, type_, value)
    return previous


def _write_head(out: bytearray, step: int, number: int, type_: int) -> None:
    if 0 < step < 16:
        out.append(step << 4 | type_)
    else:
        out.append(type_)
        out += varint(_zigzag(number))
