# SPDX-License-Identifier: Apache-2.0
"""Packed records: `u32 count, u32 length[count]`, payloads; and every block that only looks like one."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.strategies import corrupted, record_batches

from sipc.errors import RemoteProtocolError
from sipc.proto.records import RECORD_OVERHEAD, pack, packed_size, unpack

MOST = (1 << 32) - 1


def block(count: int, lengths: list[int], payload: bytes) -> bytes:
    """Lay out a block that may contradict itself."""
    return struct.pack(f"<I{len(lengths)}I", count, *lengths) + payload


def refusal(data: bytes) -> tuple[str, object, str]:
    """Unpack what must be refused; returns the error's field, value and bound."""
    with pytest.raises(RemoteProtocolError) as caught:
        unpack(data)
    return caught.value.field, caught.value.value, caught.value.bound


def test_packed_records_are_these_bytes() -> None:
    """Count, lengths, payloads back to back; little-endian."""
    golden = bytes.fromhex("03000000 02000000 00000000 01000000") + b"abc"
    assert pack([b"ab", b"", b"c"]) == golden
    assert unpack(golden) == [b"ab", b"", b"c"]


@given(record_batches)
def test_what_was_packed_unpacks_to_itself(records: list[bytes]) -> None:
    """Round trip, empty records included."""
    assert unpack(pack(records)) == records


@given(record_batches)
def test_packed_size_is_the_size_of_the_pack(records: list[bytes]) -> None:
    """Four bytes a record, four for the count, and the payloads."""
    assert packed_size(records) == len(pack(records))
    assert packed_size(records) == RECORD_OVERHEAD * (len(records) + 1) + sum(len(r) for r in records)


def test_a_full_block_of_empty_records_is_fine() -> None:
    """As many records as a block of the default size has room for."""
    records = [b""] * (256 * 1024 // 4 - 1)
    assert unpack(pack(records)) == records


@given(st.one_of(st.binary(max_size=200), corrupted(record_batches.map(pack))))
def test_arbitrary_bytes_unpack_or_are_a_violation(data: bytes) -> None:
    """A decoder fed anything raises nothing but RemoteProtocolError; what it accepts is canonical."""
    try:
        records = unpack(data)
    except RemoteProtocolError:
        return
    assert records
    assert pack(records) == data


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_a_block_too_short_for_a_count_is_refused(size: int) -> None:
    """The count itself takes four bytes."""
    assert refusal(bytes(size)) == ("record block length", size, "at least 4 bytes, the count")


@pytest.mark.parametrize("rest", [b"", b"\0" * 4, b"payload!"])
def test_a_count_of_zero_is_refused(rest: bytes) -> None:
    """A block of no records would be a message that says nothing."""
    field, value, bound = refusal(block(0, [], rest))
    assert (field, value) == ("record count", 0)
    assert bound.startswith("1 to ")
    assert f"in a block of {4 + len(rest)} bytes" in bound


@pytest.mark.parametrize("count", [2, 3, 4, 1 << 16, 1 << 30, (1 << 30) - 1, 1 << 31, MOST])
def test_a_count_the_block_has_no_room_for_is_refused(count: int) -> None:
    """Also one whose table of lengths would be 0 bytes when computed in 32 bits."""
    assert refusal(block(count, [3], b"abc")) == ("record count", count, "1 to 1 in a block of 11 bytes")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_table_cut_by_one_byte_is_refused(count: int) -> None:
    """The table of lengths must be whole."""
    data = block(count, [0] * count, b"")
    assert unpack(data) == [b""] * count
    field, value, bound = refusal(data[:-1])
    assert (field, value) == ("record count", count)
    assert f"in a block of {len(data) - 1} bytes" in bound


@pytest.mark.parametrize(
    ("lengths", "total"),
    [
        ([3, 3], 6),  # overruns by one
        ([5, 1], 6),
        ([6, 0], 6),
        ([0, 6], 6),
        ([2, 2], 4),  # leaves one over
        ([0, 0], 0),
        ([MOST, 0], MOST),
        ([MOST, 6], MOST + 6),  # 5 when added in 32 bits
        ([MOST, MOST], 2 * MOST),
        ([1 << 31, (1 << 31) + 5], (1 << 32) + 5),  # 5 as well
    ],
)
def test_lengths_that_do_not_fill_the_block_are_refused(lengths: list[int], total: int) -> None:
    """Overrun, bytes left over, or a sum that is right only modulo 2**32."""
    field, value, bound = refusal(block(2, lengths, b"abcde"))
    assert (field, value, bound) == ("sum of record lengths", total, "5, what the block holds")


def test_many_lengths_that_wrap_around_are_refused() -> None:
    """A long table can wrap more than once."""
    lengths = [MOST] * 1000 + [1000]  # 0 modulo 2**32
    assert refusal(block(1001, lengths, b""))[:2] == ("sum of record lengths", 1000 * MOST + 1000)


@given(record_batches, st.binary(min_size=1, max_size=9))
def test_trailing_bytes_are_refused(records: list[bytes], tail: bytes) -> None:
    """Bytes after the last record belong to nobody."""
    held = sum(len(record) for record in records)
    assert refusal(pack(records) + tail) == (
        "sum of record lengths",
        held,
        f"{held + len(tail)}, what the block holds",
    )


@given(record_batches)
def test_every_cut_of_a_block_is_refused(records: list[bytes]) -> None:
    """A block fed byte by byte is a violation until it is whole."""
    data = pack(records)
    for size in range(len(data)):
        refusal(data[:size])
