# SPDX-License-Identifier: Apache-2.0
"""Control messages: the 32 bytes of DESIGN section 4, and every way they can be wrong."""

from __future__ import annotations

import dataclasses
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.strategies import CLOSE_FLAGS, DATA_FLAGS, control_messages, epochs, hostile_bytes, u32

from sipc.errors import LocalProtocolError, RemoteProtocolError
from sipc.proto import control
from sipc.proto.control import CONTROL_SIZE, ControlMessage, Flag, Kind

EPOCH = 0x1122334455667788
LAYOUT = struct.Struct("<BBHIQQQ")  # version, kind, slot, flags, epoch, seq, length
DATA, NOOP, CLOSE = 1, 2, 3


def raw(
    kind: int,
    *,
    version: int = 2,
    slot: int = 0,
    flags: int = 0,
    epoch: int = EPOCH,
    seq: int = 0,
    length: int = 0,
) -> bytes:
    """Pack a control message that may say anything."""
    return LAYOUT.pack(version, kind, slot, flags, epoch, seq, length)


def refusal(data: bytes, epoch: int = EPOCH) -> tuple[str, object, str]:
    """Decode what must be refused; returns the error's field, value and bound."""
    with pytest.raises(RemoteProtocolError) as caught:
        control.decode(data, epoch)
    return caught.value.field, caught.value.value, caught.value.bound


def test_a_data_ready_message_is_these_32_bytes() -> None:
    """Version, kind, u16 slot, u32 flags, u64 epoch, u64 seq, u64 length; little-endian, no padding."""
    message = ControlMessage(
        kind=Kind.DATA_READY,
        slot=0x0102,
        flags=Flag.MORE | Flag.CONTINUED,
        epoch=0x0807060504030201,
        seq=0x1817161514131211,
        length=0x2827262524232221,
    )
    golden = bytes.fromhex("02 01 0201 11000000 0102030405060708 1112131415161718 2122232425262728")
    assert message.encode() == golden
    assert len(golden) == CONTROL_SIZE == 32
    assert control.decode(golden, message.epoch) == (1, 0x0102, 17, message.seq, message.length)


def test_a_noop_is_zero_but_for_version_kind_and_epoch() -> None:
    """NOOP carries nothing."""
    golden = bytes.fromhex("02 02 0000 00000000 8877665544332211 0000000000000000 0000000000000000")
    assert ControlMessage(kind=Kind.NOOP, epoch=EPOCH).encode() == golden
    assert control.decode(golden, EPOCH) == (2, 0, 0, 0, 0)


def test_a_close_is_an_empty_block_with_a_seq() -> None:
    """CLOSE takes part in the numbering and carries no bytes."""
    golden = bytes.fromhex("02 03 0300 09000000 8877665544332211 0400000000000000 0000000000000000")
    message = ControlMessage(kind=Kind.CLOSE, slot=3, flags=Flag.CLOSE | Flag.MORE, epoch=EPOCH, seq=4)
    assert message.encode() == golden
    assert control.decode(golden, EPOCH) == (3, 3, 9, 4, 0)


def test_kinds_and_flags_have_their_wire_numbers() -> None:
    """Numbers on the wire never change."""
    assert {kind.name: int(kind) for kind in Kind} == {"DATA_READY": 1, "NOOP": 2, "CLOSE": 3}
    assert {flag.name: int(flag) for flag in Flag} == {
        "MORE": 1,
        "RECORDS": 2,
        "RESTART": 4,
        "CLOSE": 8,
        "CONTINUED": 16,
    }


@given(control_messages)
def test_what_was_encoded_decodes_to_itself(message: ControlMessage) -> None:
    """Round trip of every valid message, as a value and as a tuple, from bytes and from a view."""
    data = message.encode()
    assert len(data) == CONTROL_SIZE
    assert ControlMessage.decode(data, epoch=message.epoch) == message
    fields = (message.kind, message.slot, message.flags, message.seq, message.length)
    assert control.decode(data, message.epoch) == fields
    assert control.decode(memoryview(data), message.epoch) == fields


