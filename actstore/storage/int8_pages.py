"""How int8 lies in Parquet at one byte per value: numbers of a dictionary that are the bytes.

Parquet has no 8-bit type: an INT(8) is stored as 32 bits where it is plain. A dictionary of all
256 numbers, in the order of their bytes (0 to 127, then -128 to -1), makes the number of an
entry, read as a signed byte, the entry itself. A data page of such numbers, bit-packed at a
width of 8 bits in one run, is then the vectors' own bytes, and every reader of Parquet sees
whole numbers.

Format facts, from https://github.com/apache/parquet-format:

- ``Encodings.md``: the values of an RLE_DICTIONARY page are one byte, the width in bits, and runs;
  a bit-packed run is ``varint(groups << 1 | 1)`` and its groups of 8 values, the last one filled
  up. The dictionary's page is PLAIN and comes before the data page.
- ``LogicalTypes.md``: INT(8, signed) annotates an INT32, as INT_8 does in the older words.
"""

from __future__ import annotations

from functools import cache
from typing import BinaryIO

import numpy as np
from isal import isal_zlib

from actstore.storage import thrift
from actstore.storage.thrift import Field, Struct

GROUP = 8
"""Values of which a run holds a multiple."""
LEAD_BYTES = 1_200
"""More bytes than the dictionary's page and the head of the run take."""

_INT_8 = 15
_DICTIONARY_PAGE, _PLAIN = 2, 0
_WIDTH = 8
"""Bits of a value."""


@cache
def dictionary_page() -> bytes:
    """Return the page of the dictionary, its header included."""
    body = np.arange(256).astype(np.int8).astype("<i4").tobytes()
    crc = isal_zlib.crc32(body)
    header = thrift.encode(
        {
            1: thrift.i32(_DICTIONARY_PAGE),
            2: thrift.i32(len(body)),
            3: thrift.i32(len(body)),
            4: thrift.i32(crc - (1 << 32) if crc >> 31 else crc),
            7: thrift.struct({1: thrift.i32(256), 2: thrift.i32(_PLAIN)}),
        }
    )
    return header + body


def run_head(values: int) -> bytes:
    """Return what stands before the bytes of ``values`` values: their width, and one run's head."""
    groups = -(-values // GROUP)
    return bytes([_WIDTH]) + thrift.varint(groups << 1 | 1)


def annotation() -> Struct:
    """Return the fields of a schema element that make an INT32 an int8."""
    whole = {1: Field(thrift.BYTE, _WIDTH), 2: Field(thrift.TRUE, True)}
    return {6: thrift.i32(_INT_8), 10: thrift.struct({10: thrift.struct(whole)})}


def has_dictionary(file: BinaryIO, start: int, stop: int) -> bool:
    """Say whether the page between two places of a file is the dictionary of all bytes."""
    expected = dictionary_page()
    file.seek(start)
    return stop - start == len(expected) and file.read(len(expected)) == expected
