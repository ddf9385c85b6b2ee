# SPDX-License-Identifier: Apache-2.0
"""The segment: layout of DESIGN section 4, order of DESIGN section 5, and a header nobody has to believe."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.strategies import epochs, geometries, seqs, u32, u64

from sipc.errors import RemoteProtocolError
from sipc.proto.segment import MAGIC, Segment, header_size, segment_size, slot_offset
from sipc.spec import Geometry

HEADER = struct.Struct("<8sIIQQQQ")  # magic, header_size, slots, slot_size, epoch, sent, published
ENTRY = struct.Struct("<QQIIQ")  # seq, length, crc32, flags, reserved
EPOCH = 0x1122334455667788
GEOMETRY = Geometry(slots=3, depth=1, slot_size=5000)


def formatted(geometry: Geometry = GEOMETRY, epoch: int = EPOCH) -> tuple[bytearray, Segment]:
    """Make a segment over memory that was full of something else; returns memory and segment."""
    memory = bytearray(b"\xa5" * segment_size(geometry))
    segment = Segment(memoryview(memory), geometry)
    segment.format(geometry, epoch)
    return memory, segment


def refusal(act: Callable[[], object]) -> tuple[str, object, str]:
    """Do what must be refused; returns the error's field, value and bound."""
    with pytest.raises(RemoteProtocolError) as caught:
        act()
    return caught.value.field, caught.value.value, caught.value.bound


# -- layout


@pytest.mark.parametrize(
    ("slots", "slot_size", "header", "first", "size"),
    [
        (1, 1, 80, 4096, 2 * 4096),
        (1, 4096, 80, 4096, 2 * 4096),
        (1, 4097, 80, 4096, 3 * 4096),
        (3, 5000, 144, 4096, 7 * 4096),
        (4, 256 * 1024, 176, 4096, 4096 + 4 * 256 * 1024),
        (126, 1, 4080, 4096, 127 * 4096),
        (127, 1, 4112, 8192, 129 * 4096),  # the entries reach into a second page
        (254, 8192, 8176, 8192, 8192 + 254 * 8192),
    ],
)
def test_slots_start_at_a_page_and_are_padded_to_pages(
    slots: int, slot_size: int, header: int, first: int, size: int
) -> None:
    """48 bytes of header and 32 a slot, then each slot at a multiple of 4096."""
    geometry = Geometry(slots=slots, depth=1, slot_size=slot_size)
    assert header_size(slots) == header == HEADER.size + slots * ENTRY.size
    assert slot_offset(geometry, 0) == first
    assert segment_size(geometry) == size
    assert all(slot_offset(geometry, slot) % 4096 == 0 for slot in range(slots))


@given(geometries)
def test_no_two_slots_share_a_page(geometry: Geometry) -> None:
    """Slots lie behind the header, one after the other, inside the segment."""
    offsets = [slot_offset(geometry, slot) for slot in range(geometry.slots)]
    assert offsets[0] >= header_size(geometry.slots)
    ends = [*offsets[1:], segment_size(geometry)]
    assert all(
        at + geometry.slot_size <= end < at + geometry.slot_size + 4096
        for at, end in zip(offsets, ends, strict=True)
    )


def test_a_new_segment_is_these_bytes() -> None:
    """Magic, header size, slots, slot size, epoch; nothing sent, nothing published, all entries cleared."""
    memory, _ = formatted()
    assert memory[:48] == bytes.fromhex(
        "5349504353454732 90000000 03000000 8813000000000000 8877665544332211"
        "0000000000000000 0000000000000000"
    )
    assert HEADER.unpack_from(memory) == (MAGIC, 144, 3, 5000, EPOCH, 0, 0)
    assert [ENTRY.unpack_from(memory, 48 + 32 * slot) for slot in range(3)] == [(0, 0, 0, 0, 0)] * 3


