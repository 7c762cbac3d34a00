"""The compact protocol: round trips, foreign footers unchanged, and damaged bytes refused."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore.storage import thrift
from actstore.storage.thrift import Field, ListOf
from tests.torture.effort import examples

_integers = st.integers(-(1 << 63), (1 << 63) - 1)
_scalars = st.one_of(
    st.builds(Field, st.sampled_from([thrift.I16, thrift.I32, thrift.I64]), _integers),
    st.builds(Field, st.just(thrift.BINARY), st.binary(max_size=300)),
    st.builds(Field, st.just(thrift.TRUE), st.booleans()),
    st.builds(Field, st.just(thrift.BYTE), st.integers(0, 255)),
    st.builds(Field, st.just(thrift.DOUBLE), st.binary(min_size=8, max_size=8)),
)


def _nested(children: st.SearchStrategy[Field]) -> st.SearchStrategy[Field]:
    structs = st.dictionaries(st.integers(1, 300), children, max_size=4)
    lists = st.one_of(
        st.builds(ListOf, st.just(thrift.I64), st.lists(_integers, max_size=20)),
        st.builds(ListOf, st.just(thrift.TRUE), st.lists(st.booleans(), max_size=20)),
        st.builds(ListOf, st.just(thrift.BINARY), st.lists(st.binary(max_size=9), max_size=20)),
        st.builds(ListOf, st.just(thrift.STRUCT), st.lists(structs, max_size=4)),
    )
    return st.one_of(
        st.builds(Field, st.just(thrift.STRUCT), structs),
        st.builds(Field, st.sampled_from([thrift.LIST, thrift.SET]), lists),
    )


structures = st.dictionaries(
    st.integers(1, 300), st.recursive(_scalars, _nested, max_leaves=12), max_size=6
)


@settings(deadline=None)
@given(structures)
def test_what_is_encoded_comes_back(value: thrift.Struct) -> None:
    assert thrift.decode(thrift.encode(value)) == value


@settings(deadline=None)
@given(structures, st.integers(0, 63))
def test_what_is_not_wanted_stays_as_it_is_encoded(value: thrift.Struct, mask: int) -> None:
    data = thrift.encode(value)
    wanted = {number for bit, number in enumerate(sorted(value)) if mask >> bit & 1}
    found = thrift.partly(data, {number: {} for number in wanted})
    assert thrift.encode(found) == data
    for number, field in value.items():
        nested = field.type in (thrift.STRUCT, thrift.LIST, thrift.SET)
        if nested and number not in wanted:
            assert isinstance(found[number].value, thrift.Encoded)
            if field.type != thrift.STRUCT:
                assert thrift.decode_list(found[number].value) == field.value
        elif not nested:
            assert found[number] == field


@settings(deadline=None)
@given(structures, st.binary(max_size=20))
def test_a_prefix_tells_its_length(value: thrift.Struct, rest: bytes) -> None:
    data = thrift.encode(value)
    assert thrift.decode_prefix(data + rest) == (value, len(data))


@settings(deadline=None, max_examples=examples(300))
@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    try:
        thrift.decode(data)
    except ValueError as error:
        assert "Thrift" in str(error)  # noqa: PT017 - most inputs raise, some do not


def test_every_cut_of_a_footer_is_refused() -> None:
    footer = _footer()
    for end in range(len(footer)):
        with pytest.raises(ValueError, match="Thrift"):
            thrift.decode(footer[:end])


def test_a_foreign_footer_survives_byte_for_byte() -> None:
    footer = _footer()
    assert thrift.encode(thrift.decode(footer)) == footer


def test_numbers_of_many_bytes() -> None:
    assert thrift.varint(0) == b"\0"
    assert thrift.varint(127) == b"\x7f"
    assert thrift.varint(128) == b"\x80\x01"
    assert thrift.varint(1 << 63) == b"\x80" * 9 + b"\x01"
    with pytest.raises(ValueError, match="too long"):
        thrift.decode(b"\x16" + b"\x80" * 10 + b"\x01\0")


def test_bombs_are_refused_before_they_take_memory() -> None:
    with pytest.raises(ValueError, match="past the end"):  # a list of 2**40 structures
        thrift.decode(b"\x19\xfc" + thrift.varint(1 << 40))
    with pytest.raises(ValueError, match="past the end"):  # a string of 2**40 bytes
        thrift.decode(b"\x18" + thrift.varint(1 << 40))
    with pytest.raises(ValueError, match="too deeply"):
        thrift.decode(b"\x1c" * 1000)


def _footer() -> bytes:
    """Return a footer with key-value metadata, statistics and page indexes."""
    buffer = io.BytesIO()
    table = pa.table(
        {"a": [1, None, 3], "b": ["x", "y", None], "c": [[1.0], [], None], "d": [True, False, None]}
    )
    pq.write_table(
        table.replace_schema_metadata({"key": "value"}),
        buffer,
        row_group_size=2,
        write_page_index=True,
        compression="zstd",
    )
    data: Any = buffer.getvalue()
    size = int.from_bytes(data[-8:-4], "little")
    return bytes(data[-8 - size : -8])


@settings(deadline=None, max_examples=examples(100))
@given(st.dictionaries(st.integers(1, 300), _scalars), st.integers(1, 300), _integers)
def test_pieces_around_a_value_are_the_whole(
    fields: dict[int, Field], number: int, value: int
) -> None:
    fields[number] = thrift.i64(value)
    around = thrift.part(fields, 0, number), thrift.part(fields, number)
    assert thrift.integer(value).join(around) == thrift.encode(fields)


def test_pieces_between_two_values() -> None:
    fields = {1: thrift.i32(7), 9: thrift.i64(5), 10: thrift.binary(b"x"), 30: thrift.i64(6)}
    parts = [
        thrift.part(fields, 0, 9),
        thrift.integer(5),
        thrift.part(fields, 9, 30),
        thrift.integer(6),
        thrift.part(fields, 30),
    ]
    assert b"".join(parts) == thrift.encode(fields)


@pytest.mark.parametrize("bits", range(0, 64, 7))
def test_unsigned_integers_at_the_edges_of_their_lengths(bits: int) -> None:
    for number in {max(0, (1 << bits) - 1), 1 << bits, (1 << bits) + 1}:
        encoded = thrift.varint(number)
        assert sum((byte & 127) << 7 * at for at, byte in enumerate(encoded)) == number
        assert all(byte > 127 for byte in encoded[:-1])
        assert encoded[-1] < 128