@given(hostile_bytes, epochs)
def test_arbitrary_bytes_decode_or_are_a_violation(data: bytes, epoch: int) -> None:
    """A decoder fed anything raises nothing but RemoteProtocolError; what it accepts is canonical."""
    if len(data) >= 16:
        epoch = int.from_bytes(data[8:16], "little")  # else the epoch hides all that comes after it
    try:
        message = ControlMessage.decode(data, epoch=epoch)
    except RemoteProtocolError:
        return
    assert message.encode() == data


@pytest.mark.parametrize("size", [size for size in range(100) if size != 32])
def test_any_other_size_is_refused(size: int) -> None:
    """Empty, cut anywhere, or with trailing bytes: a message is exactly 32 bytes."""
    data = (raw(DATA, seq=1) * 4)[:size]
    assert refusal(data) == ("message size", size, "32 bytes")


@pytest.mark.parametrize("version", [0, 1, 3, 255])
@pytest.mark.parametrize("kind", [DATA, NOOP, CLOSE])
def test_another_version_is_refused(version: int, kind: int) -> None:
    """There is one version on this wire."""
    assert refusal(raw(kind, version=version, seq=1)) == ("version", version, "2")


@pytest.mark.parametrize("kind", [0, 4, 5, 9, 12, 255])
def test_an_unknown_kind_is_refused(kind: int) -> None:
    """Kinds of the libsipc wire are unknown here too."""
    field, value, bound = refusal(raw(kind, seq=1))
    assert (field, value) == ("kind", kind)
    assert bound == "1 (DATA_READY), 2 (NOOP) or 3 (CLOSE)"


@pytest.mark.parametrize("kind", [DATA, NOOP, CLOSE])
@pytest.mark.parametrize("epoch", [0, EPOCH - 1, EPOCH + 1, EPOCH ^ (1 << 63), (1 << 64) - 1])
def test_a_message_of_another_epoch_is_refused(kind: int, epoch: int) -> None:
    """A message of an earlier creation of the channel says nothing about this one."""
    field, value, bound = refusal(raw(kind, epoch=epoch, seq=1, flags=8 if kind == CLOSE else 0))
    assert (field, value) == ("epoch", epoch)
    assert str(EPOCH) in bound


@pytest.mark.parametrize("flags", range(32))
@pytest.mark.parametrize(("kind", "meaningful"), [(DATA, DATA_FLAGS), (CLOSE, CLOSE_FLAGS)])
def test_only_meaningful_flag_combinations_are_accepted(
    kind: int, meaningful: tuple[Flag, ...], flags: int
) -> None:
    """RECORDS stands alone or with RESTART; CONTINUED begins nothing; CLOSE is for CLOSE, and for it only."""
    data = raw(kind, flags=flags, seq=7)
    if flags in meaningful:
        assert control.decode(data, EPOCH) == (kind, 0, flags, 7, 0)
    else:
        field, value, _ = refusal(data)
        assert (field, value) == ("flags", flags)


@pytest.mark.parametrize(
    ("kind", "flags", "bound"),
    [
        (DATA, Flag.CLOSE, "without CLOSE in a DATA_READY message"),
        (CLOSE, Flag.NONE, "with CLOSE in a CLOSE message"),
        (CLOSE, Flag.RESTART | Flag.MORE, "with CLOSE in a CLOSE message"),
        (DATA, Flag.RECORDS | Flag.MORE, "RECORDS without MORE, CLOSE or CONTINUED"),
        (DATA, Flag.RECORDS | Flag.CONTINUED, "RECORDS without MORE, CLOSE or CONTINUED"),
        (CLOSE, Flag.RECORDS | Flag.CLOSE, "RECORDS without MORE, CLOSE or CONTINUED"),
        (DATA, Flag.CONTINUED | Flag.RESTART, "CONTINUED without CLOSE or RESTART"),
        (CLOSE, Flag.CONTINUED | Flag.CLOSE, "CONTINUED without CLOSE or RESTART"),
    ],
)
def test_a_refused_combination_names_what_would_do(kind: int, flags: Flag, bound: str) -> None:
    """The bound says which combination would have been accepted."""
    assert refusal(raw(kind, flags=flags, seq=1)) == ("flags", int(flags), bound)