def test_every_field_is_at_its_offset() -> None:
    """`sent` at 32, `published` at 40, entry n at 48 + 32 n, slot data at the slot's page."""
    memory, segment = formatted()
    segment.sent = 0x0102030405060708
    segment.published = 0x1112131415161718
    segment.commit(1, 0x2122232425262728, 0x3132333435363738, 0x41424344, 0x51525354)
    segment.slots[2][:3] = b"xyz"
    segment.slots[2][4999] = 0x7A
    assert struct.unpack_from("<QQ", memory, 32) == (0x0102030405060708, 0x1112131415161718)
    assert ENTRY.unpack_from(memory, 48 + 32) == (
        0x2122232425262728,
        0x3132333435363738,
        0x41424344,
        0x51525354,
        0,
    )
    assert memory[80:112] == bytes.fromhex(
        "2827262524232221 3837363534333231 44434241 54535251 0000000000000000"
    )
    assert memory[4096 + 2 * 8192 : 4096 + 2 * 8192 + 4] == b"xyz\0"
    assert memory[4096 + 2 * 8192 + 4999] == 0x7A
    assert (segment.sent, segment.published) == (0x0102030405060708, 0x1112131415161718)
    assert [len(slot) for slot in segment.slots] == [5000] * 3


@given(geometries, epochs)
def test_format_writes_every_byte(geometry: Geometry, epoch: int) -> None:
    """A page nobody wrote is a hole, which the receiver could fill, and the sender see (DESIGN 6)."""
    memory, segment = formatted(geometry, epoch)
    header = HEADER.pack(MAGIC, header_size(geometry.slots), geometry.slots, geometry.slot_size, epoch, 0, 0)
    assert memory[: HEADER.size] == header
    assert memory.count(0, HEADER.size) == len(memory) - HEADER.size
    segment.check(geometry, epoch)


@pytest.mark.parametrize("slot_size", [(1 << 20) - 4096, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_format_writes_every_byte_of_a_large_segment(slot_size: int) -> None:
    """Also where it takes more than one stretch of zeros, of which the last may be short."""
    memory, _ = formatted(Geometry(slots=1, depth=1, slot_size=slot_size))
    assert memory.count(0, HEADER.size) == len(memory) - HEADER.size


def test_bytes_behind_the_segment_are_not_touched() -> None:
    """The kernel rounds a segment up; what is behind ours is not ours."""
    memory = bytearray(b"\xa5" * (segment_size(GEOMETRY) + 4096))
    Segment(memoryview(memory), GEOMETRY).format(GEOMETRY, EPOCH)
    assert memory[segment_size(GEOMETRY) :] == b"\xa5" * 4096


@pytest.mark.parametrize("missing", [1, 4096, segment_size(GEOMETRY)])
def test_a_view_too_small_for_the_geometry_is_refused(missing: int) -> None:
    """The descriptor says how large it must be; with less, slots would not be where they must be."""
    size = segment_size(GEOMETRY)
    view = memoryview(bytearray(size - missing))
    field, value, bound = refusal(lambda: Segment(view, GEOMETRY))
    assert (field, value, bound) == (
        "segment size",
        size - missing,
        f"at least {size} bytes for this geometry",
    )


# -- entries


@given(st.integers(0, 2), seqs, u64, u32, u32)
def test_an_entry_reads_back_as_committed(slot: int, seq: int, length: int, crc: int, flags: int) -> None:
    """Round trip, and the other slots keep theirs."""
    _, segment = formatted()
    segment.commit(slot, seq, length, crc, flags)
    assert segment.entry(slot) == (seq, length, crc, flags)
    assert segment.seq(slot) == seq
    assert segment.seqs() == [seq if at == slot else 0 for at in range(3)]
    segment.clear(slot)
    assert segment.seqs() == [0, 0, 0]
    assert segment.entry(slot) == (0, length, crc, flags)


class Recorder(list[int]):
    """Header words that remember in which order they were stored."""

    def __init__(self, words: list[int]) -> None:
        super().__init__(words)
        self.stored: list[int] = []

    def __setitem__(self, index: object, value: object) -> None:
        assert isinstance(index, int)
        assert isinstance(value, int)
        self.stored.append(index)
        super().__setitem__(index, value)


def test_the_seq_is_the_last_word_of_a_commit() -> None:
    """Its store is the commit: whoever sees the seq sees the entry (DESIGN 5)."""
    _, segment = formatted()
    words = Recorder(segment.words.tolist())
    segment.words = cast("memoryview[int]", words)
    segment.commit(1, 7, 100, 0xABCD, 2)
    assert words.stored[-1] == 6 + 4
    assert sorted(words.stored) == [10, 11, 12]
    assert segment.entry(1) == (7, 100, 0xABCD, 2)


def test_clearing_an_entry_is_one_store() -> None:
    """A cleared entry is one whose seq is 0, whatever the rest says."""
    _, segment = formatted()
    words = Recorder(segment.words.tolist())
    segment.words = cast("memoryview[int]", words)
    segment.clear(2)
    assert words.stored == [6 + 2 * 4]


def test_the_magic_is_written_last() -> None:
    """A helper that died half way leaves a segment that nobody accepts."""
    _, segment = formatted()
    words = Recorder(segment.words.tolist())
    segment.words = cast("memoryview[int]", words)
    segment.format(GEOMETRY, EPOCH)
    assert words.stored[-1] == 0
    assert words.stored.count(0) == 1


def test_numbers_are_stored_as_whole_words() -> None:
    """An aligned 8-byte item is copied by one move; a number stored bytewise could be left half written."""
    _, segment = formatted()
    assert (segment.words.format, segment.words.itemsize, segment.words.contiguous) == ("Q", 8, True)


# -- a hostile segment


@pytest.mark.parametrize(
    ("offset", "field", "expected"),
    [
        (0, "magic", int.from_bytes(MAGIC, "little")),
        (7, "magic", int.from_bytes(MAGIC, "little")),
        (8, "header_size and slots", 144 | 3 << 32),
        (12, "header_size and slots", 144 | 3 << 32),
        (16, "slot_size", 5000),
        (23, "slot_size", 5000),
        (24, "segment epoch", EPOCH),
        (31, "segment epoch", EPOCH),
    ],
)
@pytest.mark.parametrize("bit", [1, 0x80])
def test_a_header_that_contradicts_the_descriptor_is_refused(
    offset: int, bit: int, field: str, expected: int
) -> None:
    """The sender can write here: the descriptor is believed, and a difference is a violation."""
    memory, segment = formatted()
    segment.check(GEOMETRY, EPOCH)
    memory[offset] ^= bit
    word = int.from_bytes(memory[offset // 8 * 8 : offset // 8 * 8 + 8], "little")
    assert refusal(lambda: segment.check(GEOMETRY, EPOCH)) == (
        field,
        word,
        f"{expected}, as the descriptor says",
    )


@pytest.mark.parametrize(
    ("geometry", "epoch", "field"),
    [
        (Geometry(slots=2, depth=1, slot_size=5000), EPOCH, "header_size and slots"),
        (Geometry(slots=3, depth=1, slot_size=4999), EPOCH, "slot_size"),
        (GEOMETRY, EPOCH + 1, "segment epoch"),
    ],
)
def test_a_segment_of_another_channel_is_refused(geometry: Geometry, epoch: int, field: str) -> None:
    """Slots, slot size and epoch must be those of the descriptor."""
    memory, _ = formatted()
    assert refusal(lambda: Segment(memoryview(memory), geometry).check(geometry, epoch))[0] == field


def test_sent_and_published_are_not_judged() -> None:
    """They are the sender's own notes; the receiver uses neither."""
    memory, segment = formatted()
    memory[32:48] = b"\xff" * 16
    segment.check(GEOMETRY, EPOCH)


@pytest.mark.parametrize("slot", range(3))
@pytest.mark.parametrize("byte", range(8))
def test_a_reserved_word_that_is_not_zero_is_refused(slot: int, byte: int) -> None:
    """Every byte of it, in every entry; and only that entry is refused."""
    memory, segment = formatted()
    memory[48 + 32 * slot + 24 + byte] = 0x80
    assert refusal(lambda: segment.entry(slot)) == ("entry reserved word", 0x80 << 8 * byte, "0")
    assert all(segment.entry(other) == (0, 0, 0, 0) for other in range(3) if other != slot)


@given(st.binary(min_size=144, max_size=144))
def test_an_arbitrary_header_is_read_or_is_a_violation(header: bytes) -> None:
    """Nothing in the segment makes reading it raise anything but RemoteProtocolError."""
    memory = bytearray(segment_size(GEOMETRY))
    memory[:144] = header
    segment = Segment(memoryview(memory).toreadonly(), GEOMETRY)
    if header[:32] != HEADER.pack(MAGIC, 144, 3, 5000, EPOCH, 0, 0)[:32]:
        refusal(lambda: segment.check(GEOMETRY, EPOCH))
    for slot in range(3):
        *entry, reserved = ENTRY.unpack_from(header, 48 + 32 * slot)
        if reserved:
            assert refusal(partial(segment.entry, slot)) == ("entry reserved word", reserved, "0")
        else:
            assert segment.entry(slot) == tuple(entry)
        assert segment.seq(slot) == entry[0]
    assert segment.seqs() == [segment.seq(slot) for slot in range(3)]
    assert (segment.sent, segment.published) == HEADER.unpack_from(header)[5:]


# -- views


def _store_sent(segment: Segment) -> None:
    segment.sent = 1


def _store_published(segment: Segment) -> None:
    segment.published = 1


def _store_data(segment: Segment) -> None:
    segment.slots[0][0] = 1


STORES: dict[str, Callable[[Segment], object]] = {
    "sent": _store_sent,
    "published": _store_published,
    "data": _store_data,
    "clear": lambda segment: segment.clear(0),
    "commit": lambda segment: segment.commit(0, 1, 1, 0, 0),
    "format": lambda segment: segment.format(GEOMETRY, EPOCH),
}
LOADS: dict[str, Callable[[Segment], object]] = {
    "sent": lambda segment: segment.sent,
    "published": lambda segment: segment.published,
    "data": lambda segment: segment.slots[0][0],
    "bytes of a slot": lambda segment: bytes(segment.slots[2]),
    "seq": lambda segment: segment.seq(0),
    "seqs": lambda segment: segment.seqs(),
    "entry": lambda segment: segment.entry(0),
    "check": lambda segment: segment.check(GEOMETRY, EPOCH),
}


@pytest.mark.parametrize("store", STORES)
def test_a_store_through_a_read_only_view_is_a_type_error(store: str) -> None:
    """Through a read-only attach it would be SIGSEGV; the view stops it (DESIGN 6)."""
    memory, _ = formatted()
    before = bytes(memory)
    segment = Segment(memoryview(memory).toreadonly(), GEOMETRY)
    with pytest.raises(TypeError, match="read-only"):
        STORES[store](segment)
    assert bytes(memory) == before


@pytest.mark.parametrize("load", LOADS)
def test_a_read_only_view_can_be_read(load: str) -> None:
    """The receiver needs nothing else."""
    memory, _ = formatted()
    LOADS[load](Segment(memoryview(memory).toreadonly(), GEOMETRY))


@pytest.mark.parametrize(
    "use", [*LOADS.values(), *STORES.values()], ids=[*LOADS, *(f"store {s}" for s in STORES)]
)
def test_nothing_works_after_release(use: Callable[[Segment], object]) -> None:
    """A view must not outlive the attach: using one afterwards is ValueError, not SIGSEGV."""
    memory, segment = formatted()
    use(segment)
    segment.release()
    before = bytes(memory)
    with pytest.raises(ValueError, match="released memoryview"):
        use(segment)
    assert bytes(memory) == before


def test_release_makes_views_taken_before_unusable() -> None:
    """Also those a caller kept."""
    _, segment = formatted()
    kept = list(segment.slots)
    segment.release()
    for view in kept:
        with pytest.raises(ValueError, match="released memoryview"):
            view[0]


def test_release_lets_go_of_the_memory() -> None:
    """Afterwards the owner can detach or resize; until then a buffer is exported."""
    memory = bytearray(segment_size(GEOMETRY))
    view = memoryview(memory)
    segment = Segment(view, GEOMETRY)
    segment.release()
    view.release()
    memory.append(0)


def test_release_twice_is_harmless() -> None:
    """A second release, after an error path took the first, does nothing."""
    _, segment = formatted()
    segment.release()
    segment.release()