@pytest.mark.parametrize("bit", range(5, 32))
@pytest.mark.parametrize(("kind", "base"), [(DATA, 0), (DATA, 1), (CLOSE, 8)])
def test_every_reserved_flag_bit_is_refused(kind: int, base: int, bit: int) -> None:
    """Reserved bits are zero until they mean something."""
    flags = base | 1 << bit
    assert refusal(raw(kind, flags=flags, seq=1)) == (
        "flags",
        flags,
        "within 0x1f; the other bits are reserved",
    )


@given(u32.filter(lambda flags: flags not in DATA_FLAGS))
def test_no_other_flag_word_passes_as_data(flags: int) -> None:
    """All 2**32 flag words but the eight meaningful ones are violations."""
    assert refusal(raw(DATA, flags=flags, seq=1))[:2] == ("flags", flags)


@pytest.mark.parametrize(
    ("slot", "flags", "seq", "length"),
    [
        (1, 0, 0, 0),
        (0xFFFF, 0, 0, 0),
        (0, 1, 0, 0),
        (0, 1 << 31, 0, 0),
        (0, 0, 1, 0),
        (0, 0, 0, 1),
        (1, 2, 3, 4),
    ],
)
def test_a_noop_that_says_anything_is_refused(slot: int, flags: int, seq: int, length: int) -> None:
    """A NOOP's other fields would be a place to hide data in."""
    data = raw(NOOP, slot=slot, flags=flags, seq=seq, length=length)
    assert refusal(data) == ("NOOP fields", (slot, flags, seq, length), "all zero")


@pytest.mark.parametrize(("kind", "flags"), [(DATA, 0), (DATA, 16), (CLOSE, 8)])
def test_block_zero_does_not_exist(kind: int, flags: int) -> None:
    """Blocks count from 1; 0 is what a cleared entry holds."""
    assert refusal(raw(kind, flags=flags, seq=0)) == ("seq", 0, "at least 1")


@pytest.mark.parametrize("length", [1, 4096, (1 << 64) - 1])
def test_a_close_with_a_length_is_refused(length: int) -> None:
    """The last block of a stream is empty."""
    assert refusal(raw(CLOSE, flags=8, seq=1, length=length)) == ("length", length, "0 in a CLOSE message")


def test_a_refusal_blames_the_sender_and_names_the_value() -> None:
    """The message of a violation says what came and what would have been accepted."""
    with pytest.raises(RemoteProtocolError, match=r"sender broke the protocol: kind is 77, which must be 1 "):
        control.decode(raw(77), EPOCH)


@pytest.mark.parametrize(
    "change",
    [
        {"slot": -1},
        {"slot": 1 << 16},
        {"epoch": -1},
        {"epoch": 1 << 64},
        {"seq": -1},
        {"seq": 1 << 64},
        {"length": -1},
        {"length": 1 << 64},
    ],
)
def test_a_message_with_a_field_that_does_not_fit_can_not_be_made(change: dict[str, int]) -> None:
    """A value is checked when it is made, and then it is our own fault."""
    fields = {"slot": 0, "epoch": EPOCH, "seq": 1, "length": 0} | change
    with pytest.raises(LocalProtocolError, match="out of range"):
        ControlMessage(
            kind=Kind.DATA_READY,
            slot=fields["slot"],
            epoch=fields["epoch"],
            seq=fields["seq"],
            length=fields["length"],
        )


def test_a_message_is_a_frozen_value() -> None:
    """Equal fields make equal messages, and nothing can be assigned."""
    one, other = (ControlMessage(kind=Kind.NOOP, epoch=EPOCH) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.seq = 3  # type: ignore[misc]


@given(control_messages, st.integers(0, (1 << 64) - 1))
def test_the_epoch_is_compared_and_not_read_from_the_message(message: ControlMessage, epoch: int) -> None:
    """The receiver's epoch comes from the descriptor."""
    if epoch == message.epoch:
        assert ControlMessage.decode(message.encode(), epoch=epoch) == message
    else:
        assert refusal(message.encode(), epoch)[:2] == ("epoch", message.epoch)
